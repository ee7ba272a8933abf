"""A jury at work: from a match to the calls that its judges make, and from what they say to rows of `verdicts`.

    for call in jury_calls(match_id, question, answer_a, answer_b, jury):
        row = await ask(call, engine)

All kinds of judge give the same rows. A pairwise judge sees both answers; a pointwise judge scores each alone, so
that one call serves all of an answer's matches; a listwise judge ranks all answers of a request in one call
(`ranking_call`) and is pairwise where a single match is asked.
"""

import asyncio
import hashlib
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from qbawa.config import JudgeConfig
from qbawa.engine.types import CallResult, ModelCall
from qbawa.errors import FinalError, ModelStoppedError, ProviderError
from qbawa.ids import verdict_id
from qbawa.judges.prompt import SCHEMAS, JudgeKind, judge_messages
from qbawa.judges.verdicts import Side, opinion, pack
from qbawa.strategies.question import Question

LOGPROBS = {"logprobs": True, "top_logprobs": 5}


class Caller(Protocol):
    """Whatever answers model calls: `qbawa.engine.Engine`."""

    async def call(self, call: ModelCall) -> CallResult: ...


@dataclass(frozen=True, slots=True)
class JudgeCall:
    """What one judge is asked about one match, in one order."""

    match_id: str
    request_id: str
    step: str
    judge: str
    kind: Literal["pairwise", "pointwise"]
    shown_first: Side | None
    """None of a pointwise judge, who sees each answer alone."""
    calls: tuple[ModelCall, ...]
    """One call; of a pointwise judge two: answer a, answer b."""


@dataclass(frozen=True, slots=True)
class RankingCall:
    """What a listwise judge is asked: all answers of a request at once."""

    request_id: str
    step: str
    judge: str
    shown: tuple[str, ...]
    """Strategies in the order in which their answers are shown."""
    calls: tuple[ModelCall, ...]


def shown_first(match_id: str, judge: str, seed: int = 0) -> Side:
    """Which answer a judge sees first: drawn from the content of the match, so that a rerun draws the same."""
    digest = hashlib.sha256(json.dumps([match_id, judge, seed]).encode()).digest()
    return "a" if digest[0] & 1 else "b"


def jury_calls(
    match_id: str, question: Question, answer_a: str, answer_b: str, jury: Mapping[str, JudgeConfig], seed: int = 0
) -> list[JudgeCall]:
    """What to ask each judge of a jury about a match: one call a judge, two orders where the judge is set to `both`.

    Raises TemplateError where a rubric needs an input that the request lacks.
    """
    calls = []
    for name, judge in jury.items():
        first = shown_first(match_id, name, seed)
        orders: list[Side | None] = [None] if judge.kind == "pointwise" else [first]
        if judge.order == "both" and judge.kind != "pointwise":
            orders.append("b" if first == "a" else "a")
        for order in orders:
            shown = (
                [[answer_a], [answer_b]]
                if order is None
                else [[answer_a, answer_b] if order == "a" else [answer_b, answer_a]]
            )
            kind: Literal["pairwise", "pointwise"] = "pointwise" if order is None else "pairwise"
            made = tuple(judge_model_call(name, judge, question, answers, kind) for answers in shown)
            calls.append(JudgeCall(match_id, question.request_id, question.step, name, kind, order, made))
    return calls


def ranking_call(
    name: str, judge: JudgeConfig, question: Question, answers: Mapping[str, str], seed: int = 0
) -> RankingCall:
    """What to ask a listwise judge about all answers of a request, `answers` by strategy; their order is drawn."""
    shown = sorted(answers)
    random.Random(json.dumps([question.request_id, question.step, name, seed, shown])).shuffle(shown)
    call = judge_model_call(name, judge, question, [answers[strategy] for strategy in shown], "listwise")
    return RankingCall(question.request_id, question.step, name, tuple(shown), (call,))


def judge_model_call(
    name: str, judge: JudgeConfig, question: Question, answers: Sequence[str], kind: JudgeKind
) -> ModelCall:
    """The model call that shows these answers in this order to a judge."""
    params = dict(judge.params)
    if params.get("response_format") == "json_schema":
        schema = {"name": "verdict", "schema": dict(SCHEMAS[kind])}
        params["response_format"] = {"type": "json_schema", "json_schema": schema}
    if judge.logprobs and kind == "pairwise":
        params = {**LOGPROBS, **params}
    return ModelCall(
        model=judge.model,
        messages=judge_messages(kind, judge.rubric, question, answers, name),
        params=params,
        purpose="judge",
        request_id=question.request_id,
        judge=name,
        step=question.step,
    )


async def ask(judge_call: JudgeCall, engine: Caller) -> dict[str, Any]:
    """The verdict's row. A call that fails for good makes it unscored, with the reason.

    What concerns more than this match is raised: ModelStoppedError, BudgetError, and transient errors that outlasted
    their retries.
    """
    outcomes = await asyncio.gather(*(engine.call(call) for call in judge_call.calls), return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    for failure in failures:
        if not isinstance(failure, FinalError) or isinstance(failure, ModelStoppedError):
            raise failure
    results = [outcome for outcome in outcomes if isinstance(outcome, CallResult)]
    row = to_verdict_row(judge_call, failures[0] if failures else results)  # type: ignore[arg-type]
    # Of a pointwise judge one score may have been paid for and the other failed.
    return row | {"cost_usd": sum(result.cost_usd for result in results)}


def to_verdict_row(judge_call: JudgeCall, outcome: CallResult | Sequence[CallResult] | ProviderError) -> dict[str, Any]:
    """A row of the table `verdicts` from what the judge said, or unscored where the call failed.

    `call_key` is the paid call; of a pointwise judge both, joined by `+` in the order a, b.
    """
    results = (
        [outcome] if isinstance(outcome, CallResult) else [] if isinstance(outcome, ProviderError) else list(outcome)
    )
    raw: str | None = None
    if len(results) == len(judge_call.calls):
        texts = [result.text for result in results]
        raw = texts[0] if judge_call.kind == "pairwise" else pack({"kind": "pointwise", "replies": texts})
    logprobs = results[0].logprobs if results else None
    row = {
        "verdict_id": verdict_id(judge_call.match_id, judge_call.judge, judge_call.shown_first),
        "match_id": judge_call.match_id,
        "request_id": judge_call.request_id,
        "step": judge_call.step,
        "judge": judge_call.judge,
        "judge_kind": "llm",
        "shown_first": judge_call.shown_first,
        **opinion(raw, judge_call.shown_first, logprobs),
        "raw": raw,
        "call_key": "+".join(call.key for call in judge_call.calls),
        "cost_usd": sum(result.cost_usd for result in results),
        "judged_at": datetime.now(UTC),
        "block_id": judge_call.request_id,
    }
    if isinstance(outcome, ProviderError):
        row["rationale"] = f"The call failed, {outcome.reason}: {outcome}"
    return row


def to_ranking_rows(
    ranking: RankingCall, outcome: CallResult, matches: Mapping[tuple[str, str], str]
) -> list[dict[str, Any]]:
    """Verdict rows of the pairs in a ranking: those to which `matches` gives a match_id, by (strategy_a, strategy_b).

    The one call stands in each row; its cost is shared out evenly, so that sums over verdicts stay true.
    """
    rows = []
    for one, two in itertools.combinations(range(len(ranking.shown)), 2):
        for a, b in ((one, two), (two, one)):
            match = matches.get((ranking.shown[a], ranking.shown[b]))
            if match is None:
                continue
            first: Side = "a" if a < b else "b"
            packed = {"kind": "listwise", "answers": len(ranking.shown), "a": a + 1, "b": b + 1, "reply": outcome.text}
            raw = pack(packed)
            rows.append(
                {
                    "verdict_id": verdict_id(match, ranking.judge, first),
                    "match_id": match,
                    "request_id": ranking.request_id,
                    "step": ranking.step,
                    "judge": ranking.judge,
                    "judge_kind": "llm",
                    "shown_first": first,
                    **opinion(raw, first, None),
                    "raw": raw,
                    "call_key": outcome.call_key,
                    "cost_usd": outcome.cost_usd,
                    "judged_at": datetime.now(UTC),
                    "block_id": ranking.request_id,
                }
            )
    for row in rows:
        row["cost_usd"] /= len(rows)
    return rows
