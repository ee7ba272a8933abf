"""Stage 2: strategies, and the matrix of their answers."""

from dagster import (
    AssetExecutionContext,
    BackfillPolicy,
    Failure,
    MaterializeResult,
    MultiPartitionKey,
    asset,
)

from qbawa import flywheel
from qbawa.replay.cells import named_cells
from qbawa.replay.run import replay
from qbawa_assets.cells import report_cells
from qbawa_assets.partitions import cells
from qbawa_assets.partitions import strategies as strategy_partitions
from qbawa_assets.recordings import recordings, replay_set
from qbawa_assets.shown import columns_of, counts, preview
from resources import ProjectResource


@asset(deps=[recordings], group_name="2_replay", kinds={"deltalake"}, metadata=columns_of("strategies"))
def strategies(context: AssetExecutionContext, project: ProjectResource) -> MaterializeResult:
    """One row per strategy version: what qbawa.yaml declares, and `recorded`, which is what production does."""
    declared = flywheel.declare_strategies(project.open())
    context.instance.add_dynamic_partitions(str(strategy_partitions.name), declared["strategy_id"].to_list())
    return MaterializeResult(
        metadata={
            "dagster/row_count": declared.height,
            "by_step": counts(dict(declared.group_by("step").len().iter_rows())),
            "preview": preview(declared, ["step", "name", "model", "strategy_id"], 20),
        }
    )


@asset(
    deps=[replay_set, strategies],
    partitions_def=cells,
    backfill_policy=BackfillPolicy.single_run(),
    group_name="2_replay",
    kinds={"deltalake"},
    pool="replay",
    output_required=False,
    metadata=columns_of("replay_matrix"),
)
def replay_matrix(context: AssetExecutionContext, project: ProjectResource):  # type: ignore[no-untyped-def]
    """One row per answer in a cell, request × strategy. The job `replay_sweep` takes exactly what is missing or failed."""
    opened = project.open()
    wanted = named_cells(opened.lake, [_dimensions(key) for key in context.partition_keys])
    report = replay(opened, wanted, run_id=context.run_id, log=context.log.info, on_cells=report_cells(context))
    if report.failed:
        raise Failure(f"{report.failed} of {wanted.height} cells failed.", metadata=report.metadata())
    # Each cell has reported itself; a result for the whole range would turn cells green that do not exist.
    return
    yield


def _dimensions(key: str) -> tuple[str, str]:
    keys = key.keys_by_dimension if isinstance(key, MultiPartitionKey) else dict(zip(("request", "strategy"), key.split("|"), strict=True))
    return keys["request"], keys["strategy"]
