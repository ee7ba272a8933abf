"""Stage 1: what the application recorded, and the requests that stand for all of it."""

from dagster import AssetCheckResult, AssetCheckSpec, AssetExecutionContext, BackfillPolicy, MaterializeResult, asset

from qbawa import flywheel
from qbawa_assets.partitions import recording_batches
from qbawa_assets.partitions import requests as request_partitions
from qbawa_assets.shown import columns_of, counts, picture, preview
from resources import ProjectResource


@asset(
    partitions_def=recording_batches,
    backfill_policy=BackfillPolicy.single_run(),
    group_name="1_record",
    kinds={"deltalake"},
    metadata=columns_of("recordings"),
    check_specs=[AssetCheckSpec("no_line_quarantined", asset="recordings")],
)
def recordings(context: AssetExecutionContext, project: ProjectResource) -> MaterializeResult:
    """One row per step execution. A partition is a batch of closed journal segments."""
    report = flywheel.ingest(project.open(), context.partition_keys)
    return MaterializeResult(
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
                passed=report.quarantined == 0,
                check_name="no_line_quarantined",
                metadata={"quarantined": report.quarantined, "reasons": counts(report.by_reason)},
            )
        ],
    )


@asset(deps=[recordings], group_name="1_record", kinds={"deltalake"}, metadata=columns_of("replay_set"))
def replay_set(context: AssetExecutionContext, project: ProjectResource) -> MaterializeResult:
    """One row per request chosen for a step: broadly representative of all traffic, and stable as it grows."""
    chosen = flywheel.choose_requests(project.open())
    context.instance.add_dynamic_partitions(str(request_partitions.name), chosen.request_ids)
    return MaterializeResult(
        metadata={
            "dagster/row_count": chosen.rows.height,
            "reasons": counts(chosen.reasons),
            "preview": preview(chosen.rows, ["step", "request_id", "reason", "cluster_size"]),
            **{f"coverage_{step}": picture(png) for step, png in chosen.pictures.items()},
        }
    )
