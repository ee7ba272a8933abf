"""The whole flywheel on the sample newsdesk, on real Dagster, PostgreSQL, Delta and DuckDB."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest
from dagster import AssetKey, ExecuteInProcessResult
from dagster_home import DagsterHome, dagster_home

from qbawa.cli.demo_app.pipeline import record_demo
from qbawa.cli.sample import write_sample
from qbawa_assets.definitions import ASSETS

REQUESTS = 8
# DESIGN's public contract: what users and their queries rely on.
VIEWS = {
    "recordings": "request_id recording_id parent_id pipeline step inputs messages output model strategy_id input_tokens "
    "output_tokens cost_usd latency_s error tags recorded_at",
    "strategies": "strategy_id name step model template params program origin parent_strategy_id created_at",
    "calls": "call_key purpose model request_id strategy_id judge response_text input_tokens output_tokens cost_usd "
    "latency_s attempts error run_id called_at",
    "replay_matrix": "cell_id request_id step strategy_id sample answer status error input_tokens output_tokens cost_usd "
    "latency_s call_keys run_id code_version answered_at",
    "matches": "match_id request_id step round slot strategy_a strategy_b cell_a cell_b winner p_a verdicts unscored cost_usd",
    "verdicts": "verdict_id match_id judge judge_kind shown_first verdict preference rationale raw call_key judged_at",
    "ratings": "step strategy_id strength low high win_rate matches mean_cost_usd mean_latency_s rank rank_low rank_high",
    "judge_reliability": "step judge verdicts unscored agreement_human agreement_low agreement_high accuracy position_bias "
    "length_bias self_preference",
    "qbawa": "pair_id step request_id question best_answer worse_answer best_strategy worse_strategy best_cell worse_cell "
    "p_best margin judges split match_ids",
    "datasets": "dataset version format path rows sha256 lake_versions created_at",
    "champions": "step strategy_id promoted_at beat_strategy_id p_better evidence",
}


@pytest.fixture(scope="module")
def world() -> Iterator[DagsterHome]:
    """The demo's home, with a part of its requests."""
    with dagster_home() as here:
        write_sample(here.home)
        record_demo(here.home.journal, REQUESTS)
        yield here


@pytest.fixture(scope="module")
def turned(world: DagsterHome) -> ExecuteInProcessResult:
    """The run that turned it once."""
    return world.run("flywheel")


def latest(world: DagsterHome, asset: str) -> dict[str, object]:
    event = world.instance.get_latest_materialization_event(AssetKey(asset))
    assert event is not None and event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def test_a_fresh_home_turns_once(turned: ExecuteInProcessResult) -> None:
    assert turned.success


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_has_the_columns_of_the_contract(
    world: DagsterHome, turned: ExecuteInProcessResult, view: str
) -> None:
    columns = [name for name, *_ in world.rows(f"DESCRIBE {view}")]
    assert not set(VIEWS[view].split()) - set(columns)


def test_every_asset_shows_as_materialized(world: DagsterHome, turned: ExecuteInProcessResult) -> None:
    unseen = [
        asset.key.to_user_string()
        for asset in ASSETS
        if world.instance.get_latest_materialization_event(asset.key) is None
    ]
    assert unseen == []


def test_the_views_hold_what_the_stages_reported(world: DagsterHome, turned: ExecuteInProcessResult) -> None:
    for asset in ("replay_set", "strategies", "ratings", "judge_reliability", "qbawa", "champions"):
        reported = latest(world, asset)["dagster/row_count"]
        assert world.rows(f"SELECT count(*) FROM {asset}") == [(reported,)], asset
    [event] = [event for event in turned.events_for_node("sweep_matrix") if event.event_type_value == "STEP_OUTPUT"]
    swept = {name: value.value for name, value in event.step_output_data.metadata.items()}
    assert world.rows("SELECT count(*), count(*) FILTER (status = 'ok') FROM replay_matrix") == [
        (swept["cells"], swept["answered"])
    ]
    [event] = [event for event in turned.events_for_node("sweep_brackets") if event.event_type_value == "STEP_OUTPUT"]
    played = {name: value.value for name, value in event.step_output_data.metadata.items()}
    assert world.rows("SELECT count(*) FROM verdicts") == [(played["verdicts"],)]
    assert world.rows("SELECT count(*) FROM matches") == [(played["matches"],)]


def test_dagster_shows_every_cell_that_the_lake_holds(world: DagsterHome, turned: ExecuteInProcessResult) -> None:
    cells = {f"{r}|{s}" for r, s in world.rows("SELECT request_id, strategy_id FROM replay_matrix")}
    assert world.statuses() == {"materialized": cells, "failed": set(), "in_progress": set()}


PHASES = (
    "cells are to be answered",
    "before they are asked",
    "reading the questions of",
    "paid already",
    "to pay: about",
    "writing the last",
    "cells answered",
    "drawing the matrix",
    "reading its answers",
    "verdicts are given",
    "deciding all again",
    "matches, ",
    "whether any match is open",
)


def test_every_phase_says_a_line_before_it_takes_its_time(world: DagsterHome, turned: ExecuteInProcessResult) -> None:
    said = [entry.user_message for entry in world.instance.all_logs(turned.run_id) if entry.dagster_event is None]
    places = [next((place for place, line in enumerate(said) if phase in line), None) for phase in PHASES]
    assert None not in places, dict(zip(PHASES, places, strict=True))
    assert places == sorted(place for place in places if place is not None)


def test_an_exported_dataset_holds_what_its_row_says(world: DagsterHome, turned: ExecuteInProcessResult) -> None:
    from pathlib import Path

    exported = world.rows("SELECT path, rows FROM datasets")
    assert exported
    for path, rows in exported:
        files = [file for file in Path(path).rglob("*.jsonl")]
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        assert len(lines) == rows


def test_a_second_turn_changes_nothing_and_pays_nothing(world: DagsterHome, turned: ExecuteInProcessResult) -> None:
    lake = world.project.lake
    before, calls = lake.versions(), world.rows("SELECT count(*) FROM calls")
    assert world.run("flywheel").success
    assert lake.versions() == before
    assert world.rows("SELECT count(*) FROM calls") == calls


@pytest.mark.slow
def test_an_empty_rerun_loads_nothing_for_models_and_statistics_and_is_two_processes(
    world: DagsterHome, turned: ExecuteInProcessResult
) -> None:
    world.environment["PYTHONPROFILEIMPORTTIME"] = "1"  # a line for each module that either process imports
    rerun = world.command("run", "flywheel")
    del world.environment["PYTHONPROFILEIMPORTTIME"]
    family, most = psutil.Process(rerun.pid), 0
    printed = threading.Thread(target=lambda: lines.extend(rerun.stdout))
    lines: list[str] = []
    printed.start()
    while rerun.poll() is None:
        with suppress(psutil.NoSuchProcess):
            most = max(most, 1 + len(family.children(recursive=True)))
        time.sleep(0.02)
    printed.join()
    assert rerun.returncode == 0
    imported = {line.rsplit("|", 1)[1].strip() for line in lines if line.startswith("import time:")}
    assert "dagster" in imported and not imported & {"scipy", "numpy", "pyarrow", "aiohttp", "litellm", "matplotlib"}
    assert any("Nothing new to judge" in line for line in lines), "shown on the terminal too"
    assert most <= 2, "PostgreSQL, which runs already, comes to six more"
