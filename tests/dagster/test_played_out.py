"""Tournaments that were played to their end are not played again; all that could open a match makes them play again."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from dagster_home import dagster_home
from newsdesk import CONFIG, newsdesk, reopened

from qbawa.cli.demo_app.pipeline import record_demo
from qbawa.project import Home, Project, open_project
from qbawa.tournaments import stage as tournaments_stage
from qbawa_assets import staleness
from qbawa_assets.staleness import note_played_out, nothing_to_play


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A newsdesk whose tournaments have been played to their end."""
    return played(newsdesk(tmp_path_factory.mktemp("finished"))).home


@pytest.fixture
def project(finished: Home, tmp_path: Path) -> Project:
    """A copy of it."""
    shutil.copytree(finished.root, tmp_path / "home")
    return open_project(Home(tmp_path / "home"))


def played(project: Project, verdict_budget: int | None = None) -> Project:
    """The project after tournaments as far as they go, and the note that a run would leave."""
    tournaments_stage.play(project, run_id="play", verdict_budget=verdict_budget)
    note_played_out(project)
    return project


def test_what_was_played_to_its_end_is_not_played_again(project: Project) -> None:
    assert nothing_to_play(project)
    again = tournaments_stage.play(project, run_id="again")
    assert again.calls_paid == again.calls_cached == 0 and not again.matches_by_request, "the note says the truth"


def test_tournaments_that_ended_early_leave_no_note(tmp_path: Path) -> None:
    project = newsdesk(tmp_path)
    assert not nothing_to_play(project)
    played(project, verdict_budget=20)  # as a cap or an outage would end them
    assert not tournaments_stage.is_played_out(project) and not nothing_to_play(project)
    played(project)
    assert nothing_to_play(project)


def test_another_verdict_budget_plays_again(project: Project) -> None:
    small = CONFIG.replace("verdict_budget: 400", "verdict_budget: 20")
    before = reopened(project.home, small)
    assert not nothing_to_play(before)
    note_played_out(before)
    assert nothing_to_play(before), "nothing more is allowed"
    assert not nothing_to_play(reopened(project.home, CONFIG))


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("replay_matrix", pl.col("answer") + " indeed"),
        ("verdicts", pl.lit("tie").alias("verdict")),
        ("strategies", pl.lit(False).alias("active")),
        ("recordings", pl.lit("{}").alias("inputs")),
    ],
)
def test_another_answer_verdict_strategy_or_question_plays_again(project: Project, table: str, change: pl.Expr) -> None:
    project.lake.merge(table, project.lake.read(table).head(1).with_columns(change))
    assert not nothing_to_play(project)


def test_another_version_of_qbawa_plays_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staleness, "__version__", "0.0.1")
    assert not nothing_to_play(project)


def test_a_verdict_that_came_while_the_end_was_looked_for_is_not_missed(project: Project) -> None:
    project.notes.put("stages.json", "")
    now = staleness.Unchanged(project)
    row = project.lake.read("verdicts").head(1).with_columns(verdict=pl.lit("tie"))
    project.lake.merge("verdicts", row)  # by another process
    now.note_as_seen("play", (), "verdicts")
    assert not staleness.Unchanged(project).since("play", (), "verdicts")


def test_a_run_plays_on_where_its_last_verdicts_have_opened_a_match() -> None:
    """Three articles of the newsdesk are such a case: what the next run would ask belongs to the one that opened it."""
    with dagster_home() as here:
        here.home.root.mkdir(exist_ok=True)
        here.home.config.write_text(CONFIG)
        record_demo(here.home.journal, 3)
        assert here.run("flywheel").success
        assert tournaments_stage.is_played_out(here.project)
        assert tournaments_stage.play(here.project, run_id="again").verdicts == 0
