"""Old runs go, and what Dagster says of every partition stays, on a real PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as db
from dagster import AssetKey
from dagster_home import DagsterHome, configure, dagster_home, prompts, record
from scripted_provider import ScriptedProvider

from qbawa_assets.partitions import recording_batches
from qbawa_assets.retention import delete_old_logs, delete_old_runs

DAY_S = 86_400.0


@pytest.fixture(scope="module")
def world(server: ScriptedProvider) -> Iterator[DagsterHome]:
    """Two sweeps with all their cells answered, and one more take of recordings."""
    with dagster_home() as here:
        configure(here.home, server, strategies=[prompts(2)])
        record(here.home, ["a", "b"])
        assert here.run("take_new_recordings").success
        assert here.run("replay_sweep").success
        record(here.home, ["c"], first=2)
        assert here.run("take_new_recordings").success
        assert here.run("replay_sweep").success
        yield here


def rows(here: DagsterHome, sql: str, **values: Any) -> list[tuple[Any, ...]]:
    with here.instance.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
        found = connection.execute(db.text(sql), values)
        return [tuple(row) for row in found] if found.returns_rows else []


def age(here: DagsterHome, days: float) -> None:
    """Let every run so far be so many days older."""
    shift = {"s": days * DAY_S}
    rows(here, "UPDATE runs SET start_time = start_time - :s, end_time = end_time - :s", **shift)


def forget_cached_status(here: DagsterHome) -> None:
    """Dagster then derives the status of partitions from events alone."""
    rows(here, "UPDATE asset_keys SET cached_status_data = NULL")


def test_partitions_stay_materialized_after_the_runs_that_made_them_are_gone(world: DagsterHome) -> None:
    forget_cached_status(world)
    matrix, batches = world.statuses(), world.statuses("recordings", recording_batches)
    assert len(matrix["materialized"]) == 9 and len(batches["materialized"]) == 2
    events = rows(world, "SELECT count(*) FROM event_logs")[0][0]
    age(world, 31)
    done = delete_old_runs(world.instance, 30)
    assert done.runs == 4 and world.instance.get_runs() == []
    assert done.events + done.kept_events == events and done.kept_events < events / 2
    for _ in range(2):
        forget_cached_status(world)
        assert world.statuses() == matrix
        assert world.statuses("recordings", recording_batches) == batches
    assert world.instance.get_latest_materialization_event(AssetKey("replay_set")) is not None
    assert delete_old_runs(world.instance, 30).runs == 0


def test_the_next_nights_find_nothing_to_do_and_replace_what_was_kept(
    world: DagsterHome, server: ScriptedProvider
) -> None:
    calls, matrix = server.calls, world.statuses()
    record(world.home, ["d"], first=3)
    for job in ("take_new_recordings", "replay_sweep"):
        assert world.run(job).success
    assert server.calls == calls + 2, "the new request alone is answered"
    now = world.statuses()["materialized"]
    assert now == matrix["materialized"] | {key for key in now if key.startswith("d|")}
    age(world, 31)
    delete_old_runs(world.instance, 30)
    [(kept, partitions)] = rows(
        world,
        "SELECT count(*), count(DISTINCT (asset_key, partition)) FROM event_logs"
        " WHERE dagster_event_type = 'ASSET_MATERIALIZATION'",
    )
    assert kept == partitions, "one event a partition, whichever run it came from"


def test_young_runs_and_runs_under_way_stay(world: DagsterHome) -> None:
    assert world.run("take_new_recordings").success
    [run] = world.instance.get_runs()
    assert delete_old_runs(world.instance, 30).runs == 0 and delete_old_runs(world.instance, None).runs == 0
    age(world, 31)
    rows(world, "UPDATE runs SET status = 'STARTED'")
    assert delete_old_runs(world.instance, 30).runs == 0
    assert [r.run_id for r in world.instance.get_runs()] == [run.run_id]


def test_what_old_runs_printed_goes_and_nothing_else_of_dagster_s_folder(world: DagsterHome) -> None:
    import os

    folder = world.home.dagster
    printed = [path for path in folder.iterdir() if (path / "compute_logs").is_dir()]
    assert printed and delete_old_logs(world.instance, 14) == 0
    long_ago = time.time() - 15 * DAY_S
    for path in (*printed, folder / "dagster.yaml"):
        os.utime(path, (long_ago, long_ago))
    under_way = {run.run_id for run in world.instance.get_runs()}
    assert delete_old_logs(world.instance, 14) == len(printed) - len(under_way)
    assert (folder / "dagster.yaml").exists()
    assert {path.name for path in folder.iterdir() if Path(path, "compute_logs").is_dir()} == under_way


def test_the_nightly_job_sees_to_all_of_it(world: DagsterHome) -> None:
    rows(world, "UPDATE runs SET status = 'SUCCESS'")
    done = world.run("maintain_lake")
    assert done.success
    assert len(world.instance.get_runs()) == 1
