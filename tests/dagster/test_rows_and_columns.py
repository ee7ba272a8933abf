"""Whole rows and columns of the matrix in one run: by partitions, by globs, and by schedules within a cap."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest import mock

import pytest
import yaml
from dagster import AssetKey, RunRequest, SkipReason, build_sensor_context
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from dagster_home import RANGE_END, RANGE_START, DagsterHome, configure, dagster_home, prompts, record
from scripted_provider import ScriptedProvider

from qbawa_assets.definitions import ASSETS, definitions
from qbawa_assets.partitions import requests, strategies
from resources import ProjectResource
from sensors.schedules import replay_new_requests, replay_new_strategies
from sensors.sensors import missing_cells

REQUESTS = ["r1", "r2", "r3", "r4"]
WAYS = 3


@pytest.fixture(scope="module")
def world(server: ScriptedProvider) -> Iterator[DagsterHome]:
    with dagster_home() as here:
        configure(here.home, server, strategies=[prompts(WAYS)], budget={"nightly_usd": 0.25})
        record(here.home, REQUESTS)
        assert here.run("take_new_recordings").success
        yield here


def whole(world: DagsterHome, by: str) -> set[str]:
    return world.statuses(f"replay_by_{by}", requests if by == "request" else strategies)["materialized"]


def row(world: DagsterHome, first: str, last: str, **config: object) -> bool:
    """A run of `replay_by_request` over the partitions between two requests."""
    with mock.patch.dict(os.environ, world.environment):
        return (
            definitions.resolve_job_def("replay_requests")
            .execute_in_process(
                instance=world.instance,
                tags={RANGE_START: first, RANGE_END: last},
                run_config={"ops": {"replay_by_request": {"config": config}}},
                raise_on_error=False,
            )
            .success
        )


def run(world: DagsterHome, asked: RunRequest, job: str) -> bool:
    with mock.patch.dict(os.environ, world.environment):
        return (
            definitions.resolve_job_def(job)
            .execute_in_process(
                instance=world.instance, tags=dict(asked.tags), run_config=dict(asked.run_config), raise_on_error=False
            )
            .success
        )


def missing(world: DagsterHome) -> RunRequest | SkipReason:
    """What a tick of the sensor on missing cells asks for."""
    with (
        mock.patch.dict(os.environ, world.environment),
        build_sensor_context(instance=world.instance, resources={"project": ProjectResource()}) as context,
    ):
        asked = missing_cells(context)
    assert isinstance(asked, RunRequest | SkipReason)
    return asked


def test_missing_cells_are_swept_within_the_cap_once_somebody_switches_that_on(world: DagsterHome) -> None:
    assert missing_cells.default_status.value == "STOPPED"
    asked, again = missing(world), missing(world)
    assert isinstance(asked, RunRequest) and asked.job_name == "replay_sweep"
    assert asked.run_config["ops"]["sweep_matrix"]["config"]["usd"] == 0.25
    assert isinstance(again, RunRequest) and again.run_key == asked.run_key, "the daemon starts a run for a key once"


def test_a_glob_narrows_a_run_of_rows_and_no_row_is_green_before_it_is_whole(
    world: DagsterHome, server: ScriptedProvider
) -> None:
    assert row(world, "r1", "r2", strategies="way/w0")
    assert server.calls == 2 and whole(world, "request") == set()


def test_rows_are_answered_in_one_run_and_nothing_is_asked_again(world: DagsterHome, server: ScriptedProvider) -> None:
    assert row(world, "r1", "r2")
    assert server.calls == 2 * WAYS and server.asked_again() == 0
    assert whole(world, "request") == {"r1", "r2"}
    [cell] = [key for key in world.statuses()["materialized"] if key.startswith("r1|recorded")]
    event = world.instance.get_latest_materialization_event(AssetKey("replay_matrix"))
    assert event is not None and event.asset_materialization is not None and cell
    assert {"strategy", "model", "prompt"} <= set(event.asset_materialization.metadata)


def test_a_failed_cell_keeps_its_row_red_and_leaves_the_others_green(
    world: DagsterHome, server: ScriptedProvider
) -> None:
    server.refuses = lambda prompt: "part 2" in prompt and "way 1" in prompt
    assert not row(world, "r1", "r4")
    shown = world.statuses("replay_by_request", requests)
    assert shown["materialized"] == {"r1", "r2", "r4"} and shown["failed"] == {"r3"}
    assert len(world.statuses()["failed"]) == 1
    server.refuses = lambda prompt: False


def test_what_a_sweep_completes_is_green_too(world: DagsterHome, server: ScriptedProvider) -> None:
    before = server.calls
    asked = missing(world)
    assert isinstance(asked, SkipReason), "a cell that failed is not missing"
    assert world.run("replay_sweep").success
    assert server.calls == before + 1
    assert whole(world, "request") == set(REQUESTS)
    assert len(whole(world, "strategy")) == WAYS + 1


def test_no_schedule_has_anything_to_do_in_a_full_matrix(world: DagsterHome) -> None:
    for schedule in (replay_new_requests, replay_new_strategies):
        assert isinstance(world.tick(schedule), SkipReason)


def test_new_requests_and_new_strategies_are_backfilled_each_by_its_schedule_within_the_cap(
    world: DagsterHome, server: ScriptedProvider
) -> None:
    content = yaml.safe_load(world.home.config.read_text())
    content["strategies"] = [prompts(WAYS + 1)]
    world.home.config.write_text(yaml.safe_dump(content))
    assert world.run("take_new_recordings").success  # the strategy w3 is newer than r1 … r4
    record(world.home, ["r5", "r6"], first=10)
    assert world.run("take_new_recordings").success
    before = server.calls
    for_requests, for_strategies = world.tick(replay_new_requests), world.tick(replay_new_strategies)
    assert isinstance(for_requests, RunRequest) and isinstance(for_strategies, RunRequest)
    config = for_requests.run_config["ops"]["replay_by_request"]["config"]
    assert config == {"usd": 0.25, "only": ["r5", "r6"]}
    assert run(world, for_requests, "replay_requests")
    assert server.calls == before + 2 * (WAYS + 1), "new requests × all strategies, and no old request"
    assert isinstance(world.tick(replay_new_requests), SkipReason)
    assert run(world, for_strategies, "replay_strategies")
    assert server.calls == before + 2 * (WAYS + 1) + len(REQUESTS), "a new strategy × all requests"
    assert isinstance(world.tick(replay_new_strategies), SkipReason)
    assert server.asked_again() == 0
    assert whole(world, "request") == {*REQUESTS, "r5", "r6"}


def test_a_cell_that_nobody_wants_says_so_and_costs_nothing(world: DagsterHome, server: ScriptedProvider) -> None:
    record(world.home, ["other"], step="translate")
    assert world.run("take_new_recordings").success
    before, explains = server.calls, [key for key in world.row("other") if "explain" in key]
    result = world.materialize("replay_matrix", explains[0], explains[0])
    assert result.success and server.calls == before
    said = [record.event_log_entry.user_message for record in world.instance.get_records_for_run(result.run_id).records]
    assert any("Nobody wants the cell of request 'other'" in text and "no step 'explain'" in text for text in said)
    assert explains[0] not in world.statuses()["materialized"]


def unsynced(world: DagsterHome) -> dict[str, list[str]]:
    """Assets that the UI calls unsynced, and what it says has changed."""
    graph = definitions.get_repository_def().asset_graph
    resolver = CachingStaleStatusResolver(world.instance, graph, LoadingContextForTest(world.instance))
    causes = {asset.key: resolver.get_stale_causes(asset.key) for asset in ASSETS if asset.partitions_def is None}
    return {str(key): [cause.reason for cause in found] for key, found in causes.items() if found}


def test_what_is_made_again_from_the_same_rows_makes_nothing_unsynced(world: DagsterHome) -> None:
    """Whoever made it, and whoever makes it again: a run of a job, or a click on an asset."""
    assert world.run("flywheel").success
    for asset in ("replay_set", "strategies", "human_verdicts", "ratings", "judge_reliability", "qbawa"):
        assert world.materialize(asset).success
        assert unsynced(world) == {}, f"after {asset} was materialized again"
    assert world.run("flywheel").success
    assert unsynced(world) == {}


def test_what_has_changed_makes_what_is_made_of_it_unsynced(world: DagsterHome) -> None:
    content = yaml.safe_load(world.home.config.read_text())
    content["strategies"].append({"step": "explain", "name": "one more", "prompt": "{{ topic }}?", "model": "scripted"})
    world.home.config.write_text(yaml.safe_dump(content))
    assert world.materialize("strategies").success
    assert set(unsynced(world)) >= {"AssetKey(['ratings'])"}
