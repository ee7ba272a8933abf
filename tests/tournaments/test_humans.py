"""Which matches people are asked about."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from newsdesk import CONFIG, newsdesk, reopened

from qbawa.project import Home, Project, open_project
from qbawa.tournaments import stage as tournaments_stage
from qbawa.tournaments.agreement.reliability import audit
from qbawa.tournaments.agreement.stratification import strata
from qbawa.tournaments.humans import HumanTask
from qbawa.tournaments.import_verdicts import import_verdicts
from qbawa.tournaments.scores import scored_verdicts
from qbawa.tournaments.stage import play

pytestmark = pytest.mark.slow

STEP = "summarise"


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Home:
    project = newsdesk(tmp_path_factory.mktemp("people"))
    play(project, run_id="one")
    return project.home


@pytest.fixture
def project(played: Home, tmp_path: Path) -> Project:
    shutil.copytree(played.root, tmp_path / "home")
    return open_project(Home(tmp_path / "home"))


def split(project: Project) -> dict[str, bool]:
    return dict(strata(scored_verdicts(project.lake.read("verdicts", keep=pl.col("step") == STEP))).iter_rows())


def judge(project: Project, matches: list[HumanTask], person: str) -> None:
    """This person is for b, whatever the jury says."""
    rows = [(m.question.request_id, m.strategy_a, m.strategy_b, person, "b") for m in matches]
    table = pl.DataFrame(rows, schema=["request", "strategy_a", "strategy_b", "judge", "verdict"], orient="row")
    import_verdicts(project.lake, table, STEP, kind="human")
    tournaments_stage.take_human_verdicts(project)


def ids(project: Project, person: str = "anna") -> list[str]:
    return [match.match_id for match in tournaments_stage.open_tasks(project, STEP, person)]


def test_split_and_unanimous_matches_come_in_turn(project: Project) -> None:
    order, apart = ids(project), split(project)
    here = [apart[match] for match in order]
    both = 2 * min(sum(here), len(here) - sum(here))
    assert both >= 4 and here[:both] == [True, False] * (both // 2)
    assert len(set(order)) == len(order) and order == ids(project)


def test_sessions_of_one_match_add_up_to_one_long_session(project: Project) -> None:
    at_once, asked = ids(project), []
    for _ in range(4):
        match = next(tournaments_stage.open_tasks(project, STEP, "anna"))
        asked.append(match.match_id)
        judge(project, [match], "anna")
    assert asked == at_once[:4]
    assert ids(project) == at_once[4:], "what people said has moved no match"
    assert ids(project, "ben") == at_once


def test_behind_an_open_gate_the_audited_share_is_asked_about(project: Project) -> None:
    project = reopened(project.home, CONFIG.replace("verdict_budget: 400", "verdict_budget: 400, audit_share: 0.4"))
    everything = ids(project)
    judge(project, list(tournaments_stage.open_tasks(project, STEP, "anna"))[:3], "anna")
    rows = tournaments_stage.rate_judges(project).with_columns(block_id="step")
    kept = audit(everything, 0.4)
    assert 0 < len(kept) < len(everything)
    # A person whom other people agree with proves nothing of the jury.
    for proven, asked in (("rubric", kept), ("anna", everything)):
        gate = pl.when(pl.col("judge") == proven).then(pl.lit("automatic")).otherwise(pl.lit("bootstrap"))
        project.lake.replace("judge_reliability", sorted(set(rows["step"])), rows.with_columns(gate=gate))
        assert sorted(ids(project, "ben")) == sorted(asked)
