"""Which models have failed as a whole: those whose every cell failed for a reason of theirs, in the run that asked last."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from qbawa.replay.silent_models import BY_CHANCE, describe, silent_models
from qbawa.replay.strategies.strategy import Strategy, Template

TIMES = pl.Datetime("us", "UTC")
BEGAN = datetime(2026, 11, 20, tzinfo=UTC)


def strategy(name: str, model: str, **program: object) -> Strategy:
    return Strategy(name, name, "s", model, Template("prompt", "{{ q }}"), program={"kind": "single", **program})


A, B = strategy("a", "one"), strategy("b", "two")
MIXED = strategy("mixed", "one", kind="mixture_of_agents", proposers=("two", "three"))


def silent(*cells: tuple[str, str | None, str], strategies: tuple[Strategy, ...] = (A, B)) -> list[str]:
    """Models that are silent after these cells: (strategy, error, run), one after the other."""
    rows = [
        (run, name, "failed" if error else "ok", error and f"{error}: it says", BEGAN + timedelta(minutes=n))
        for n, (name, error, run) in enumerate(cells)
    ]
    columns = {"run_id": pl.String, "strategy_id": pl.String, "status": pl.String, "error": pl.String}
    frame = pl.DataFrame(rows, schema={**columns, "answered_at": TIMES}, orient="row")
    return [found.model for found in silent_models(frame, {each.strategy_id: each for each in strategies})]


@pytest.mark.parametrize("reason", ["wrong_key", "unknown_model", "connection", "no_permission", "quota_exhausted"])
def test_a_model_whose_every_cell_fails_so_is_silent(reason: str) -> None:
    assert silent(("a", reason, "r"), ("a", reason, "r"), ("b", None, "r")) == ["one"]


@pytest.mark.parametrize("reason", ["refused", "bad_request", "template", "context_too_long"])
def test_what_lies_in_the_question_says_nothing_of_the_model(reason: str) -> None:
    assert silent(*[("a", reason, "r")] * 50) == []


def test_one_answer_speaks_for_the_model() -> None:
    assert silent(*[("a", "connection", "r")] * 50, ("a", None, "r")) == []


def test_a_last_cell_that_times_out_every_night_stops_nothing_and_many_do() -> None:
    assert silent(*[("a", "timeout", "r")] * (BY_CHANCE - 1)) == []
    assert silent(*[("a", "timeout", "r")] * BY_CHANCE) == ["one"]


def test_the_run_that_asked_last_counts() -> None:
    assert silent(("a", "wrong_key", "monday"), ("a", None, "tuesday")) == []
    assert silent(("a", None, "monday"), ("a", "wrong_key", "tuesday")) == ["one"]


def test_a_program_of_several_models_speaks_for_and_against_each() -> None:
    cells = [("mixed", "wrong_key", "r"), ("a", None, "r")]
    assert silent(*cells, strategies=(A, MIXED)) == ["three", "two"]
    assert silent(("mixed", None, "r"), strategies=(A, MIXED)) == []


def test_a_strategy_that_is_no_more_says_nothing() -> None:
    assert silent(("gone", "wrong_key", "r")) == [] == silent()


def test_the_sentence_says_which_model_why_and_how_to_go_on() -> None:
    frame = pl.DataFrame(
        {"run_id": ["r"] * 2, "strategy_id": ["a"] * 2, "status": ["failed"] * 2, "error": ["wrong_key: HTTP 401."] * 2}
    ).with_columns(answered_at=pl.lit(BEGAN, TIMES))
    said = describe(silent_models(frame, {"a": A}))
    assert said.startswith("Model 'one' gave no answer: all 2 of its cells failed (wrong_key: HTTP 401).")
    assert "qbawa run flywheel" in said and "qbawa run tournament_sweep" in said
