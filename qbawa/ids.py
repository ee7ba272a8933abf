"""Identifiers of cells, matches, verdicts and pairs: the same content always gets the same id.

So a rerun, a re-import and a second process name the same thing alike, and the lake can replace instead of append.
"""

import hashlib
import json
from typing import Literal


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
