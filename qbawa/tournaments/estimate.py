"""What judging would cost at most, before anything is spent: by step and judge, from tournaments that nobody plays."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import polars as pl

from qbawa.config import Config, ModelConfig
from qbawa.engine.cost_estimate import LATENCY_S, ModelHistory, estimate_calls
from qbawa.engine.prompting.question import Question
from qbawa.engine.token_usage import CHARS_PER_TOKEN, max_tokens, text_length
from qbawa.errors import InputError, TemplateError
from qbawa.judges.jury import jury_calls
from qbawa.tournaments.step_state import StepState
from qbawa.tournaments.upper_bound import AnsweredCalls, Bound, JudgeBound

SAMPLE = 50
"""Matches a step whose prompts are rendered, to see how long prompts are."""
LONG = 0.9
"""Share of the sample's prompts that are no longer than the one whose length all calls are taken to have."""
VERDICT_OUTPUT = 200.0
"""Output tokens of a call to a judge that was never asked: a verdict, three long sentences, and as much to spare."""

RecordedOutputs = Callable[[Sequence[str]], pl.DataFrame]
"""request_id, step, inputs, messages and output of recordings, by recording_id."""
History = Mapping[tuple[str, str], ModelHistory]
"""Means over a judge's past calls, by judge and model."""


@dataclass(frozen=True, slots=True)
class JudgePlan:
    """What one judge may still be asked on one step, and what it would cost."""

    step: str
    judge: str
    model: str
    verdicts_at_most: int
    asked_anew_at_most: int
    """Of those: on matches that the judge has judged, but not as it would be asked now."""
    calls_at_most: int
    """To pay for these verdicts."""
    cost_usd_at_most: float = 0.0
    """Of that many calls, their prompts all as long as the longer ones of a sample."""
    minutes_at_most: float = 0.0
    """Of that many calls at the model's limits, one round of the tournament after the other."""
    input_tokens_per_call: float = 0.0
    output_tokens_per_call: float = 0.0
    guessed: bool = False
    """Whether output tokens and latency are guessed, since this judge was never asked."""
    problem: str | None = None
    """Why the judge cannot be asked."""


def plan_step(
    state: StepState,
    config: Config,
    planned: pl.DataFrame,
    history: History,
    *,
    answered_calls: AnsweredCalls,
    recorded_outputs: RecordedOutputs,
) -> list[JudgePlan]:
    """What playing one step's tournament would take at most, by judge, once its cells of `planned` are answered.

    `planned` are cells in the form of `wanted_cells`. A planned answer counts as different from all others; as long
    as a step has no answers, recorded outputs stand in for them where the length of prompts is measured.
    """
    here = planned.filter(pl.col("step") == state.step)
    coming = set(here.select("strategy_id", "request_id").iter_rows())
    bound = Bound(state, config.tournament, answered_calls, coming)
    samples = (_samples(state) or _recorded_samples(state, here, recorded_outputs)) if bound.matches else []
    return [
        _priced(config.models, state, name, asked, samples, bound.rounds, history.get((name, state.jury[name].model)))
        for name, asked in bound.judges().items()
    ]


def judging_minutes(plans: Iterable[JudgePlan]) -> float:
    """Minutes of all of it: step after step; in a step models work side by side, and judges share their model's limits."""
    by_step: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for plan in plans:
        by_step[plan.step][plan.model] += plan.minutes_at_most
    return sum(max(models.values()) for models in by_step.values())


def _priced(
    models: Mapping[str, ModelConfig],
    state: StepState,
    name: str,
    asked: JudgeBound,
    samples: Sequence[tuple[Question, str, str]],
    rounds: int,
    known: ModelHistory | None,
) -> JudgePlan:
    judge = state.jury[name]
    if not asked.calls:
        return JudgePlan(state.step, name, judge.model, asked.verdicts, asked.asked_again, 0)
    tokens_in, problem = _prompt_tokens(state, name, samples)
    most = max_tokens(judge.params)
    tokens_out = VERDICT_OUTPUT if known is None else known.output_tokens
    tokens_out = tokens_out if most is None else min(tokens_out, most)
    latency_s = LATENCY_S if known is None else known.latency_s
    estimate = estimate_calls(
        [],
        models,
        cells=0,
        cached=0,
        history={judge.model: ModelHistory(tokens_in, tokens_out, latency_s)},
        extra_calls={judge.model: asked.calls},
    )
    offline = judge.model.startswith("offline/")
    problem = problem or estimate.unusable.get(judge.model)
    if problem:
        return JudgePlan(state.step, name, judge.model, asked.verdicts, asked.asked_again, 0, problem=problem)
    return JudgePlan(
        step=state.step,
        judge=name,
        model=judge.model,
        verdicts_at_most=asked.verdicts,
        asked_anew_at_most=asked.asked_again,
        calls_at_most=asked.calls,
        cost_usd_at_most=estimate.cost_usd,
        minutes_at_most=0.0 if offline else estimate.minutes + (rounds - 1) * latency_s / 60,
        input_tokens_per_call=tokens_in,
        output_tokens_per_call=tokens_out,
        guessed=known is None and not offline,
    )


def _prompt_tokens(
    state: StepState, name: str, samples: Sequence[tuple[Question, str, str]]
) -> tuple[float, str | None]:
    """Input tokens of a judge's call; or why none of the sample can be rendered."""
    lengths: list[int] = []
    problem = None
    for question, a, b in samples:
        try:
            [asked, *_] = jury_calls("", question, a, b, {name: state.jury[name]}, state.seed)
        except TemplateError as error:
            problem = str(error)
            continue
        lengths += [text_length(call.messages) for call in asked.calls]
    if not lengths:
        return 0.0, problem
    # Answers that are to come, or that meet more often than others, may be longer than most.
    return max(fmean(lengths), sorted(lengths)[int(LONG * len(lengths))]) / CHARS_PER_TOKEN, None


def _samples(state: StepState) -> list[tuple[Question, str, str]]:
    """Questions with two answers each, spread over the requests, the same at every look; [] without answers."""
    texts: defaultdict[str, list[str]] = defaultdict(list)
    for (_, request), answer in sorted(state.answers.items()):
        texts[request].append(answer.text)
    draw = random.Random(f"{state.seed}/{state.step}")
    requests = draw.sample(sorted(texts), len(texts))
    samples = []
    for turn in range(SAMPLE if texts else 0):
        request = requests[turn % len(requests)]
        # A single answer stands for the one that it will meet.
        a, b = draw.sample(texts[request] if len(texts[request]) > 1 else texts[request] * 2, 2)
        samples.append((state.questions[request], a, b))
    return samples


def _recorded_samples(
    state: StepState, planned: pl.DataFrame, recorded_outputs: RecordedOutputs
) -> list[tuple[Question, str, str]]:
    recordings = planned["recording_id"].unique().sort().to_list()
    chosen = random.Random(f"{state.seed}/{state.step}").sample(recordings, min(SAMPLE, len(recordings)))
    samples = []
    for row in recorded_outputs(chosen).iter_rows(named=True):
        try:
            samples.append((Question.from_row(row), row["output"] or "", row["output"] or ""))
        except InputError:  # its cells will say so
            continue
    return samples
