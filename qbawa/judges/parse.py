"""A judge's reply, read strictly: it is a verdict of the agreed schema, or it is unscored.

One allowance: the JSON object may stand inside a single code fence. Nothing is guessed from prose, so nothing that a
judge quotes from an answer can become a verdict.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jsonschema import Draft202012Validator

from qbawa.judges.prompt import SCHEMAS, JudgeKind

MAX_REPLY_CHARS = 200_000

_FENCE = re.compile(r"\A```(?:json|JSON)?[ \t]*\n(.*)\n[ \t]*```\Z", re.DOTALL)
_VERDICT = re.compile(r'(?<!\\)"verdict"\s*:\s*"')
_VALIDATORS = {kind: Draft202012Validator(schema) for kind, schema in SCHEMAS.items()}


@dataclass(frozen=True, slots=True)
class PairOpinion:
    """A pairwise reply, in the order shown. `preference` is 0 to 1 towards answer 1."""

    verdict: Literal["1", "2", "tie"]
    preference: float
    rationale: str


@dataclass(frozen=True, slots=True)
class Score:
    """A pointwise reply: 0 to 10."""

    score: float
    rationale: str


@dataclass(frozen=True, slots=True)
class Ranking:
    """A listwise reply: the numbers of the answers, best first."""

    order: tuple[int, ...]
    rationale: str


def parse_pairwise(reply: str, logprobs: Sequence[Mapping[str, Any]] | None = None) -> PairOpinion | None:
    """The verdict in a reply; None where it is not exactly one.

    The preference comes from the log-probabilities of the verdict's token where they are given, else from the reply's
    own number, else it is 1, 0 or ½. A number that contradicts the verdict is ignored: judges confuse `towards answer
    1` with `how sure`.
    """
    found = _object(reply, "pairwise")
    if found is None:
        return None
    verdict = found["verdict"]
    hard = {"1": 1.0, "2": 0.0, "tie": 0.5}[verdict]
    soft = verdict_preference(reply, logprobs) if logprobs else None
    if soft is None:
        stated = found.get("preference", hard)
        soft = float(stated) if (stated - 0.5) * (hard - 0.5) > 0 else hard
    return PairOpinion(verdict, soft, found["rationale"])


def parse_score(reply: str) -> Score | None:
    """The score in a pointwise reply; None where it is not exactly one."""
    found = _object(reply, "pointwise")
    return None if found is None else Score(float(found["score"]), found["rationale"])


def parse_ranking(reply: str, answers: int) -> Ranking | None:
    """The ranking of exactly the numbers 1 to `answers`; None for anything else."""
    found = _object(reply, "listwise")
    # The length first: where a reply imitates a packed one, `answers` is the model's word too.
    if found is None or len(found["ranking"]) != answers or sorted(found["ranking"]) != list(range(1, answers + 1)):
        return None
    return Ranking(tuple(int(number) for number in found["ranking"]), found["rationale"])


def verdict_preference(reply: str, logprobs: Sequence[Mapping[str, Any]]) -> float | None:
    """Preference towards answer 1 from the log-probabilities at the verdict's token, a tie counted half.

    None where they do not tell.
    """
    places = list(_VERDICT.finditer(reply))
    if len(places) != 1:
        return None
    start, position = places[0].end(), 0
    for token in logprobs:
        text = token.get("token")
        if not isinstance(text, str):
            return None
        position += len(text)
        # The token that holds the character after the opening quote is the one that decides.
        if position > start:
            return _preference(token, text)
    return None


def _preference(token: Mapping[str, Any], text: str) -> float | None:
    mass = {"1": 0.0, "2": 0.0, "tie": 0.0}
    candidates = token.get("top_logprobs") or [token]
    for candidate in candidates:
        word, logprob = candidate.get("token"), candidate.get("logprob")
        if not isinstance(word, str) or not isinstance(logprob, int | float) or not logprob <= 0:
            continue
        word = word.strip().strip('"').lower()
        name = word if word in ("1", "2") else "tie" if word and "tie".startswith(word) else None
        if name:
            mass[name] += math.exp(logprob)
    total = sum(mass.values())
    return (mass["1"] + 0.5 * mass["tie"]) / total if total > 0 else None


def _object(reply: str, kind: JudgeKind) -> dict[str, Any] | None:
    text = reply.strip() if len(reply) <= MAX_REPLY_CHARS else ""
    fenced = _FENCE.match(text)
    try:
        found = json.loads(
            fenced.group(1) if fenced else text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        return None
    return found if _VALIDATORS[kind].is_valid(found) else None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
