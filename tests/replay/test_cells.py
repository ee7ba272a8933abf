"""Cells of the replay matrix: which there are, which are due, and what answering them leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from scripted_provider import ScriptedProvider, scripted_provider

from qbawa.errors import InputError
from qbawa.ids import cell_id, recorded_id
from qbawa.project import Home, Project, open_project
from qbawa.replay.cells import choose_cells
from qbawa.replay.stage import named_cells, plan, replay, wanted_cells
from qbawa.replay.strategies.repository import write_strategies
from qbawa.replay.strategies.strategy import Strategy, Template, make_strategy, recorded_strategy
from qbawa.storage.frames import frame, now
from qbawa.storage.lake import Lake


def strategy(name: str, step: str = "sum", model: str = "offline/lead", prompt: str = "Sum up: {{ text }}") -> Strategy:
    """Strategies that differed in name alone would be one."""
    params = {"stop": [f"<{name}>"], "max_tokens": 20}
    return make_strategy(name=name, step=step, model=model, template=Template("prompt", prompt), params=params)


A, B, C = strategy("a"), strategy("b"), strategy("c", step="sort")
RECORDED = recorded_id("sum")


def record(lake: Lake, *executions: dict[str, Any]) -> None:
    """Executions of steps: request_id, and what differs from a good run of `sum`."""
    rows = [
        {"recording_id": f"{e['request_id']}/{e.get('step', 'sum')}", "step": "sum", "output": "A summary.",
         "inputs": json.dumps({"text": f"Of {e['request_id']}. It was read."}), "cost_usd": 0.25, "latency_s": 1.5,
         "input_tokens": 40, "output_tokens": 4, "recorded_at": now(), "block_id": "b"} | e
        for e in executions
    ]  # fmt: skip
    lake.replace("recordings", ["b"], frame("recordings", rows))


def choose(lake: Lake, *chosen: tuple[str, str]) -> None:
    """The replay set: (step, request)."""
    rows = [
        {"step": s, "request_id": r, "recording_id": f"{r}/{s}", "reason": "coverage", "cluster": r, "block_id": s}
        for s, r in chosen
    ]
    lake.replace("replay_set", ["sum", "sort"], frame("replay_set", rows))


def answered(lake: Lake, request: str, way: Strategy, status: str = "ok", days_ago: float = 0) -> None:
    row = {"cell_id": cell_id(request, way.step, way.strategy_id), "request_id": request, "step": way.step,
           "strategy_id": way.strategy_id, "sample": 0, "status": status, "answer": "An answer." if status == "ok" else None,
           "answered_at": now() - timedelta(days=days_ago), "block_id": request}  # fmt: skip
    lake.merge("replay_matrix", frame("replay_matrix", [row]))


def states(cells: pl.DataFrame) -> dict[tuple[str, str], str]:
    return {(r, s): state for r, s, state in cells.select("request_id", "strategy_id", "state").iter_rows()}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Two requests that ran `sum`, one of which ran `sort` too; strategies a and b of `sum`, c of `sort`."""
    lake = Lake(tmp_path / "lake")
    record(lake, {"request_id": "r1"}, {"request_id": "r2"}, {"request_id": "r1", "step": "sort"})
    choose(lake, ("sum", "r1"), ("sum", "r2"), ("sort", "r1"))
    write_strategies(lake, [recorded_strategy("sum"), A, B, C])
    return lake


# ── which cells there are ────────────────────────────────────────────────────────────────────────────────────────────


def test_every_chosen_request_meets_every_active_strategy_of_its_step(lake: Lake) -> None:
    cells = wanted_cells(lake)
    expected = {(r, s) for r in ("r1", "r2") for s in (A.strategy_id, B.strategy_id, RECORDED)} | {
        ("r1", C.strategy_id)
    }
    assert set(states(cells)) == expected
    assert set(cells["state"]) == {"missing"} and cells["answered_at"].null_count() == cells.height
    assert cells["cell_id"].to_list() == [
        cell_id(*key) for key in cells.select("request_id", "step", "strategy_id").rows()
    ]
    assert cells.select("request_id", "strategy_id").rows() == sorted(expected)


def test_a_strategy_that_left_the_configuration_has_no_cells_to_answer_and_keeps_its_answers(lake: Lake) -> None:
    answered(lake, "r1", B)
    write_strategies(lake, [recorded_strategy("sum"), A, C])
    assert {s for _, s in states(wanted_cells(lake))} == {A.strategy_id, C.strategy_id, RECORDED}
    assert lake.read("replay_matrix").height == 1
    write_strategies(lake, [recorded_strategy("sum"), A, B, C])
    assert states(wanted_cells(lake))["r1", B.strategy_id] == "ok"


def test_production_competes_only_where_it_gave_an_answer(lake: Lake) -> None:
    record(
        lake,
        {"request_id": "r1", "error": '{"type": "ValueError"}', "output": None},
        {"request_id": "r2", "output": None},
        {"request_id": "r3", "output": ""},
    )
    choose(lake, *(("sum", r) for r in ("r1", "r2", "r3")))
    cells = states(wanted_cells(lake))
    assert {r for r, s in cells if s == RECORDED} == {"r3"}, "an empty answer is an answer, none is none"
    assert {r for r, s in cells if s == A.strategy_id} == {"r1", "r2", "r3"}
    assert set(states(named_cells(lake, [("r1", RECORDED), ("r1", A.strategy_id)]))) == {("r1", A.strategy_id)}


def test_the_lake_decides_what_is_done(lake: Lake) -> None:
    answered(lake, "r1", A)
    answered(lake, "r1", B, status="failed")
    found = states(wanted_cells(lake))
    assert found["r1", A.strategy_id] == "ok" and found["r1", B.strategy_id] == "failed"
    assert found["r2", A.strategy_id] == "missing"
    assert lake.delete("replay_matrix", f"strategy_id = '{A.strategy_id}'") == 1
    assert states(wanted_cells(lake))["r1", A.strategy_id] == "missing"


def test_an_empty_lake_has_no_cells(tmp_path: Path) -> None:
    cells = wanted_cells(Lake(tmp_path))
    assert cells.is_empty() and {"cell_id", "request_id", "strategy_id", "state"} <= set(cells.columns)
    assert choose_cells(cells).is_empty()


# ── naming them ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_named_cells_are_those_of_pairs_whose_request_ran_the_step(lake: Lake) -> None:
    pairs = [("r1", C.strategy_id), ("r2", C.strategy_id), ("r2", A.strategy_id), ("r2", A.strategy_id)]
    assert set(states(named_cells(lake, pairs))) == {("r1", C.strategy_id), ("r2", A.strategy_id)}
    assert set(named_cells(lake, pairs).columns) == set(wanted_cells(lake).columns)
    assert named_cells(lake, []).is_empty()


def test_a_request_outside_the_replay_set_can_be_named(lake: Lake) -> None:
    choose(lake, ("sum", "r1"), ("sort", "r1"))
    cells = named_cells(lake, [("r2", A.strategy_id)])
    assert cells.select("request_id", "recording_id", "state").rows() == [("r2", "r2/sum", "missing")]


def test_a_request_chosen_for_another_step_alone_can_be_named(lake: Lake) -> None:
    choose(lake, ("sum", "r1"), ("sum", "r2"))
    assert set(states(named_cells(lake, [("r1", C.strategy_id)]))) == {("r1", C.strategy_id)}


@pytest.mark.parametrize(
    ("pair", "said"),
    [(("r1", "gone"), "no strategy 'gone'.*SELECT strategy_id"), (("r9", A.strategy_id), "no request 'r9'")],
)
def test_an_unknown_name_is_refused(lake: Lake, pair: tuple[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        named_cells(lake, [("r1", A.strategy_id), pair])


# ── choosing among them ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def mixed(lake: Lake) -> pl.DataFrame:
    """r1: a answered ten days ago, b failed; all else missing."""
    answered(lake, "r1", A, days_ago=10)
    answered(lake, "r1", B, status="failed")
    return wanted_cells(lake)


def test_what_is_missing_or_failed_is_due(mixed: pl.DataFrame) -> None:
    due = states(choose_cells(mixed))
    assert ("r1", A.strategy_id) not in due and due["r1", B.strategy_id] == "failed"
    assert len(due) == mixed.height - 1
    assert set(states(choose_cells(mixed, states=["failed"]))) == {("r1", B.strategy_id)}


def test_cells_that_are_ok_are_answered_again_only_when_asked_for_or_old(mixed: pl.DataFrame) -> None:
    old = {("r1", A.strategy_id): "missing"}
    assert states(choose_cells(mixed, states=["ok"])) == old
    assert states(choose_cells(mixed, states=[], older_than=timedelta(days=9))) == old
    assert states(choose_cells(mixed, states=[], older_than=timedelta(days=11))) == {}
    assert len(choose_cells(mixed, older_than=timedelta(days=9))) == mixed.height


@pytest.mark.parametrize(
    ("glob", "requests"), [("*", {"r1", "r2"}), ("r?", {"r1", "r2"}), ("*2", {"r2"}), ("r1", {"r1"})]
)
def test_requests_are_chosen_by_a_glob(mixed: pl.DataFrame, glob: str, requests: set[str]) -> None:
    assert {r for r, _ in states(choose_cells(mixed, requests=glob))} == requests


def test_a_request_with_brackets_in_its_name_can_be_named(lake: Lake) -> None:
    record(lake, {"request_id": "r[1]"})
    choose(lake, ("sum", "r[1]"))
    assert choose_cells(wanted_cells(lake), requests="r[1]").height == 3


def test_a_glob_that_no_request_matches_is_refused(mixed: pl.DataFrame) -> None:
    with pytest.raises(InputError, match=r"No request is called or matches 'q\*'\. There are 2, such as r1"):
        choose_cells(mixed, requests="q*")
    assert choose_cells(mixed, states=["failed"], requests="r2").is_empty(), "nothing due is no mistake"


def test_strategies_are_chosen_by_id(mixed: pl.DataFrame) -> None:
    assert {s for _, s in states(choose_cells(mixed, strategies=[A.strategy_id]))} == {A.strategy_id}
    assert choose_cells(mixed, strategies=[]).is_empty()


def test_an_unknown_state_is_refused(mixed: pl.DataFrame) -> None:
    with pytest.raises(InputError, match=r"no cell state \['done'\]\. States: missing, ok, failed"):
        choose_cells(mixed, states=["done"])


# ── answering them ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def scripted() -> Iterator[ScriptedProvider]:
    """A provider for one test, so that it may count what it was asked."""
    with scripted_provider() as provider:
        yield provider


def project_in(folder: Path, provider: ScriptedProvider | None = None, **sections: Any) -> Project:
    """A home with a model `scripted`, if it has a provider: an answer costs about ten cents."""
    home = Home(folder)
    models = {}
    if provider is not None:
        prices = {"input_usd_per_million": 1_000.0, "output_usd_per_million": 10_000.0}
        models["scripted"] = {"base_url": provider.base_url, "max_attempts": 2, "max_in_flight": 2, **prices}
    home.config.write_text(yaml.safe_dump({"models": models, **sections}))
    return open_project(home)


def fill(project: Project, requests: Sequence[str], strategies: Sequence[Strategy]) -> None:
    record(project.lake, *({"request_id": r} for r in requests))
    choose(project.lake, *(("sum", r) for r in requests))
    write_strategies(project.lake, [recorded_strategy("sum"), *strategies])


def matrix(project: Project) -> dict[tuple[str, str], dict[str, Any]]:
    rows = project.lake.read("replay_matrix")
    assert rows["cell_id"].is_unique().all()
    return {(row["request_id"], row["strategy_id"]): row for row in rows.iter_rows(named=True)}


def test_a_sweep_answers_what_is_due_and_reports_each_cell_once_it_is_stored(tmp_path: Path) -> None:
    project = project_in(tmp_path)
    bad = strategy("bad", prompt="Sum up: {{ txt }}")
    fill(project, ["r1", "r2"], [A, bad])
    answered(project.lake, "r1", A)
    told: list[tuple[str, str, str, str | None]] = []

    def on_cells(cells: pl.DataFrame) -> None:
        stored = matrix(project)
        for request, way, state, error in cells.select("request_id", "strategy_id", "state", "error").iter_rows():
            assert stored[request, way]["status"] == state
            told.append((request, way, state, error))

    report = replay(project, wanted_cells(project.lake), run_id="run7", on_cells=on_cells)
    assert (report.cells, report.ok, report.done_before, report.failed, report.missing) == (6, 4, 1, 2, 0)
    assert report.reasons == {"template": 2} and report.stopped is None and report.cost_usd == 0
    assert "4 of 6 cells answered (1 before), 2 failed" in report.summary() and "2 template" in report.summary()
    assert report.metadata()["answered"] == 3 and report.metadata()["failed"] == 2
    assert len(told) == len({(r, s) for r, s, *_ in told}) == 6
    stored = matrix(project)
    assert stored["r1", A.strategy_id]["run_id"] is None, "what was done stays as it was"
    assert stored["r2", A.strategy_id]["answer"] == "Of r2." and stored["r2", A.strategy_id]["run_id"] == "run7"
    failed = stored["r1", bad.strategy_id]
    assert failed["answer"] is None and failed["status"] == "failed"
    assert failed["error"].startswith(
        "template: Strategy 'bad' needs the variable 'txt', absent from request r1. Present: text"
    )


def test_production_answers_with_its_own_words_cost_and_time(tmp_path: Path) -> None:
    project = project_in(tmp_path)
    fill(project, ["r1"], [])
    report = replay(project, wanted_cells(project.lake), run_id="run")
    row = matrix(project)["r1", RECORDED]
    assert (row["answer"], row["cost_usd"], row["latency_s"]) == ("A summary.", 0.25, 1.5)
    assert (row["input_tokens"], row["output_tokens"], row["call_keys"]) == (40, 4, [])
    assert report.cost_usd == 0 and report.calls_paid == 0, "it was paid in production"


def test_a_rerun_pays_nothing_even_where_the_matrix_is_lost(tmp_path: Path, scripted: ScriptedProvider) -> None:
    project = project_in(tmp_path, scripted)
    ways = [strategy(name, model="scripted") for name in "ab"]
    fill(project, ["r1", "r2"], ways)
    first = replay(project, wanted_cells(project.lake), run_id="one")
    assert first.ok == 6 and first.calls_paid == scripted.calls == 4 and first.cost_usd > 0
    before = matrix(project)
    idle = replay(project, wanted_cells(project.lake), run_id="two")
    assert idle.done_before == idle.ok == 6 and idle.calls_paid == idle.calls_cached == 0
    assert matrix(project) == before
    project.lake.delete("replay_matrix", "true")
    again = replay(project, wanted_cells(project.lake), run_id="three")
    assert again.ok == 6 and again.calls_paid == 0 and again.calls_cached == 4 and again.cost_usd == 0
    assert scripted.calls == 4
    changing = {"run_id", "answered_at"}
    assert {k: {n: v for n, v in row.items() if n not in changing} for k, row in matrix(project).items()} == {
        k: {n: v for n, v in row.items() if n not in changing} for k, row in before.items()
    }
    calls = project.lake.read("calls")
    assert calls.height == 4 and calls["cost_usd"].sum() == pytest.approx(first.cost_usd)


@pytest.mark.slow
def test_a_budget_leaves_the_rest_missing_and_the_next_run_goes_on_there(
    tmp_path: Path, scripted: ScriptedProvider
) -> None:
    project = project_in(tmp_path, scripted)
    requests = [f"r{n}" for n in range(8)]
    fill(project, requests, [strategy("a", model="scripted")])
    first = replay(project, wanted_cells(project.lake), run_id="one", usd=0.35)
    assert first.stopped is not None and "0.35" in first.stopped
    assert 0 < scripted.calls < 8 and first.missing == 8 - scripted.calls and first.failed == 0
    assert first.ok + first.missing == first.cells == 16
    assert first.cost_usd <= 0.35
    assert scripted.calls == first.calls_paid == project.lake.read("calls").height
    second = replay(project, wanted_cells(project.lake), run_id="two")
    assert second.done_before == first.ok and second.calls_paid == first.missing and second.missing == 0
    assert scripted.calls == 8 and scripted.asked_again() == 0
    assert project.lake.read("calls")["cost_usd"].sum() == pytest.approx(first.cost_usd + second.cost_usd)


def test_the_cap_of_a_day_counts_what_earlier_runs_paid(tmp_path: Path, scripted: ScriptedProvider) -> None:
    project = project_in(tmp_path, scripted, budget={"usd_per_day": 0.35})
    fill(project, [f"r{n}" for n in range(8)], [strategy("a", model="scripted")])
    first = replay(project, wanted_cells(project.lake), run_id="one")
    assert first.missing and first.cost_usd > 0.1
    paid = scripted.calls
    second = replay(project, wanted_cells(project.lake), run_id="two")
    assert second.missing == first.missing and second.calls_paid == 0 and scripted.calls == paid


@pytest.mark.slow
def test_the_stages_of_a_run_share_its_cap(tmp_path: Path, scripted: ScriptedProvider) -> None:
    project = project_in(tmp_path, scripted, budget={"usd_per_run": 0.35})
    fill(project, [f"r{n}" for n in range(8)], [strategy("a", model="scripted")])
    spent = []
    for run in ("one", "one", "two"):
        replay(project, wanted_cells(project.lake), run_id=run)
        spent.append(project.lake.read("calls")["cost_usd"].sum())
    assert 0 < spent[0] <= spent[1] <= 0.35 < spent[2] <= 0.7


@pytest.mark.slow
def test_a_cell_that_the_provider_refuses_fails_alone_and_is_asked_again(
    tmp_path: Path, scripted: ScriptedProvider
) -> None:
    project = project_in(tmp_path, scripted)
    fill(project, ["r1", "r2", "r3"], [strategy("a", model="scripted")])
    scripted.refuses = lambda prompt: "r2" in prompt
    first = replay(project, wanted_cells(project.lake), run_id="one")
    assert (first.ok, first.failed, first.missing) == (5, 1, 0)
    assert first.reasons == {"bad_request": 1}
    assert "refused by the script" in matrix(project)["r2", strategy("a", model="scripted").strategy_id]["error"]
    scripted.refuses = lambda prompt: False
    second = replay(project, choose_cells(wanted_cells(project.lake)), run_id="two")
    assert (second.cells, second.ok) == (1, 1)
    assert scripted.calls == 3 and not wanted_cells(project.lake).filter(pl.col("state") != "ok").height


@pytest.mark.parametrize("inputs", ["not json", "[1]", '"text"', "[" * 100_000])
def test_a_recording_that_cannot_be_read_fails_its_cells_alone(tmp_path: Path, inputs: str) -> None:
    project = project_in(tmp_path)
    fill(project, ["r1", "r2"], [A])
    record(project.lake, {"request_id": "r1", "inputs": inputs}, {"request_id": "r2"})
    report = replay(project, wanted_cells(project.lake), run_id="one")
    assert (report.ok, report.failed) == (3, 1)
    error = matrix(project)["r1", A.strategy_id]["error"]
    assert error.startswith("input: Recording of request r1") and len(error) < 300


def test_a_plan_says_beforehand_what_a_sweep_pays(tmp_path: Path, scripted: ScriptedProvider) -> None:
    project = project_in(tmp_path, scripted)
    fill(project, ["r1", "r2"], [strategy("a", model="scripted"), A, strategy("bad", prompt="{{ txt }}")])
    estimate = plan(project, wanted_cells(project.lake))
    assert scripted.calls == 0 and not project.lake.blocks("calls") and not project.lake.blocks("replay_matrix")
    assert estimate.by_model["scripted"] == 2 and estimate.cost_usd > 0
    report = replay(project, wanted_cells(project.lake), run_id="one")
    assert scripted.calls == 2 and report.calls_paid == estimate.calls_to_pay == 4
    after = plan(project, wanted_cells(project.lake))
    assert after.cells == 2 and after.calls_to_pay == 0, "the cells that failed for want of an input"
