"""Sensors on a real instance: what people and applications leave in the home becomes runs, once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest import mock

import pytest
from dagster import (
    AssetKey,
    RunRequest,
    SensorDefinition,
    SensorResult,
    SkipReason,
    build_schedule_context,
    build_sensor_context,
    job,
)
from dagster_home import DagsterHome, configure, dagster_home, prompts, record
from scripted_provider import ScriptedProvider

from qbawa.ingest import stage as ingest_stage
from qbawa.project import Project
from qbawa_assets.jobs import take_recordings
from resources import ProjectResource
from sensors.schedules import nightly_replay, replay_new_requests, replay_new_strategies
from sensors.sensors import missing_cells, new_human_verdicts, new_recordings


@pytest.fixture(scope="module")
def world(server: ScriptedProvider) -> Iterator[DagsterHome]:
    """A home in which nothing has happened yet."""
    with dagster_home() as here:
        configure(
            here.home,
            server,
            strategies=[prompts(2)],
            judges={"scripted": {"model": "scripted"}},
            tournament={"format": "round_robin", "goal": "order", "verdict_budget": 20},
        )
        yield here


def evaluate(world: DagsterHome, sensor: SensorDefinition) -> SensorResult | RunRequest | SkipReason:
    """What a tick of the sensor asks for; partitions that it asks for are made, as the daemon does."""
    resources = {"project": ProjectResource()}
    with (
        mock.patch.dict(os.environ, world.environment),
        build_sensor_context(instance=world.instance, resources=resources) as context,
    ):
        asked = sensor(context)
    if isinstance(asked, SensorResult):
        for request in asked.dynamic_partitions_requests or ():
            world.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
    assert isinstance(asked, SensorResult | RunRequest | SkipReason)
    return asked


def test_an_empty_home_asks_for_nothing(world: DagsterHome) -> None:
    for sensor in (new_recordings, new_human_verdicts, missing_cells):
        assert isinstance(evaluate(world, sensor), SkipReason)
    for schedule in (replay_new_requests, replay_new_strategies):
        assert isinstance(world.tick(schedule), SkipReason)


def test_a_broken_configuration_is_said_and_starts_nothing(world: DagsterHome) -> None:
    good = world.home.config.read_text()
    world.home.config.write_text("strategies: [{stp: x}]")
    try:
        for said in (
            *(evaluate(world, sensor) for sensor in (new_recordings, new_human_verdicts, missing_cells)),
            *(world.tick(schedule) for schedule in (replay_new_requests, replay_new_strategies)),
        ):
            assert isinstance(said, SkipReason)
            assert "stp" in (said.skip_message or "")
    finally:
        world.home.config.write_text(good)


def test_a_closed_segment_becomes_one_batch_and_its_requests_join_the_matrix(world: DagsterHome) -> None:
    record(world.home, ["a", "b"])
    asked = evaluate(world, new_recordings)
    assert isinstance(asked, SensorResult) and asked.run_requests
    again = evaluate(world, new_recordings)
    # The daemon starts a run for a key once: the same segments ask for the same run.
    assert isinstance(again, SensorResult) and again.run_requests
    assert again.run_requests[0].run_key == asked.run_requests[0].run_key
    assert world.run("take_new_recordings").success
    batches = set(world.instance.get_dynamic_partitions("recording_batch"))
    assert world.instance.get_materialized_partitions(AssetKey("recordings")) == batches
    assert len(batches) == 1
    assert {"a", "b"} == set(world.instance.get_dynamic_partitions("request"))
    assert isinstance(evaluate(world, new_recordings), SkipReason)


def test_a_late_segment_becomes_a_batch_of_its_own(world: DagsterHome) -> None:
    record(world.home, ["c"], first=2)
    asked = evaluate(world, new_recordings)
    assert isinstance(asked, SensorResult) and asked.run_requests
    assert world.run("take_new_recordings").success
    assert len(world.instance.get_materialized_partitions(AssetKey("recordings"))) == 2
    assert world.rows("SELECT count(*) FROM recordings") == [(3,)]
    assert "c" in world.instance.get_dynamic_partitions("request")


@job
def taking_alone() -> None:
    """The first op of the job that the sensor starts; what follows publishes too, where it has something new."""
    take_recordings()


def test_a_run_publishes_the_catalog_once_however_many_batches_it_takes_in(
    world: DagsterHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):  # a look after each makes a batch of each
        record(world.home, ["d"], first=3 + number)
        ingest_stage.new_batches(world.project)
    published: list[int] = []
    publish = Project.publish
    monkeypatch.setattr(Project, "publish", lambda project: (published.append(1), publish(project))[1])
    with mock.patch.dict(os.environ, world.environment):
        done = taking_alone.execute_in_process(instance=world.instance, resources={"project": ProjectResource()})
    assert done.success
    assert len(published) == 1 and world.rows("SELECT count(*) FROM recordings") == [(6,)]


def test_a_table_of_human_verdicts_decides_anew(world: DagsterHome, server: ScriptedProvider) -> None:
    assert world.run("flywheel").success
    calls = server.calls
    [(request, a, b)] = world.rows("SELECT request_id, strategy_a, strategy_b FROM matches ORDER BY match_id LIMIT 1")
    folder = world.home.root / "human_verdicts"
    folder.mkdir()
    table = f"request,strategy_a,strategy_b,judge,verdict\n{request},{a},{b},anna,a\n"
    (folder / "explain.anna.csv").write_text(table)
    # Someone else's table that cannot be read is said, and stops nothing.
    (folder / "explain.abel.csv").write_text("request,verdict\nr,a\n")
    asked = evaluate(world, new_human_verdicts)
    assert isinstance(asked, RunRequest)
    judged = world.run("judge_anew")
    assert judged.success
    [check] = [c for c in judged.get_asset_check_evaluations() if c.check_name == "no_file_refused"]
    assert not check.passed and set(check.metadata) == {"refused_files", "explain.abel.csv"}
    assert world.rows("SELECT judge, verdict FROM verdicts WHERE judge_kind = 'human'") == [("anna", "a")]
    assert server.calls == calls
    again = evaluate(world, new_human_verdicts)
    assert isinstance(again, SkipReason) or again.run_key == asked.run_key


def test_the_nightly_run_spends_within_its_budget(world: DagsterHome) -> None:

    resources = {"project": ProjectResource()}
    with (
        mock.patch.dict(os.environ, world.environment),
        build_schedule_context(instance=world.instance, resources=resources) as context,
    ):
        [asked] = list(nightly_replay(context))
    ops = asked.run_config["ops"]
    assert {name: op["config"]["usd"] for name, op in ops.items()} == {"sweep_matrix": 5.0, "sweep_brackets": 5.0}
    assert world.run("flywheel", asked.run_config).success
