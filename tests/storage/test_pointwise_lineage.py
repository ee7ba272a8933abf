"""A pointwise verdict stands on two paid calls; lineage and forgetting know both."""

from pathlib import Path

import polars as pl
import pytest
from newsdesk import CONFIG, newsdesk, reopened

from qbawa.datasets import stage as datasets_stage
from qbawa.erasure import forget
from qbawa.project import Project
from qbawa.storage.lineage import trace
from qbawa.tournaments import stage as tournaments_stage
from qbawa.tournaments.stage import play

POINTWISE = CONFIG.replace(
    "judges: {rubric: {model: offline/judge}, strict: {model: offline/judge-strict}}",
    "judges: {scorer: {model: offline/judge, kind: pointwise}}",
)


def judged(folder: Path) -> Project:
    project = reopened(newsdesk(folder).home, POINTWISE)
    play(project, run_id="pointwise")
    tournaments_stage.rate_strategies(project)
    datasets_stage.build_qbawa(project)
    return project


@pytest.mark.slow
def test_a_pointwise_verdict_is_traced_to_both_its_calls(tmp_path: Path) -> None:
    lake = judged(tmp_path).lake
    verdict = lake.read("verdicts", keep=pl.col("judge") == "scorer").row(0, named=True)
    one, two = verdict["call_key"].split("+")
    forward = trace(lake, verdict["match_id"]).tables
    assert {one, two} <= set(forward["calls"]["call_key"])
    for key in (one, two):
        assert verdict["verdict_id"] in set(trace(lake, key).tables["verdicts"]["verdict_id"])


@pytest.mark.slow
def test_forgetting_a_request_removes_the_calls_of_its_pointwise_verdicts(tmp_path: Path) -> None:
    project = judged(tmp_path)
    held = project.lake.read("verdicts", ["request_id", "call_key"], keep=pl.col("judge") == "scorer")
    request = held["request_id"][0]
    keys = {k for r, both in held.iter_rows() if r == request for k in both.split("+")}
    others = {k for r, both in held.iter_rows() if r != request for k in both.split("+")}
    forget(project.lake, project.home, request, journals=project.journals)
    left = set(project.lake.read("calls", ["call_key"])["call_key"])
    assert not (keys - others) & left
    assert others <= left
