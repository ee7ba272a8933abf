"""What judging would cost, said beforehand: never less than what playing then asks, and nothing where nothing is left."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from newsdesk import CONFIG, newsdesk, reopened
from scripted_provider import ScriptedProvider, scripted_provider

from qbawa.cli.plan import command
from qbawa.project import Project
from qbawa.replay import stage as replay_stage
from qbawa.replay.cells import choose_cells
from qbawa.replay.stage import replay, wanted_cells
from qbawa.tournaments.estimate import VERDICT_OUTPUT, JudgePlan, judging_minutes
from qbawa.tournaments.stage import plan_judging, play

pytestmark = pytest.mark.slow

ONE = "{a: {model: a, rubric: LONG}}"
TWO = "{a: {model: a, rubric: LONG}, b: {model: b}}"
JURIES = {
    "two": TWO,
    "both": "{a: {model: a, order: both}}",
    "pointwise": "{a: {model: a, kind: pointwise}}",
    "listwise": "{a: {model: a, kind: listwise}}",
    "mixed": "{a: {model: a, order: both}, b: {model: b, kind: pointwise}, c: {model: b, kind: listwise}}",
}
PLAY_ALL = "format: round_robin, goal: order, confidence: 0.9999999"


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    def say(prompt: str) -> str:
        texts = [json.loads(text) for text in re.findall(r"<answer_\d+>(.*?)</answer_\d+>", prompt, flags=re.S)]
        if '"ranking"' in prompt:
            order = sorted(range(1, len(texts) + 1), key=lambda number: -len(texts[number - 1]))
            return json.dumps({"rationale": "by length", "ranking": order})
        if '"score"' in prompt:
            return json.dumps({"rationale": "by length", "score": min(10, len(texts[0]) / 100)})
        one, two = map(len, texts)
        return json.dumps({"rationale": "by length", "verdict": "tie" if one == two else "1" if one > two else "2"})

    with scripted_provider() as running:
        running.say = say
        yield running


def config(provider: ScriptedProvider, judges: str, tournament: str = PLAY_ALL, more: str = "") -> str:
    model = f"base_url: '{provider.base_url}', input_usd_per_million: 2, output_usd_per_million: 8"
    models = f"models: {{a: {{{model}}}, b: {{{model}, requests_per_minute: 6000}}}}\n"
    text = re.sub(r"judges:.*", f"judges: {judges}", CONFIG)
    return models + re.sub(r"tournament:.*", f"tournament: {{{tournament}}}", text) + more


def nothing(project: Project) -> pl.DataFrame:
    return wanted_cells(project.lake).clear()


def said(project: Project) -> dict[tuple[str, str], JudgePlan]:
    return {(row.step, row.judge): row for row in plan_judging(project, nothing(project))}


def calls_of(project: Project) -> Counter[tuple[str, str]]:
    calls = project.lake.read("calls", ["step", "judge"], keep=pl.col("purpose") == "judge")
    return Counter(calls.iter_rows())


def plan_then_play(project: Project, run_id: str, planned: pl.DataFrame | None = None) -> tuple[int, int]:
    """Plays, holds what was asked against the plan, and returns calls planned and made."""
    cells = nothing(project) if planned is None else planned
    plans = plan_judging(project, cells)
    if planned is not None:
        replay(project, planned, run_id=run_id)
        # Dollars follow from answers that are there: now the new ones are, too.
        priced = plan_judging(project, nothing(project))
    else:
        priced = plans
    before = calls_of(project)
    report = play(project, run_id=run_id)
    made = calls_of(project) - before
    for step in {row.step for row in plans}:
        rows = [row for row in plans if row.step == step]
        assert report.steps[step].verdicts <= sum(row.verdicts_at_most for row in rows)
    by_call = {(row.step, row.judge): row.calls_at_most for row in plans}
    assert all(count <= by_call[key] for key, count in made.items()), (made, by_call)
    assert report.cost_usd <= sum(row.cost_usd_at_most for row in priced)
    return sum(by_call.values()), report.calls_paid


@pytest.mark.parametrize(
    ("jury", "tournament"),
    [
        ("both", PLAY_ALL),
        ("pointwise", PLAY_ALL),
        ("listwise", PLAY_ALL),
        ("mixed", "format: auto, verdict_budget: 61"),
        ("two", "format: swiss, goal: top_k, k: 2"),
    ],
)
def test_playing_never_pays_more_than_was_said(
    tmp_path: Path, provider: ScriptedProvider, jury: str, tournament: str
) -> None:
    judges = JURIES[jury]
    project = reopened(newsdesk(tmp_path).home, config(provider, judges, tournament))
    verdicts = sum(row.verdicts_at_most for row in said(project).values())
    planned, paid = plan_then_play(project, "one")
    assert 0 < paid <= planned
    if tournament == PLAY_ALL:
        assert project.lake.read("verdicts").height == verdicts, "where everything is played the bound is met"
    assert all(row.verdicts_at_most == row.calls_at_most == 0 for row in said(project).values()), "it has ended"
    assert plan_then_play(project, "again") == (0, 0)
    other = config(
        provider, judges.replace("model: a", "model: a, rubric: SHORT").replace(", rubric: LONG", ""), tournament
    )
    planned, paid = plan_then_play(reopened(project.home, other), "another rubric")
    assert 0 < paid <= planned


def test_a_tournament_that_was_stopped_has_left_what_its_budget_did_not_allow(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    project = reopened(newsdesk(tmp_path).home, config(provider, TWO, f"{PLAY_ALL}, verdict_budget: 20"))
    assert {row.verdicts_at_most for row in said(project).values()} == {10}
    play(project, run_id="one")
    assert {row.verdicts_at_most for row in said(project).values()} == {0}
    project = reopened(project.home, config(provider, TWO, f"{PLAY_ALL}, verdict_budget: 24"))
    assert {row.verdicts_at_most for row in said(project).values()} == {2}
    planned, paid = plan_then_play(project, "two")
    assert 0 < paid <= planned == 8
    versions = project.lake.versions()
    assert said(project) == said(project) and project.lake.versions() == versions, "a plan changes nothing"


def test_another_rubric_is_planned_to_be_asked_again_and_the_first_one_again_is_free(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    project = reopened(newsdesk(tmp_path).home, config(provider, TWO))
    play(project, run_id="one")
    judged = Counter(project.lake.read("verdicts", ["step", "judge"]).iter_rows())
    project = reopened(project.home, config(provider, TWO.replace("LONG", "SHORT")))
    for (step, judge), row in said(project).items():
        assert row.asked_anew_at_most == (judged[step, judge] if judge == "a" else 0)
        assert row.calls_at_most == (row.verdicts_at_most if judge == "a" else 0), "the other judge's words are held"
    assert plan_then_play(project, "two")[0] == sum(count for (_, judge), count in judged.items() if judge == "a")
    back = said(reopened(project.home, config(provider, TWO)))
    assert all(row.verdicts_at_most > 0 and row.calls_at_most == 0 for row in back.values())


def test_a_judge_who_joins_is_asked_about_everything_and_the_others_about_nothing(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    project = reopened(newsdesk(tmp_path).home, config(provider, ONE))
    play(project, run_id="one")
    project = reopened(project.home, config(provider, TWO))
    rows = said(project)
    assert all((row.calls_at_most > 0) == (judge == "b") for (_, judge), row in rows.items())
    assert not any(row.asked_anew_at_most for row in rows.values())
    planned, paid = plan_then_play(project, "two")
    assert 0 < paid <= planned


@pytest.mark.parametrize("judges", [JURIES["pointwise"], JURIES["mixed"]], ids=["pointwise", "mixed"])
def test_cells_that_are_to_come_are_counted(tmp_path: Path, provider: ScriptedProvider, judges: str) -> None:
    project = reopened(newsdesk(tmp_path).home, config(provider, judges))
    project.lake.replace(
        "replay_matrix", project.lake.blocks("replay_matrix"), project.lake.read("replay_matrix").clear()
    )
    cells = choose_cells(wanted_cells(project.lake))
    assert all(row.calls_at_most == 0 for row in plan_judging(project, nothing(project)))
    planned, paid = plan_then_play(project, "one", cells)
    assert 0 < paid <= planned
    text = config(provider, judges).replace("offline/triage-null", "offline/triage-null, offline/triage-sloppy")
    project = reopened(project.home, text)
    replay_stage.declare_strategies(project)
    planned, paid = plan_then_play(project, "two", choose_cells(wanted_cells(project.lake)))
    assert 0 < paid <= planned


def test_tokens_are_those_of_real_prompts_and_of_what_the_judge_said_before(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    project = reopened(newsdesk(tmp_path).home, config(provider, TWO, "format: auto, verdict_budget: 40"))
    assert {(row.output_tokens_per_call, row.guessed) for row in said(project).values()} == {(VERDICT_OUTPUT, True)}
    play(project, run_id="one")
    capped = TWO.replace("model: b", "model: b, params: {max_tokens: 5}").replace("LONG", "SHORT")
    project = reopened(project.home, config(provider, capped))
    rows = said(project)
    assert {(judge, row.output_tokens_per_call, row.guessed) for (_, judge), row in rows.items()} == {
        ("a", 9, False), ("b", 5, False),
    }  # fmt: skip
    real = project.lake.query("SELECT step, judge, avg(input_tokens) FROM calls WHERE purpose = 'judge' GROUP BY ALL")
    for step, judge, tokens in real.iter_rows():
        row = rows[step, judge]
        assert tokens < row.input_tokens_per_call < 1.4 * tokens
        each = (row.input_tokens_per_call * 2 + row.output_tokens_per_call * 8) / 1e6
        assert row.cost_usd_at_most == pytest.approx(row.calls_at_most * each)
    assert rows["summarise", "b"].minutes_at_most >= rows["summarise", "b"].calls_at_most / 6000
    slowest = max(row.minutes_at_most for (step, _), row in rows.items() if step == "summarise")
    assert slowest < judging_minutes(rows.values()) < sum(row.minutes_at_most for row in rows.values())


def test_judges_that_cost_nothing_or_cannot_be_asked_cost_nothing_and_the_reason_is_given(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    judges = "{free: {model: offline/judge}, a: {model: a, rubric: '{{ nowhere }}'}, half: {model: half}}"
    text = config(provider, judges).replace("models: {", "models: {half: {input_usd_per_million: 1}, ")
    rows = said(reopened(newsdesk(tmp_path).home, text))
    free, a, half = (rows["summarise", name] for name in ("free", "a", "half"))
    assert free.calls_at_most > 0 and free.cost_usd_at_most == free.minutes_at_most == 0 and free.problem is None
    assert a.calls_at_most == 0 and "nowhere" in (a.problem or "")
    assert half.calls_at_most == 0 and "only one of" in (half.problem or "")


def test_the_command_shows_the_bound_and_which_cap_lies_below_it(
    tmp_path: Path, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = reopened(
        newsdesk(tmp_path).home, config(provider, TWO, more="budget: {usd_per_run: 0.01, usd_per_day: 90}")
    )
    monkeypatch.setenv("QBAWA_HOME", str(project.home.root))
    shown = CliRunner().invoke(command, []).output
    plans = plan_judging(project, nothing(project))
    assert "Judging, at most" in shown and "Below the bound: $0.01 a run. What would exceed it is not asked" in shown
    calls = sum(row.calls_at_most for row in plans)
    assert (
        calls > 100
        and re.search(rf"all +│? *{calls} +0 +{calls} ", shown)
        and "200 output tokens a call at most are guessed: a, b" in shown
    )
    printed = json.loads(CliRunner().invoke(command, ["--json"]).output)
    assert printed["judging"] == [asdict(row) for row in plans]
    assert {"cells", "calls", "cached_calls", "calls_to_pay", "cost_usd", "minutes"} <= printed.keys()
    assert printed["total_at_most"]["calls"] == printed["calls_to_pay"] + sum(row.calls_at_most for row in plans)
    assert printed["total_at_most"]["cost_usd"] == pytest.approx(sum(row.cost_usd_at_most for row in plans))
    assert provider.calls == 0


def test_a_plan_with_configured_prices_does_without_the_heavy_libraries(
    tmp_path: Path, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = reopened(newsdesk(tmp_path).home, config(provider, TWO))
    monkeypatch.setenv("QBAWA_HOME", str(project.home.root))
    code = (
        "import sys\nfrom qbawa.cli.plan import command\ncommand([], standalone_mode=False)\n"
        "assert not {'litellm', 'dagster'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Judging, at most" in done.stdout, done.stderr
