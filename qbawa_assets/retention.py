"""Old runs leave Dagster's storage; what each partition holds, and since when, stays.

Dagster derives the status of partitions from events. Its own `delete_run` takes them along, after which cells whose
answers are in the lake would show as missing. Here the newest materialization of every partition, and of every asset
without partitions, outlives its run, and so does the newest evaluation of every check. The tables are internal to
Dagster, whose version is pinned, and stand in this module alone.
"""

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as db
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.runs.schema import RunsTable

ENDED = (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)
_RUNS_AT_ONCE = 200
_RUN_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class DeletedRuns:
    runs: int = 0
    events: int = 0
    kept_events: int = 0
    """Events of these runs that still say what a partition holds."""


def delete_old_runs(instance: DagsterInstance, days: float | None) -> DeletedRuns:
    """Delete runs that ended longer ago than so many days, None for none. A run under way stays, however old.

    Events go before their run does: killed anywhere, the next time goes on.
    """
    if days is None:
        return DeletedRuns()
    runs = events = kept = 0
    while True:
        old = _old_runs(instance, time.time() - days * _DAY_S)
        if not old:
            break
        gone, left = _delete_events(instance, old)
        for run_id in old:
            instance.run_storage.delete_run(run_id)
        runs, events, kept = runs + len(old), events + gone, kept + left
    # What newer materializations have replaced since its run was deleted.
    events += _delete_replaced(instance)
    if events:
        _make_room(instance)
    return DeletedRuns(runs, events, kept)


def delete_old_logs(instance: DagsterInstance, days: float | None) -> int:
    """Delete what runs printed longer ago than so many days, None for nothing; of how many runs."""
    base = getattr(instance.compute_log_manager, "_base_dir", None)
    if days is None or base is None:
        return 0
    deleted, before = 0, time.time() - days * _DAY_S
    folders = [folder for root in (Path(base), Path(base) / "storage") if root.is_dir() for folder in root.iterdir()]
    under_way = {run.run_id for run in instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED]))}
    for folder in folders:
        if _RUN_ID.fullmatch(folder.name) and folder.name not in under_way and folder.stat().st_mtime < before:
            shutil.rmtree(folder, ignore_errors=True)
            deleted += 1
    return deleted


def _old_runs(instance: DagsterInstance, before: float) -> list[str]:
    ended = db.func.coalesce(RunsTable.c.end_time, db.func.extract("epoch", RunsTable.c.update_timestamp))
    sql = (
        db.select(RunsTable.c.run_id)
        .where(RunsTable.c.status.in_([status.value for status in ENDED]), ended < before)
        .order_by(RunsTable.c.id)
        .limit(_RUNS_AT_ONCE)
    )
    with instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
        return [run_id for (run_id,) in connection.execute(sql)]


def _newest() -> db.Subquery:
    """Id of the newest materialization of every asset and partition."""
    events = SqlEventLogStorageTable.c
    return (
        db.select(db.func.max(events.id).label("id"))
        .where(
            events.asset_key.is_not(None),
            events.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION.value,
        )
        .group_by(events.asset_key, events.partition)
        .subquery("newest")
    )


def _delete_events(instance: DagsterInstance, run_ids: list[str]) -> tuple[int, int]:
    """Events of these runs that went, and that stay."""
    events, checks = SqlEventLogStorageTable, AssetCheckExecutionsTable
    newest = db.select(_newest().c.id)
    newest_checks = db.select(db.func.max(checks.c.id)).group_by(
        checks.c.asset_key, checks.c.check_name, checks.c.partition
    )
    check_events = db.select(checks.c.evaluation_event_storage_id).where(
        checks.c.id.in_(newest_checks), checks.c.evaluation_event_storage_id.is_not(None)
    )
    mine = events.c.run_id.in_(run_ids)
    with instance.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
        connection.execute(checks.delete().where(checks.c.run_id.in_(run_ids), checks.c.id.not_in(newest_checks)))
        gone = connection.execute(
            events.delete().where(mine, events.c.id.not_in(newest), events.c.id.not_in(check_events))
        ).rowcount
        _delete_loose_tags(connection)
        left = connection.execute(db.select(db.func.count()).select_from(events).where(mine)).scalar_one()
    return gone, left


def _delete_replaced(instance: DagsterInstance) -> int:
    """Delete materializations of runs that are gone which are no longer the newest of their partition."""
    events = SqlEventLogStorageTable
    with instance.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
        gone = connection.execute(
            events.delete().where(
                events.c.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION.value,
                # Reported from the UI or by a job without a run of its own: not ours to judge.
                events.c.run_id != "",
                events.c.run_id.not_in(db.select(RunsTable.c.run_id)),
                events.c.id.not_in(db.select(_newest().c.id)),
            )
        ).rowcount
        if gone:
            _delete_loose_tags(connection)
    return int(gone)


def _delete_loose_tags(connection: db.Connection) -> None:
    tags, events = AssetEventTagsTable, SqlEventLogStorageTable
    there = db.select(events.c.id).where(events.c.id == tags.c.event_id).exists()
    connection.execute(tags.delete().where(tags.c.event_id.is_not(None), ~there))


def _make_room(instance: DagsterInstance) -> None:
    """Let PostgreSQL use the deleted rows' room again at once; it would get to it by itself."""
    with instance.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
        if connection.dialect.name != "postgresql":
            return
        outside = connection.execution_options(isolation_level="AUTOCOMMIT")
        for table in (SqlEventLogStorageTable, AssetEventTagsTable, AssetCheckExecutionsTable, RunsTable):
            outside.execute(db.text(f"VACUUM {table.name}"))
