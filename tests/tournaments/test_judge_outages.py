"""Judges in trouble: an outage spoils no match, a judge that cannot be read is stopped early, and what to do is said."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from newsdesk import CONFIG, newsdesk, reopened
from scripted_provider import ScriptedProvider, scripted_provider

from qbawa.judges.prompt import read_blocks
from qbawa.project import Project
from qbawa.tournaments.circuit_breaker import UNREADABLE_AT_FIRST
from qbawa.tournaments.play import PlayReport
from qbawa.tournaments.stage import play

pytestmark = pytest.mark.slow

UNWELL = '{"error": {"message": "upstream is unwell"}}'
HTML = "<html><body>Sign in to continue</body></html>"


def by_length(prompt: str) -> str:
    """What a judge says that likes long answers, whichever way it is asked."""
    blocks = read_blocks(prompt)
    lengths = {number: len(blocks[f"answer_{number}"]) for number in range(1, len(blocks))}
    best = sorted(lengths, key=lambda number: -lengths[number])
    if '"ranking"' in prompt:
        return json.dumps({"rationale": "by length", "ranking": best})
    if '"score"' in prompt:
        return json.dumps({"rationale": "by length", "score": min(10, lengths[1] / 50)})
    return json.dumps({"rationale": "by length", "verdict": "tie" if lengths[1] == lengths[2] else str(best[0])})


@pytest.fixture
def judge() -> Iterator[ScriptedProvider]:
    with scripted_provider() as provider:
        provider.say = by_length
        yield provider


def desk(folder: Path, provider: ScriptedProvider, more: str = "", **others: str) -> Project:
    """Round robins, 60 matches of `summarise` and 18 of `triage`, that a scripted judge and maybe others decide."""
    model = f"{{base_url: '{provider.base_url}', free: true, max_attempts: 2, max_in_flight: 8}}"
    jury = ", ".join([f"scripted: {{model: scripted{more}}}", *(f"{name}: {text}" for name, text in others.items())])
    config = f"models: {{scripted: {model}}}\n" + re.sub(r"judges:.*", f"judges: {{{jury}}}", CONFIG)
    config = config.replace("{verdict_budget: 400}", "{format: round_robin, goal: order, confidence: 0.999}")
    return reopened(newsdesk(folder).home, config)


def summarised(project: Project, requests: int = 3, **options: Any) -> PlayReport:
    """Of these requests, 10 matches each in both orders."""
    return play(
        project, run_id="run", steps=["summarise"], requests=[f"demo-0{n + 1}" for n in range(requests)], **options
    )


def verdicts(project: Project) -> pl.DataFrame:
    return project.lake.read("verdicts").sort("verdict_id")


def decisions(project: Project) -> dict[str, tuple[str | None, float | None, int, int]]:
    columns = ["match_id", "winner", "p_a", "verdicts", "unscored"]
    return {match: tuple(rest) for match, *rest in project.lake.read("matches", columns).iter_rows()}  # type: ignore[misc]


# ── outages ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "failure", "said"),
    [
        ("pairwise", (500, UNWELL), "upstream is unwell"),
        ("pairwise", (200, HTML), "malformed"),
        ("pairwise", (302, ""), "redirects"),
        ("pointwise", (404, UNWELL), "unknown model"),
        ("listwise", (500, UNWELL), "upstream is unwell"),
    ],
)
def test_an_outage_leaves_no_verdict_and_the_next_run_goes_on_where_it_began(
    tmp_path: Path, judge: ScriptedProvider, kind: str, failure: tuple[int, str], said: str
) -> None:
    project = desk(tmp_path / "out", judge, f", kind: {kind}")
    seen: list[str] = []

    def fails(prompt: str) -> tuple[int, str] | None:
        seen.append(prompt)
        return failure if len(seen) > 8 else None

    judge.fails = fails
    report = summarised(project, requests=2)
    assert report.steps["summarise"].stopped and report.unfinished and report.failure is not None
    assert said in report.failure and "Judge 'scripted' (model 'scripted')" in report.failure
    assert "`qbawa run tournament_sweep` goes on where this run stopped" in report.failure
    before = verdicts(project)
    assert "unscored" not in set(before["verdict"])
    judge.fails = lambda prompt: None
    report = summarised(project, requests=2)
    assert report.failure is None and not report.unfinished
    assert judge.asked_again() == 0, "what was paid before the outage is not paid again"
    other = desk(tmp_path / "never", judge, f", kind: {kind}")
    summarised(other, requests=2)
    assert decisions(project) == decisions(other)
    assert verdicts(project).drop("judged_at", "cost_usd").equals(verdicts(other).drop("judged_at", "cost_usd"))


def test_one_judges_outage_keeps_what_the_other_said_in_the_ledger(tmp_path: Path, judge: ScriptedProvider) -> None:
    project = desk(tmp_path, judge, ", rubric: UP", down="{model: scripted, rubric: DOWN}")
    judge.fails = lambda prompt: (503, UNWELL) if "DOWN" in prompt else None
    report = summarised(project)
    assert verdicts(project).is_empty() and "Judge 'down'" in (report.failure or "")
    judge.fails = lambda prompt: None
    assert summarised(project).failure is None
    assert judge.asked_again() == 0 and set(verdicts(project)["judge"]) == {"scripted", "down"}


def test_a_step_whose_judge_is_away_stops_no_other_step(tmp_path: Path, judge: ScriptedProvider) -> None:
    project = desk(tmp_path, judge)
    judge.fails = lambda prompt: (500, UNWELL) if '"article"' in prompt or "Sum this article up" in prompt else None
    report = play(project, run_id="run")
    assert report.steps["summarise"].stopped and not report.steps["triage"].stopped
    assert set(verdicts(project)["step"]) == {"triage"}
    assert report.failure is not None and "Step 'summarise'" in report.failure


@pytest.mark.parametrize("kind", ["pairwise", "pointwise", "listwise"])
def test_a_lake_that_an_outage_has_spoiled_heals(tmp_path: Path, judge: ScriptedProvider, kind: str) -> None:
    project = desk(tmp_path, judge, f", kind: {kind}")
    summarised(project, requests=2)
    healthy, decided = verdicts(project), decisions(project)
    # As versions before this one left an outage: a row without a reply, and no call that was answered.
    why = "The call failed, http_500: gave up after 2 attempts: http 500 (HTTP 500): no message"
    raw = (
        pl.col("raw").str.replace(r'"reply": .*\}$', '"reply": null}')
        if kind == "listwise"
        else pl.lit(None, pl.String).alias("raw")
    )
    spoiled = healthy.with_columns(
        raw, verdict=pl.lit("unscored"), preference=pl.lit(None, pl.Float64), rationale=pl.lit(why), cost_usd=0.0
    )
    project.lake.merge("verdicts", spoiled)
    project.lake.delete("calls", "purpose = 'judge'")
    asked = judge.calls
    report = summarised(project, requests=2, verdict_budget=spoiled.height)
    assert judge.calls == 2 * asked and report.failure is None, "what the outage spoiled counts against no budget"
    assert decisions(project) == decided and set(verdicts(project)["verdict"]) == set(healthy["verdict"])


def test_a_prompt_that_the_provider_refuses_is_unscored_for_good(tmp_path: Path, judge: ScriptedProvider) -> None:
    project = desk(tmp_path, judge)
    refusal = '{"error": {"code": "content_filter", "message": "flagged"}}'
    judge.fails = lambda prompt: (400, refusal) if "Sure! Here" in prompt else None
    report = summarised(project)
    refused = verdicts(project).filter(pl.col("verdict") == "unscored")
    assert report.failure is None and refused.height
    assert refused["rationale"].str.starts_with("The call failed, refused").all()
    judge.fails = lambda prompt: None
    asked = judge.calls
    summarised(project)
    assert judge.calls == asked


# ── a judge that stops, a cap that is reached ────────────────────────────────────────────────────────────────────────


def test_a_judge_that_is_stopped_says_so_and_keeps_what_was_judged(tmp_path: Path, judge: ScriptedProvider) -> None:
    project = desk(tmp_path, judge)
    judge.fails = lambda prompt: (401, UNWELL) if judge.calls >= 40 else None
    report = summarised(project)
    assert report.failure is not None and "wrong key (HTTP 401): upstream is unwell" in report.failure
    assert 30 <= verdicts(project).height <= judge.calls
    judge.fails = lambda prompt: None
    assert summarised(project).failure is None and judge.asked_again() == 0


def test_a_dollar_cap_that_is_reached_is_named_and_no_failure(tmp_path: Path, judge: ScriptedProvider) -> None:
    project = desk(tmp_path, judge)
    config = project.home.config.read_text().replace(
        "free: true", "input_usd_per_million: 100, output_usd_per_million: 100"
    )
    project = reopened(project.home, config)
    report = summarised(project, usd=0.5)
    assert report.failure is None and report.steps["summarise"].stopped == "cap"
    assert "$0.5 a run" in report.summary() and "raise the cap" in report.summary()
    assert 0 < verdicts(project).height < 60 and report.cost_usd <= 0.5
    assert summarised(project).failure is None and judge.asked_again() == 0


# ── a judge that cannot be read ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["pairwise", "pointwise", "listwise"])
def test_a_judge_that_answers_in_prose_is_stopped_early_and_shown(
    tmp_path: Path, judge: ScriptedProvider, kind: str
) -> None:
    judge.say = lambda prompt: "I rather like \x1b[31mthe first one, on the whole. " * 20
    project = desk(tmp_path, judge, f", kind: {kind}")
    report = summarised(project, requests=6)
    assert report.failure is not None and "Judge 'scripted' (model 'scripted') gave" in report.failure
    assert "One begins 'I rather like" in report.failure and "\x1b" not in report.failure
    assert "response_format: json_schema" in report.failure and len(report.failure) < 900
    said = verdicts(project)
    assert UNREADABLE_AT_FIRST <= said["call_key"].n_unique() < 2 * UNREADABLE_AT_FIRST
    assert set(said["verdict"]) == {"unscored"} and report.steps["summarise"].answer == []
    # Nothing is lost: with another rubric all is asked, and read.
    judge.say = by_length
    project = reopened(
        project.home,
        project.home.config.read_text().replace(
            "scripted: {model: scripted", "scripted: {rubric: JSON, model: scripted"
        ),
    )
    assert summarised(project, requests=6).failure is None
    assert set(verdicts(project)["verdict"]) <= {"a", "b", "tie"}


def test_one_judge_of_a_jury_that_cannot_be_read_stops_it(tmp_path: Path, judge: ScriptedProvider) -> None:
    judge.say = lambda prompt: "Hm." if "MUMBLE" in prompt else by_length(prompt)
    project = desk(tmp_path, judge, mumbles="{model: scripted, rubric: MUMBLE}")
    report = summarised(project)
    assert "Judge 'mumbles'" in (report.failure or "") and judge.calls == 2 * UNREADABLE_AT_FIRST
    assert set(project.lake.read("matches", keep=pl.col("origin") == "tournament")["unscored"]) == {1}
    assert project.lake.read("matches")["p_a"].null_count() == 0, "the other one was heard"


def test_a_judge_that_can_be_read_now_and_then_is_not_stopped(tmp_path: Path, judge: ScriptedProvider) -> None:
    judge.say = lambda prompt: by_length(prompt) if judge.calls % 20 == 19 else "Hm."
    project = desk(tmp_path, judge)
    report = summarised(project)
    assert report.failure is None and report.steps["summarise"].unscored > UNREADABLE_AT_FIRST


def test_without_a_scored_match_no_strategy_is_named(tmp_path: Path, judge: ScriptedProvider) -> None:
    judge.say = lambda prompt: "Hm."
    report = play(desk(tmp_path, judge), run_id="run", steps=["triage"])
    assert report.failure is None and report.steps["triage"].reason == "exhausted"
    assert report.steps["triage"].answer == []
