"""A step's state is made of rows and gives rows: no lake, no project, no clock that matters."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from qbawa.config import JudgeConfig
from qbawa.engine.prompting.question import Question
from qbawa.errors import FinalError
from qbawa.ids import cell_id
from qbawa.judges.jury import to_verdict_row
from qbawa.storage.frames import frame, schema_of
from qbawa.tournaments.formats import Match
from qbawa.tournaments.step_state import Answer, StepState

STEP = "summarise"
JURY = {"strict": JudgeConfig(model="offline/judge"), "kind": JudgeConfig(model="offline/judge-strict")}
MATCH = Match("r1", "s_long", "s_short", 1, 1)


def state(
    verdicts: Sequence[dict[str, object]] = (), matches: pl.DataFrame | None = None, jury: dict[str, JudgeConfig] = JURY
) -> StepState:
    return StepState(
        STEP,
        jury,
        7,
        answers={(s, "r1"): Answer(f"{s} says so", cell_id("r1", STEP, s)) for s in ("s_long", "s_short")},
        questions={"r1": Question("r1", STEP, inputs={"article": "Trams run."})},
        verdicts=frame("verdicts", verdicts),
        reread=frame("verdicts", []),
        matches=frame("matches", []) if matches is None else matches,
    )


def judged(step: StepState, **named: str) -> list[dict[str, object]]:
    """A row of each judge, who names the answer given here."""
    rows = []
    for call in step.calls(MATCH):
        row = to_verdict_row(call, FinalError("refused", "not asked in this test"))
        rows.append(row | {"verdict": named[call.judge], "preference": {"a": 1.0, "b": 0.0}[named[call.judge]]})
    return rows


def test_what_is_added_comes_out_as_rows_of_the_lakes_tables() -> None:
    step = state()
    assert step.add(MATCH, judged(step, strict="a", kind="b"))
    decided = step.rows_of([step.id_of(MATCH)])
    assert decided.verdicts.schema == schema_of("verdicts") and decided.matches.schema == schema_of("matches")
    assert sorted(decided.verdicts["judge"]) == ["kind", "strict"]
    [row] = decided.matches.rows(named=True)
    assert (row["winner"], row["verdicts"], row["dissent"], row["round"]) == ("a", 2, 0.5, 1), "the first judge decides"


def test_a_state_made_of_what_another_gave_goes_on_where_that_one_stood() -> None:
    step = state()
    step.add(MATCH, judged(step, strict="b", kind="b"))
    decided = step.rows_of([step.id_of(MATCH)])
    again = state(decided.verdicts.rows(named=True), decided.matches)
    assert [(result.match.b, result.p_a, result.verdicts) for result in again.past_results] == [("s_short", 0.0, 2)]
    assert again.redecide().matches.equals(decided.matches) and again.undecided == 0
    other = {**JURY, "strict": JudgeConfig(model="offline/judge", rubric="Shorter is better.")}
    changed = state(decided.verdicts.rows(named=True), decided.matches, other)
    assert changed.past_results == [], "one judge of two would be asked something else now"
    [row] = changed.redecide().matches.rows(named=True)
    assert (row["verdicts"], row["winner"]) == (1, "b"), "the other's verdict still counts"


def test_a_state_of_nothing_decides_nothing() -> None:
    decided = state().redecide()
    assert decided.matches.is_empty() and decided.verdicts.is_empty()
    assert state().rows_of([]).matches.schema == schema_of("matches")
