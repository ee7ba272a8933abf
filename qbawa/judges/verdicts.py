"""A judge's reply as an opinion about answers a and b: the same for every kind of judge, and re-read for free.

`raw` of a pairwise judge is the reply as it came. Of the other kinds it is JSON: `{"kind": "pointwise", "replies":
[of a, of b]}` or `{"kind": "listwise", "answers": n, "a": number shown, "b": number shown, "pair": call_key of the pairwise
call that asks the same, "reply": …}`, with the replies as they came; a ranking's is null where the call failed.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import polars as pl

from qbawa.engine.error_classes import REFUSALS
from qbawa.judges.parse import parse_pairwise, parse_ranking, parse_score
from qbawa.text import shorten

Side = Literal["a", "b"]
LogprobsOf = Callable[[Sequence[str]], Mapping[str, Sequence[Mapping[str, Any]]]]
"""Log-probabilities of calls, by call_key; calls without any are left out."""
SCORE_SCALE = 2.0
"""A gap of this many points (of 10) between scores is a preference of 73 %. The verdict itself needs no scale."""
UNSCORED: Mapping[str, Any] = {"verdict": "unscored", "preference": None, "rationale": None}
ABOUT_CONTENT = REFUSALS | {"bad_request"}
"""Reasons of a failure that are about what was asked, so that asking again brings the same. All others may pass: an
outage, a wrong key, a model that is not there. They leave no verdict, and the match open."""
_FAILED = re.compile(r"The call failed, (\w+):")


def opinion(
    raw: str | None, shown_first: Side | None, logprobs: Sequence[Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """`verdict` (a, b, tie or unscored), `preference` (0 to 1 towards a) and `rationale` of a raw reply."""
    packed = unpack(raw) if raw is not None else None
    if raw is None:
        return dict(UNSCORED)
    if packed is None:
        return _pairwise(raw, shown_first, logprobs)
    if packed["kind"] == "listwise":
        return _listwise(packed)
    return _pointwise(packed["replies"]) if shown_first is None else dict(UNSCORED)


def failed_call(reason: str, error: str) -> str:
    """The rationale of a row whose call failed."""
    return f"The call failed, {reason}: {error}"


def may_pass(row: Mapping[str, Any]) -> bool:
    """Whether a row of `verdicts` is of a call that failed for a reason that may pass: it is no verdict and never was.

    Such rows are no longer written; lakes of earlier versions hold them.
    """
    found = _FAILED.match(row["rationale"] or "") if row["verdict"] == "unscored" else None
    return found is not None and found[1] not in ABOUT_CONTENT


def pack(content: Mapping[str, Any]) -> str:
    """`raw` of a judge that is not pairwise."""
    return json.dumps(content, ensure_ascii=False)


def unpack(raw: str) -> dict[str, Any] | None:
    """What was packed, None where the raw text is a plain reply."""
    if not raw.startswith('{"kind": "'):
        return None
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    replies, reply = found.get("replies"), found.get("reply")
    if found["kind"] == "pointwise" and isinstance(replies, list) and [type(r) for r in replies] == [str, str]:
        return found
    numbers = [found.get(name) for name in ("answers", "a", "b")]
    texts = isinstance(reply, str | None) and isinstance(found.get("pair"), str | None)
    if found["kind"] == "listwise" and texts and all(type(number) is int for number in numbers):
        return found
    return None


def stands_for(raw: str | None) -> str | None:
    """Key of the pairwise call that asks the same as a ranking does of its match; None where `raw` is no ranking's."""
    packed = unpack(raw) if raw is not None else None
    return packed.get("pair") if packed is not None and packed["kind"] == "listwise" else None


def excerpt(row: Mapping[str, Any]) -> str:
    """How a row's reply begins, safe to show; where there is none, why."""
    packed = unpack(row["raw"]) if row["raw"] is not None else None
    reply = row["raw"] if packed is None else packed["replies"][0] if packed["kind"] == "pointwise" else packed["reply"]
    return shorten(row["rationale"] or "" if reply is None else reply, 200)


def reparse(verdicts: pl.DataFrame, logprobs: LogprobsOf = lambda keys: {}) -> pl.DataFrame:
    """Those rows that the parser reads otherwise than they say, as it reads them; nothing is asked or paid.

    `logprobs` gives the log-probabilities of calls by call_key, for the preferences of these rows. A row whose verdict
    stays keeps its preference. People's and imported verdicts and calls that failed stay as they are.
    """
    ours = verdicts.filter((pl.col("judge_kind") == "llm") & pl.col("raw").is_not_null())
    changed = [
        row
        for row in ours.iter_rows(named=True)
        if opinion(row["raw"], row["shown_first"])["verdict"] != row["verdict"]
    ]
    known = logprobs([row["call_key"] for row in changed]) if changed else {}
    rows = [row | opinion(row["raw"], row["shown_first"], known.get(row["call_key"])) for row in changed]
    return pl.DataFrame(rows, schema=verdicts.schema, orient="row")


def _pairwise(raw: str, shown_first: Side | None, logprobs: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    found = parse_pairwise(raw, logprobs)
    if found is None or shown_first is None:
        return dict(UNSCORED)
    straight = shown_first == "a"
    names = {"1": "a", "2": "b", "tie": "tie"} if straight else {"1": "b", "2": "a", "tie": "tie"}
    preference = found.preference if straight else 1 - found.preference
    return {"verdict": names[found.verdict], "preference": preference, "rationale": found.rationale}


def _pointwise(replies: Sequence[str]) -> dict[str, Any]:
    a, b = (parse_score(reply) for reply in replies)
    if a is None or b is None:
        return dict(UNSCORED)
    gap = a.score - b.score
    verdict = "tie" if gap == 0 else "a" if gap > 0 else "b"
    rationale = f"a, {a.score:g}: {a.rationale}\nb, {b.score:g}: {b.rationale}"
    return {"verdict": verdict, "preference": 1 / (1 + math.exp(-gap / SCORE_SCALE)), "rationale": rationale}


def _listwise(packed: Mapping[str, Any]) -> dict[str, Any]:
    found = parse_ranking(packed["reply"] or "", packed["answers"])
    if found is None or packed["a"] not in found.order or packed["b"] not in found.order:
        return dict(UNSCORED)
    ahead = found.order.index(packed["a"]) < found.order.index(packed["b"])
    return {"verdict": "a" if ahead else "b", "preference": float(ahead), "rationale": found.rationale}
