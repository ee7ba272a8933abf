"""Stage 1: what the application recorded, and the requests that stand for all of it."""

from collections.abc import Callable
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSpec,
    AssetExecutionContext,
    BackfillPolicy,
    DagsterInstance,
    MaterializeResult,
    asset,
)

from qbawa.engine.counted import Counted
from qbawa.ingest import stage as ingest_stage
from qbawa.project import Project
from qbawa.replay import stage as replay_stage
from qbawa_assets.metadata import columns_of, counts, picture, preview, version_of
from qbawa_assets.partitions import add_partitions, recording_batches
from qbawa_assets.partitions import requests as request_partitions
from resources import ProjectResource


def ingest(
    project: Project,
    batches: list[str],
    log: Callable[[str], Any] = lambda message: None,
    *,
    publish: bool = True,
) -> MaterializeResult:
    """Take these batches in."""
    reading = Counted(log, "taking in recordings:", 0, "MB")

    def progress(done: int, total: int) -> None:
        reading.total = total >> 20
        reading.advance((done >> 20) - reading.done)

    report = ingest_stage.ingest(project, batches, progress, publish=publish)
    return MaterializeResult(
        asset_key="recordings",
        metadata={
            "dagster/row_count": report.rows,
            "feedback": report.feedback,
            "quarantined": report.quarantined,
            "reasons": counts(report.by_reason),
            "bytes": report.bytes,
            "seconds": report.seconds,
        },
        check_results=[
            AssetCheckResult(
                asset_key="recordings",
                check_name="no_line_quarantined",
                passed=report.quarantined == 0,
                metadata={"quarantined": report.quarantined, "reasons": counts(report.by_reason)},
            )
        ],
    )


@asset(
    partitions_def=recording_batches,
    backfill_policy=BackfillPolicy.single_run(),
    group_name="stage_1_record",
    kinds={"deltalake"},
    metadata=columns_of("recordings"),
    check_specs=[AssetCheckSpec("no_line_quarantined", asset="recordings")],
)
def recordings(context: AssetExecutionContext, project: ProjectResource) -> MaterializeResult:
    """One row per step execution. A partition is a batch of closed journal segments."""
    return ingest(project.open(), list(context.partition_keys), context.log.info)


def choose(instance: DagsterInstance, project: Project) -> MaterializeResult:
    """Choose the requests that stand for all traffic; they become the matrix's request partitions."""
    chosen = replay_stage.choose_requests(project)
    add_partitions(instance, request_partitions, chosen.request_ids)
    return MaterializeResult(
        asset_key="replay_set",
        metadata={
            "dagster/row_count": chosen.rows.height,
            "reasons": counts(chosen.reasons),
            "preview": preview(chosen.rows, ["step", "request_id", "reason", "cluster_size"]),
            **{f"coverage_{step}": picture(png) for step, png in chosen.pictures.items()},
        },
        data_version=version_of(chosen.rows),
    )


@asset(deps=[recordings], group_name="stage_1_record", kinds={"deltalake"}, metadata=columns_of("replay_set"))
def replay_set(context: AssetExecutionContext, project: ProjectResource) -> MaterializeResult:
    """One row per request chosen for a step: broadly representative of all traffic, and stable as it grows."""
    return choose(context.instance, project.open())
