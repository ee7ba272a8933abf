"""Stage 2: strategies, and the matrix of their answers."""

from collections.abc import Iterator

import polars as pl
from dagster import AssetExecutionContext, BackfillPolicy, DagsterInstance, MaterializeResult, asset

from qbawa.project import Project
from qbawa.replay import stage as replay_stage
from qbawa_assets.metadata import columns_of, counts, preview, version_of
from qbawa_assets.model_checks import note_cap
from qbawa_assets.partition_reports import fail_for_failed_cells, report_cells
from qbawa_assets.partitions import add_partitions, cells, dimensions
from qbawa_assets.partitions import strategies as strategy_partitions
from qbawa_assets.recordings import recordings, replay_set
from resources import ProjectResource

# As many are listed with name and prompt beside their keys.
MOST_STRATEGIES = 100


def declare(instance: DagsterInstance, project: Project) -> MaterializeResult:
    """Expand what qbawa.yaml declares into strategies; they become the matrix's strategy partitions."""
    declared = replay_stage.declare_strategies(project)
    add_partitions(instance, strategy_partitions, declared["strategy_id"])
    cards = replay_stage.strategy_cards(project)
    declared = declared.with_columns(
        prompt=pl.Series([cards[each].prompt for each in declared["strategy_id"]], dtype=pl.String)
    )
    return MaterializeResult(
        asset_key="strategies",
        metadata={
            "dagster/row_count": declared.height,
            "by_step": counts(dict(declared.group_by("step").len().sort("step").iter_rows())),
            "preview": preview(declared, ["strategy_id", "step", "name", "model", "prompt"], MOST_STRATEGIES),
        },
        data_version=version_of(declared),
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
    """One row per answer in a cell, request × strategy. The job `replay_sweep` takes exactly what is missing or failed.

    The dialog starts a run for each row or column; `replay_by_request` and `replay_by_strategy` take many in one run.
    """
    opened = project.open()
    asked = {dimensions(key) for key in context.partition_keys}
    wanted = replay_stage.named_cells(opened.lake, sorted(asked))
    unwanted = asked - set(wanted.select("request_id", "strategy_id").iter_rows())
    if unwanted:
        context.log.warning(replay_stage.describe_unwanted(opened, unwanted))
    report = replay_stage.replay(
        opened, wanted, run_id=context.run_id, log=context.log.info, on_cells=report_cells(context, opened)
    )
    opened.publish()
    note_cap(context, report.capped)
    context.add_output_metadata(report.metadata() | ({"unwanted": len(unwanted)} if unwanted else {}))
    fail_for_failed_cells(context, opened)
    # Each cell has reported itself. A result here would stand for the whole range and turn cells green that do not exist.
    yield from ()
