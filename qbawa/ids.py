"""Identifiers of strategies, cells, matches, verdicts and pairs: the same content always gets the same id.

So a rerun, a re-import and a second process name the same thing alike, and the lake can replace instead of append.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

RECORDED = "recorded"
"""Name of the strategy that production used."""


def cell_id(request_id: str, step: str, strategy_id: str) -> str:
    """Id of the cell (request, strategy) of a step's replay matrix."""
    return content_id("cell", request_id, step, strategy_id)


def match_id(request_id: str, step: str, strategy_a: str, strategy_b: str) -> str:
    """Id of the meeting of two strategies on a request, whichever is named first.

    In the table `matches`, strategy_a is the smaller of the two ids (`canonical_pair`).
    """
    return content_id("match", request_id, step, *canonical_pair(strategy_a, strategy_b))


def canonical_pair(strategy_a: str, strategy_b: str) -> tuple[str, str]:
    """The two strategies in the order in which `matches` names them: smaller id first."""
    return (strategy_a, strategy_b) if strategy_a <= strategy_b else (strategy_b, strategy_a)


def verdict_id(match_id: str, judge: str, shown_first: Literal["a", "b"] | None) -> str:
    """Id of one judge's verdict in one order; a judge has at most one per match and order."""
    return content_id("verdict", match_id, judge, shown_first)


def pair_id(request_id: str, step: str, best_answer: str, worse_answer: str) -> str:
    """Id of a QBaWa pair: by the answers' text, so that equal answers of two strategies make one pair."""
    return content_id("pair", request_id, step, best_answer, worse_answer)


def content_id(kind: str, *parts: str | None) -> str:
    """24 hex digits (96 bits) of SHA-256 over the canonical JSON of kind and parts."""
    text = json.dumps([kind, *parts], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def strategy_id(*, step: str, template: Any, model: str, params: Any, program: Any) -> str:
    """Readable: step, model and 10 characters (50 bits) of SHA-256, such as `summarise.gpt-4.1-mini.k3v7qa2mzt`.

    The name does not count: a renamed strategy keeps its answers. `template` includes its examples. An edited prompt is
    a new strategy; `0` and `0.0` are the same temperature. Ids are partition keys in Dagster, which is why they speak.
    """
    content = canonical({"step": step, "template": template, "model": model, "program": program})
    content["params"] = canonical_params(params)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = base64.b32encode(hashlib.sha256(text.encode()).digest())[:10].decode().lower()
    return f"{_slug(step)}.{_slug(model.rsplit('/', 1)[-1])}.{digest}"


def _slug(text: str) -> str:
    """Letters, digits, `-`, `_` and `.` of a text, the rest as `-`, at most 24 characters; no partition key is refused."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:24].strip("-.") or "x"


def recorded_id(step: str) -> str:
    """Id of production's own way to answer a step, which competes as a strategy."""
    return f"{RECORDED}-{step}"


def canonical_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with equal content where they mean the same. A null is kept: it takes a recorded parameter away."""
    return {str(name): None if value is None else canonical(value) for name, value in params.items()}


def canonical(value: Any) -> Any:
    """The value with whole floats as integers and objects without nulls, so that equal meaning gives equal content."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {str(key): canonical(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [canonical(inner) for inner in value]
    return value
