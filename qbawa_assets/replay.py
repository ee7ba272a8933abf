"""Stage 2: strategies, and the matrix of their answers."""

from collections.abc import Iterator

from dagster import (
    AssetExecutionContext,
    BackfillPolicy,
    DagsterInstance,
    MaterializeResult,
    asset,
)

from qbawa.project import Project
from qbawa.replay import stage as replay_stage
from qbawa_assets.metadata import columns_of, counts, preview
from qbawa_assets.model_checks import note_cap
from qbawa_assets.partition_reports import fail_for_failed_cells, report_cells
from qbawa_assets.partitions import add_partitions, cells, dimensions
from qbawa_assets.partitions import strategies as strategy_partitions
from qbawa_assets.recordings import recordings, replay_set
from resources import ProjectResource


def declare(instance: DagsterInstance, project: Project) -> MaterializeResult:
    """Expand what qbawa.yaml declares into strategies; they become the matrix's strategy partitions."""
    declared = replay_stage.declare_strategies(project)
    add_partitions(instance, strategy_partitions, declared["strategy_id"])
    return MaterializeResult(
        asset_key="strategies",
        metadata={
            "dagster/row_count": declared.height,
            "by_step": counts(dict(declared.group_by("step").len().iter_rows())),
            "preview": preview(declared, ["step", "name", "model", "strategy_id"], 20),
        },
    )


@asset(deps=[recordings], group_name="stage_2_replay", kinds={"deltalake"}, metadata=columns_of("strategies"))
def strategies(context: AssetExecutionContext, project: ProjectResource) -> MaterializeResult:
    """One row per strategy version: what qbawa.yaml declares, and `recorded`, which is what production does."""
    return declare(context.instance, project.open())


@asset(
    deps=[replay_set, strategies],
    partitions_def=cells,
    backfill_policy=BackfillPolicy.single_run(),
    group_name="stage_2_replay",
    kinds={"deltalake"},
    pool="model_calls",
    output_required=False,
    metadata=columns_of("replay_matrix"),
)
def replay_matrix(context: AssetExecutionContext, project: ProjectResource) -> Iterator[MaterializeResult]:
    """One row per answer in a cell, request × strategy. The job `replay_sweep` takes exactly what is missing or failed."""
    opened = project.open()
    wanted = replay_stage.named_cells(opened.lake, [dimensions(key) for key in context.partition_keys])
    report = replay_stage.replay(
        opened, wanted, run_id=context.run_id, log=context.log.info, on_cells=report_cells(context)
    )
    opened.publish()
    note_cap(context, report.capped)
    context.add_output_metadata(report.metadata())
    fail_for_failed_cells(context, opened)
    # Each cell has reported itself. A result here would stand for the whole range and turn cells green that do not exist.
    yield from ()
