"""One request as a tree of its steps: when, which model, what it cost, how it ended.

Everything recorded is hostile: it is shown as plain text without control characters, never as markup.
"""

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import polars as pl
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from qbawa.errors import InputError
from qbawa.storage.lake import Lake
from qbawa.text import printable, shorten

MAX_DEPTH = 30
"""Steps nested deeper are shown at this depth."""
_COLUMNS = [
    "request_id", "recording_id", "parent_id", "pipeline", "step", "output", "model", "input_tokens", "output_tokens",
    "cost_usd", "latency_s", "error", "tags", "user", "recorded_at",
]  # fmt: skip


@dataclass(frozen=True)
class StepNode:
    """One execution of a step with the executions inside it, in the order in which they began."""

    row: Mapping[str, Any]
    """Its row of `recordings`."""
    children: list["StepNode"] = field(default_factory=list)

    def walk(self) -> Iterator["StepNode"]:
        """This node and all below it."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))


@dataclass(frozen=True)
class RequestTree:
    request_id: str
    steps: list[StepNode]
    """Those without a recorded parent, in the order in which they began."""
    feedback: pl.DataFrame

    @property
    def cost_usd(self) -> float:
        """What all steps together cost. A step's cost is that of its own model call, so nothing counts twice."""
        return sum(node.row["cost_usd"] or 0.0 for root in self.steps for node in root.walk())


def load_request(lake: Lake, request_id: str) -> RequestTree:
    """The steps of a request. Raises InputError where none was recorded."""
    own = pl.col("request_id") == request_id
    rows = lake.read("recordings", _COLUMNS, keep=own).sort("recorded_at", "recording_id")
    if rows.is_empty():
        raise InputError(
            f"No step of a request '{printable(request_id)}' has been recorded and ingested. "
            'qbawa sql "SELECT DISTINCT request_id FROM recordings" lists those that have.'
        )
    nodes = {row["recording_id"]: StepNode(row) for row in rows.iter_rows(named=True)}
    roots = []
    for identity, node in nodes.items():
        parent = nodes.get(node.row["parent_id"])
        if parent is None or _is_circle(identity, nodes):
            roots.append(node)
        else:
            parent.children.append(node)
    return RequestTree(request_id, roots, lake.read("feedback", keep=own).sort("given_at"))


def request_tree(lake: Lake, request_id: str, *, width: int = 110) -> str:
    """The tree as plain text; see `draw`."""
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None, force_terminal=False).print(
        draw(load_request(lake, request_id))
    )
    return buffer.getvalue()


def draw(request: RequestTree) -> Tree:
    """The request for a rich console: a line a step with start, duration, model, tokens, cost and outcome."""
    began = min(root.row["recorded_at"] for root in request.steps)
    tree = Tree(_headline(request, began), guide_style="dim")
    waiting = [(tree, root, 1) for root in reversed(request.steps)]
    while waiting:
        above, node, depth = waiting.pop()
        branch = above.add(_line(node, began))
        inside = above if depth >= MAX_DEPTH else branch
        waiting.extend((inside, child, depth + 1) for child in reversed(node.children))
    for score, comment in request.feedback.select("score", "comment").iter_rows():
        said = f": {shorten(comment, 80)}" if comment else ""
        tree.add(Text(f"feedback {'' if score is None else f'{score:g}'}{said}", "yellow"))
    return tree


def _headline(request: RequestTree, began: datetime) -> Text:
    first = request.steps[0].row
    steps = Counter(node.row["error"] is not None for root in request.steps for node in root.walk())
    parts = [
        shorten(first["pipeline"] or "", 40),
        f"{began:%Y-%m-%d %H:%M:%S} UTC",
        f"{steps.total()} steps" if steps.total() > 1 else "1 step",
        _dollars(request.cost_usd)
        if any(n.row["cost_usd"] is not None for r in request.steps for n in r.walk())
        else "",
        f"{steps[True]} failed" if steps[True] else "",
        f"user {shorten(first['user'], 40)}" if first["user"] else "",
        _tags(first["tags"]),
    ]
    return Text(shorten(request.request_id, 80), "bold").append("  " + " · ".join(p for p in parts if p), "not bold")


def _line(node: StepNode, began: datetime) -> Text:
    row = node.row
    text = Text(shorten(row["step"] or "?", 60), "bold")
    tokens = f"{row['input_tokens'] or 0:,} → {row['output_tokens'] or 0:,} tokens"
    parts = [
        f"+{(row['recorded_at'] - began).total_seconds():.3f} s",
        "" if row["latency_s"] is None else f"{row['latency_s']:.3f} s",
        shorten(row["model"] or "", 50),
        tokens if row["input_tokens"] is not None or row["output_tokens"] is not None else "",
        "" if row["cost_usd"] is None else _dollars(row["cost_usd"]),
    ]
    text.append("  " + " · ".join(part for part in parts if part), "not bold")
    if row["error"] is not None:
        return text.append("  ✗ " + _error(row["error"]), "not bold red")
    return text.append("  ✓ ", "not bold green").append(shorten(row["output"] or "", 100), "not bold dim")


def _error(text: str) -> str:
    try:
        error = json.loads(text)
        return shorten(f"{error['type']}: {error['message']}", 160)
    except (ValueError, KeyError, TypeError, RecursionError):
        return shorten(text, 160)


def _tags(text: str | None) -> str:
    try:
        tags = json.loads(text or "{}")
        return shorten(", ".join(f"{key}={value}" for key, value in tags.items()), 80)
    except (ValueError, AttributeError, RecursionError):
        return ""


def _dollars(amount: float) -> str:
    return f"${amount:.4f}" if amount < 1 else f"${amount:,.2f}"


def _is_circle(identity: str, nodes: Mapping[str, StepNode]) -> bool:
    """Whether the step is its own ancestor, as only a forged recording can say."""
    above, seen = nodes[identity].row["parent_id"], set()
    while above in nodes and above not in seen:
        if above == identity:
            return True
        seen.add(above)
        above = nodes[above].row["parent_id"]
    return False
