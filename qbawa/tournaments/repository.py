"""A step's judging as the lake holds it: read for those who only know frames and values, written back as they decide."""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import polars as pl

from qbawa.config import JudgeConfig
from qbawa.engine.cost_estimate import ModelHistory
from qbawa.engine.logprobs import clean_logprobs
from qbawa.engine.prompting.question import COLUMNS, Question
from qbawa.errors import InputError
from qbawa.judges.verdicts import reparse
from qbawa.storage.lake import Lake
from qbawa.tournaments.step_state import Answer, Decided, Key, StepState


def read_step(lake: Lake, step: str, jury: Mapping[str, JudgeConfig], seed: int) -> StepState:
    """One step's answers, questions, verdicts and matches, as they are now."""
    here = pl.col("step") == step
    answers = _answers(lake, step)
    verdicts = lake.read("verdicts", keep=here)
    return StepState(
        step,
        jury,
        seed,
        answers=answers,
        questions=_questions(lake, step, {request for _, request in answers}),
        verdicts=verdicts,
        # What an older parser could not read costs nothing to read again; `redecide` gives it back to be stored.
        reread=reread(lake, verdicts.filter(pl.col("verdict") == "unscored")),
        matches=lake.read("matches", keep=here),
        since=_since(lake, step),
    )


def write_decided(lake: Lake, decided: Decided) -> None:
    """Write verdicts, then the matches that they decide; what the lake holds already changes nothing."""
    lake.merge("verdicts", decided.verdicts)
    lake.merge("matches", decided.matches)


def reread(lake: Lake, verdicts: pl.DataFrame) -> pl.DataFrame:
    """Those rows of `verdicts` whose raw reply the present parser reads otherwise, as it reads them. Nothing is asked or paid.

    Soft preferences come from the log-probabilities that `calls` has kept.
    """

    def logprobs(keys: Sequence[str]) -> dict[str, list[Any]]:
        kept = pl.col("call_key").is_in(list(keys)) & pl.col("logprobs").is_not_null()
        rows = lake.read("calls", ["call_key", "logprobs"], keep=kept).iter_rows()
        return {key: found for key, text in rows if (found := clean_logprobs(json.loads(text)))}

    return reparse(verdicts, logprobs)


def steps_with_answers(lake: Lake) -> list[str]:
    return sorted(lake.read("replay_matrix", ["step"], keep=pl.col("status") == "ok")["step"].unique())


def answered_calls(lake: Lake, keys: Collection[str]) -> set[str]:
    """Those of the calls that are answered and paid."""
    if not keys:
        return set()
    answered = pl.col("call_key").is_in(list(keys)) & pl.col("error").is_null()
    return set(lake.read("calls", ["call_key"], keep=answered)["call_key"])


def recorded_outputs(lake: Lake, recordings: Sequence[str]) -> pl.DataFrame:
    """request_id, step, inputs, messages and output of these recordings."""
    columns = ["request_id", "step", "inputs", "messages", "output"]
    return lake.read("recordings", columns, keep=pl.col("recording_id").is_in(list(recordings)))


def judge_history(lake: Lake) -> dict[tuple[str, str], ModelHistory]:
    """Means over a judge's past calls, by judge and model."""
    by = ["judge", "model"]
    means = ["input_tokens", "output_tokens", "latency_s"]
    judged = (pl.col("purpose") == "judge") & pl.col("error").is_null()
    rows = lake.read("calls", [*by, *means], keep=judged).group_by(by).agg(pl.col(means).mean()).iter_rows()
    return {(judge, model): ModelHistory(*(mean or 0.0 for mean in rest)) for judge, model, *rest in rows}


def _answers(lake: Lake, step: str) -> dict[Key, Answer]:
    active = lake.read("strategies", ["strategy_id"], keep=(pl.col("step") == step) & pl.col("active"))
    cells = lake.read(
        "replay_matrix",
        ["strategy_id", "request_id", "answer", "cell_id"],
        keep=(pl.col("step") == step) & (pl.col("status") == "ok") & (pl.col("sample") == 0),
    ).join(active, on="strategy_id", how="semi")
    return {(s, r): Answer(text or "", cell) for s, r, text, cell in cells.iter_rows()}


def _since(lake: Lake, step: str) -> dict[str, datetime]:
    """When each strategy was first answered by; imported answers count from their import."""
    here = pl.col("step") == step
    answered = lake.read("replay_matrix", ["strategy_id", "answered_at"], keep=here & (pl.col("status") == "ok"))
    first = answered.group_by("strategy_id").agg(pl.col("answered_at").min())
    made = lake.read("strategies", ["strategy_id", "created_at"], keep=here).join(first, on="strategy_id")
    return dict(made.select("strategy_id", pl.max_horizontal("created_at", "answered_at")).drop_nulls().iter_rows())


def _questions(lake: Lake, step: str, requests: set[str]) -> dict[str, Question]:
    recorded = lake.read(
        "recordings", [*COLUMNS, "recorded_at"], keep=(pl.col("step") == step) & pl.col("request_id").is_in(requests)
    )
    chosen = lake.read("replay_set", ["recording_id"])["recording_id"]
    # The recording that was replayed asks the question; of others the first.
    order = recorded.with_columns(other=~pl.col("recording_id").is_in(chosen.implode())).sort("other", "recorded_at")
    questions = {request: Question(request, step) for request in requests}
    for row in order.unique("request_id", keep="first").iter_rows(named=True):
        try:
            questions[row["request_id"]] = Question.from_row(row)
        except InputError:
            del questions[row["request_id"]]
    return questions
