"""Remove a user's request from everything: journals, lake, and what was derived from it.

A person's right to be forgotten outweighs reproducibility: time travel of the tables concerned ends here. What lies outside the
home (exports that were handed on, files that were imported, back-ups) cannot be reached; the report names the exports.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from qbawa.datasets.exports.manifest import LINEAGE, read_manifest
from qbawa.engine.ledger.to_lake import delete_loaded, load_calls
from qbawa.errors import BusyError, InputError
from qbawa.ingest.batch_index import Segment
from qbawa.ingest.batches import PACKED, segments_rewritten
from qbawa.ingest.journal_retention import put_aside
from qbawa.ingest.line_reader import open_bytes
from qbawa.project import Home
from qbawa.storage.files import write_atomically
from qbawa.storage.journal import CLOSED, adopt_orphans, all_segments, read_lines
from qbawa.storage.lake import Lake
from qbawa.storage.sql import sql_literal

Json = Any
# Shorter texts ("yes", a name of a colour) say nothing about whose they are.
_TELLING = 24
_BY_REQUEST = ("recordings", "feedback", "replay_set", "replay_matrix", "matches", "verdicts", "qbawa")


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """What `forget` did."""

    request_id: str
    rows: dict[str, int]
    """Rows removed, by table."""
    journal_lines: int
    """Lines cut out of journal segments."""
    reassigned_calls: int
    """Calls of this request that another one asked word for word: they stay, under the other's name."""
    strategies: list[str]
    """Strategies that carried its text (as an example, say): retired, their templates erased."""
    stale_steps: list[str]
    """Steps whose ratings, pairs and judge reliability must be built again, unless `rebuild` has done it."""
    datasets: list[str]
    """Folders of exported dataset versions that still hold it. Delete them, and tell whoever has copies."""
    files: list[str]
    """Other files of the home that mention it, such as tables of people's verdicts."""


def forget(
    lake: Lake,
    home: Home,
    request_id: str,
    *,
    journals: Sequence[Path] | None = None,
    rebuild: Callable[[list[str]], object] | None = None,
) -> ForgetReport:
    """Remove a request from the journals (default: the home's) and the lake, dead Parquet files included.

    `rebuild` is called with the stale steps before old files are deleted, so that nothing of the old pairs stays either.
    Raises InputError where nothing holds the request, BusyError where a running process is just writing it.
    """
    journals = [home.journal] if journals is None else list(journals)
    needle = _json_bytes(request_id)
    for folder in (*journals, home.calls):
        if folder.is_dir():
            adopt_orphans(folder)
            _refuse_growing(folder, needle, request_id)
    if home.calls.is_dir():
        load_calls(lake, home.calls)
        # A loaded segment stays for a day, for runs under way; its calls are in the lake, where they can be cut out.
        delete_loaded(home.calls, older_than_s=0)
    exports = sorted(map(str, _holding(home.exports, request_id)))
    noted = lake.read("datasets", keep=pl.col("request_ids").list.contains(request_id))
    lines = sum(_cut(folder, journals[0], request_id, needle) for folder in journals if folder.is_dir())
    telling = _telling_texts(lake, request_id)
    stale = _stale_steps(lake, request_id)
    rows: dict[str, int] = {}
    reassigned, rows["calls"] = _forget_calls(lake, request_id, telling)
    strategies = _retire_strategies(lake, telling)
    for table in _BY_REQUEST:
        rows[table] = lake.delete(table, f"request_id = {sql_literal(request_id)}")
    rows["quarantine"] = _forget_raw_lines(lake, request_id, telling)
    _forget_note(lake, noted, request_id)
    rows = {table: n for table, n in rows.items() if n}
    held = sorted({*exports, *(str(path) for path in map(home.whole_path, noted["path"]) if path.exists())})
    files = _mentions(home.root / "human_verdicts", request_id)
    if not (rows or lines or held or files or strategies):
        raise InputError(
            f"Nothing holds the request '{request_id}'. `qbawa sql` lists requests: SELECT DISTINCT request_id FROM recordings."
        )
    if rebuild is not None and stale:
        rebuild(stale)
    for table in lake.versions():
        lake.purge(table)
    return ForgetReport(request_id, rows, lines, reassigned, strategies, stale, held, files)


def _refuse_growing(folder: Path, needle: bytes, request_id: str) -> None:
    for segment in all_segments(folder):
        if segment.suffix != CLOSED and any(needle in line for line in read_lines(segment)):
            raise BusyError(
                f"A running process is still writing {segment}, which holds the request '{request_id}'. Segments close "
                "after a minute; try again then, or stop the process first."
            )


def _cut(folder: Path, manifests: Path, request_id: str, needle: bytes) -> int:
    """Rewrite a folder's closed segments, those put aside too, without the request's lines; how many lines went.

    The batches, kept in the journal `manifests`, follow, or changed segments would look new and be ingested once more.
    """
    cut, changed = 0, {}
    for segment in (*all_segments(folder), *put_aside(folder)):
        if segment.suffix not in (CLOSED, PACKED):
            continue
        with open_bytes(segment) as file:
            lines = file.read().splitlines(keepends=True)
        kept = [line for line in lines if needle not in line or not _is_about(line.rstrip(b"\n"), request_id)]
        if len(kept) == len(lines):
            continue
        cut += len(lines) - len(kept)
        data = b"".join(kept)
        write_atomically(segment, gzip.compress(data) if segment.suffix == PACKED else data)
        path = segment.resolve()
        changed[path] = Segment(path, len(data), segment.stat().st_mtime_ns, hashlib.sha256(data).hexdigest())
    segments_rewritten(manifests, changed)
    return cut


def _is_about(line: bytes, request_id: str) -> bool:
    """Whether a line that mentions the request is the request's own; a line that cannot be read counts as its own."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return True
    owner = value.get("request_id") if isinstance(value, dict) else None
    return owner == request_id or not isinstance(owner, str)


def _telling_texts(lake: Lake, request_id: str) -> list[str]:
    """Texts of the request (inputs, messages, outputs, answers) that no other request has: what must not be found again."""
    own = pl.col("request_id") == request_id
    columns = ["inputs", "messages", "output"]
    texts = {
        text for row in lake.read("recordings", columns, keep=own).rows() for cell in row for text in _leaves(cell)
    }
    texts |= {text for answer in lake.read("replay_matrix", ["answer"], keep=own)["answer"] for text in _leaves(answer)}
    telling = sorted(text for text in texts if len(text) >= _TELLING)
    if not telling:
        return []
    others = (
        pl.concat(
            [
                lake.read("recordings", columns, keep=~own).unpivot().select("value"),
                lake.read("replay_matrix", ["answer"], keep=~own).select(value="answer"),
            ]
        )["value"]
        .drop_nulls()
        .unique()
    )
    # A system prompt, a stock answer: everybody's, so nobody's.
    common = {text for text in telling if others.str.contains(_escaped(text), literal=True).any()}
    return [text for text in telling if text not in common]


def _leaves(text: str | None) -> Iterator[str]:
    """The strings in a JSON text, or the text itself."""
    if not text:
        return
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = text
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _holds(columns: Sequence[str], telling: Sequence[str]) -> pl.Expr:
    """Whether one of the columns (text or JSON) contains one of the texts."""
    patterns = sorted({*telling, *map(_escaped, telling)})
    if not patterns:
        return pl.lit(False)
    return pl.any_horizontal(pl.col(c).fill_null("").str.contains_any(patterns) for c in columns)


def _stale_steps(lake: Lake, request_id: str) -> list[str]:
    own = pl.col("request_id") == request_id
    steps = {step for t in ("replay_matrix", "matches", "qbawa") for step in lake.read(t, ["step"], keep=own)["step"]}
    return sorted(steps)


def _forget_calls(lake: Lake, request_id: str, telling: Sequence[str]) -> tuple[int, int]:
    """(calls given to another request that shares them, calls removed)."""
    own = pl.col("request_id") == request_id
    users = pl.concat(
        [
            lake.read("replay_matrix", ["request_id", "call_keys"]).rename({"call_keys": "call_key"}),
            # A pointwise verdict has two calls, joined by `+`.
            lake.read("verdicts", ["request_id", "call_key"]).with_columns(pl.col("call_key").str.split("+")),
        ]
    ).explode("call_key", empty_as_null=True)
    users = users.drop_nulls()
    shared = users.filter(~own).group_by("call_key").agg(new_owner=pl.col("request_id").min())
    its = users.filter(own)["call_key"].unique()
    calls = lake.read("calls").with_columns(telling=_holds(("messages", "response_text"), telling))
    # A shared answer is the other user's too; a text that only this request has is not, whoever was answered with it.
    mine = calls.filter(own | pl.col("call_key").is_in(its.implode()) | pl.col("telling")).join(
        shared, on="call_key", how="left"
    )
    gone = mine.filter(pl.col("new_owner").is_null() | pl.col("telling"))
    given = mine.filter(pl.col("new_owner").is_not_null() & ~pl.col("telling") & own)
    if gone.is_empty() and given.is_empty():
        return 0, 0
    blocks = pl.concat([gone["block_id"], given["block_id"]]).unique().to_list()
    new_owners = given.select("call_key", "new_owner").unique("call_key")
    rows = (
        calls.filter(pl.col("block_id").is_in(blocks))
        .join(
            gone.select("block_id", "call_key", "called_at"),
            on=["block_id", "call_key", "called_at"],
            how="anti",
            nulls_equal=True,
        )
        .join(new_owners, on="call_key", how="left")
        .with_columns(request_id=pl.when(own).then(pl.coalesce("new_owner", "request_id")).otherwise("request_id"))
        .drop("new_owner", "telling")
    )
    lake.replace("calls", blocks, rows)
    return given.height, gone.height


def _retire_strategies(lake: Lake, telling: Sequence[str]) -> list[str]:
    """Erase templates that carry the request's text; such a strategy can never run again."""
    rows = lake.read("strategies")
    holding = rows.filter(_holds(("template", "params", "program"), telling))
    if holding.is_empty():
        return []
    empty = holding.with_columns(
        template=pl.lit(None, pl.String), params=pl.lit("{}"), program=pl.lit(None, pl.String), active=False
    )
    lake.merge("strategies", empty)
    return holding["strategy_id"].sort().to_list()


def _forget_raw_lines(lake: Lake, request_id: str, telling: Sequence[str]) -> int:
    """Remove quarantined lines that mention the request or hold its text."""
    rows = lake.read("quarantine")
    mine = pl.col("raw").fill_null("").str.contains(request_id, literal=True) | _holds(("raw",), telling)
    gone = rows.filter(mine)
    if gone.height:
        blocks = gone["block_id"].unique().to_list()
        lake.replace("quarantine", blocks, rows.filter(pl.col("block_id").is_in(blocks) & ~mine))
    return gone.height


def _forget_note(lake: Lake, noted: pl.DataFrame, request_id: str) -> None:
    """Take the request's id out of the lists of what exported datasets hold; their own files still say it."""
    if noted.height:
        lake.merge(
            "datasets", noted.with_columns(request_ids=pl.col("request_ids").list.filter(pl.element() != request_id))
        )


def _holding(exports: Path, request_id: str) -> Iterator[Path]:
    """Dataset versions whose own lineage names the request."""
    for path in exports.glob(f"*/*/{LINEAGE}"):
        if (
            not path.parent.name.startswith(".")
            and request_id in pl.read_parquet(path, columns=["request_id"])["request_id"]
        ):
            read_manifest(path.parent)
            yield path.parent


def _mentions(folder: Path, request_id: str) -> list[str]:
    needle = request_id.encode()
    return [str(path) for path in sorted(folder.glob("*")) if path.is_file() and needle in path.read_bytes()]


def _json_bytes(text: str) -> bytes:
    return _escaped(text).encode()


def _escaped(text: str) -> str:
    """The text as it stands inside a JSON string."""
    return orjson.dumps(text).decode()[1:-1]
