"""A jury at work: from a match to the calls that its judges make, and from their replies to rows of `verdicts`.

    for call in jury_calls(match_id, question, answer_a, answer_b, jury):
        row = await ask(call, engine)

All kinds of judge give the same rows. A pairwise judge sees both answers; a pointwise judge scores each alone, so
that one call serves all of an answer's matches; a listwise judge ranks the answers of several matches, so that one
call serves them all, and is pairwise where a match stands alone.
"""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from qbawa.config import JudgeConfig
from qbawa.engine.calls import CallResult, ModelCall
from qbawa.engine.prices import total_usd
from qbawa.engine.prompting.question import Question
from qbawa.errors import FinalError, ProviderError
from qbawa.ids import verdict_id
from qbawa.judges.prompt import SCHEMAS, JudgeKind, judge_messages
from qbawa.judges.verdicts import ABOUT_CONTENT, Side, failed_call, opinion, pack
from qbawa.model_apis.meaning import meaning

LOGPROBS = {"logprobs": True, "top_logprobs": 5}


class Caller(Protocol):
    """Whatever answers model calls: `qbawa.engine.Engine`."""

    async def call(self, call: ModelCall) -> CallResult: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where the two answers of a match stand in a list."""

    answers: int
    """How many are ranked."""
    a: int
    b: int
    """The numbers, from 1, under which they are shown."""
    pair: str
    """Key of the pairwise call that asks the same: it holds rubric, model and these two answers, not the others."""


@dataclass(frozen=True, slots=True)
class JudgeCall:
    """What one judge is asked about one match, in one order."""

    match_id: str
    request_id: str
    step: str
    judge: str
    kind: JudgeKind
    shown_first: Side | None
    """None of a pointwise judge, who sees each answer alone."""
    calls: tuple[ModelCall, ...]
    """One call; of a pointwise judge two: answer a, answer b."""
    place: Place | None = None
    """In the list, where the call is a ranking."""


def shown_first(match_id: str, judge: str, seed: int = 0) -> Side:
    """Which answer a judge sees first: drawn from the content of the match, so that a rerun draws the same."""
    digest = hashlib.sha256(json.dumps([match_id, judge, seed]).encode()).digest()
    return "a" if digest[0] & 1 else "b"


def same_text(answer: str) -> str:
    """The answer as it is compared with others: blanks around it and at line ends make no difference, indentation does.

    Tool calls and objects are compared by what they mean.
    """
    if answer.lstrip()[:1] in ("{", "["):
        return meaning(answer)
    return "\n".join(line.rstrip() for line in answer.strip().splitlines())


def jury_calls(
    match_id: str,
    question: Question,
    answer_a: str,
    answer_b: str,
    jury: Mapping[str, JudgeConfig],
    seed: int = 0,
    *,
    swapped: bool = False,
    among: Sequence[str] = (),
) -> list[JudgeCall]:
    """What to ask each judge of a jury about a match: one call a judge, two orders where the judge is set to `both`.

    `swapped` asks in the other order than the one drawn. A listwise judge ranks `among`: different answers, these two
    with them. Raises TemplateError where a rubric needs an input that the request lacks.
    """
    calls = []
    for name, judge in jury.items():
        call = JudgeCall(match_id, question.request_id, question.step, name, "pointwise", None, ())
        if judge.kind == "pointwise":
            made = tuple(judge_model_call(name, judge, question, [one], "pointwise") for one in (answer_a, answer_b))
            calls.append(replace(call, calls=made))
            continue
        first = shown_first(match_id, name, seed)
        if judge.kind == "listwise":
            first = "a" if _drawn([answer_a, answer_b], question, name, seed)[0] == answer_a else "b"
        other: Side = "b" if first == "a" else "a"
        orders = (first, other) if judge.order == "both" else (other if swapped else first,)
        for order in orders:
            shown = [answer_a, answer_b] if order == "a" else [answer_b, answer_a]
            made = (judge_model_call(name, judge, question, shown, "pairwise"),)
            asked = replace(call, kind="pairwise", shown_first=order, calls=made)
            if judge.kind == "listwise" and among:
                asked = _ranking(asked, judge, question, answer_a, answer_b, among, seed)
            calls.append(asked)
    return calls


def _drawn(answers: Sequence[str], question: Question, judge: str, seed: int) -> list[str]:
    """Answers to a question in the order in which a listwise judge is shown them: drawn by a hash of their words.

    So what is shown before another answer once is shown before it in every list, and after it in every reversed one.
    """

    def drawn(answer: str) -> str:
        content = [question.request_id, question.step, judge, seed, same_text(answer)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    return sorted(answers, key=drawn)


def _ranking(
    pair: JudgeCall, judge: JudgeConfig, question: Question, a: str, b: str, among: Sequence[str], seed: int
) -> JudgeCall:
    """The ranking that asks what a pairwise call would: the same about a and b, shown in the same order."""
    shown = _drawn(among, question, pair.judge, seed)
    if _drawn([a, b], question, pair.judge, seed)[0] != (a if pair.shown_first == "a" else b):
        shown.reverse()
    number = {same_text(answer): number for number, answer in enumerate(shown, start=1)}
    place = Place(len(shown), number[same_text(a)], number[same_text(b)], pair.calls[0].key)
    made = judge_model_call(pair.judge, judge, question, shown, "listwise")
    return replace(pair, kind="listwise", calls=(made,), place=place)


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
    """The verdict's row. A call that fails because of what it asks makes it unscored, with the reason.

    What may pass or concerns more than this match is raised: NotMadeError, and every ProviderError whose reason is
    not in ABOUT_CONTENT, such as a stopped model or an outage that outlasted the retries.
    """
    outcomes = await asyncio.gather(*(engine.call(call) for call in judge_call.calls), return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    for failure in failures:
        if not isinstance(failure, FinalError) or failure.reason not in ABOUT_CONTENT:
            raise failure
    results = [outcome for outcome in outcomes if isinstance(outcome, CallResult)]
    row = to_verdict_row(judge_call, failures[0] if failures else results)  # type: ignore[arg-type]
    # Of a pointwise judge one score may have been paid for and the other failed.
    costs = [outcome.cost_usd for outcome in outcomes if isinstance(outcome, CallResult | ProviderError)]
    return row | {"cost_usd": total_usd(costs)}


def to_verdict_row(judge_call: JudgeCall, outcome: CallResult | Sequence[CallResult] | ProviderError) -> dict[str, Any]:
    """A row of the table `verdicts` from what the judge replied, or unscored where the call failed.

    `call_key` is the paid call; of a pointwise judge both, joined by `+` in the order a, b. `cost_usd` is what it
    cost as a whole, whichever other verdicts it gives too.
    """
    results = (
        [outcome] if isinstance(outcome, CallResult) else [] if isinstance(outcome, ProviderError) else list(outcome)
    )
    texts = [result.text for result in results]
    raw: str | None = None
    if judge_call.place is not None:
        # Also where the call failed: the place tells which question this row answers.
        raw = pack({"kind": "listwise", **asdict(judge_call.place), "reply": texts[0] if texts else None})
    elif len(results) == len(judge_call.calls):
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
        "cost_usd": total_usd(
            [outcome.cost_usd] if isinstance(outcome, ProviderError) else [r.cost_usd for r in results]
        ),
        "judged_at": datetime.now(UTC),
        "block_id": judge_call.request_id,
    }
    if isinstance(outcome, ProviderError):
        row["rationale"] = failed_call(outcome.reason, str(outcome))
    return row
