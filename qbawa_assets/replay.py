"""Stage 2: strategies, and the matrix of their answers."""

from collections.abc import Iterator
from typing import Any

import polars as pl
from dagster import AssetExecutionContext, BackfillPolicy, MaterializeResult, asset

from qbawa.project import Project
from qbawa.replay import stage as replay_stage
from qbawa_assets.metadata import columns_of, counts, preview, version_of
from qbawa_assets.model_checks import note_cap
from qbawa_assets.partition_events import PartitionEvents
from qbawa_assets.partition_keys import partition_key
from qbawa_assets.partition_reports import describe_strategy, fail_for_failed_cells, report_cells
from qbawa_assets.partitions import add_partitions, cells, dimensions
from qbawa_assets.partitions import strategies as strategy_partitions
from qbawa_assets.recordings import recordings, replay_set
from resources import ProjectResource


def declare(context: Any, project: Project) -> MaterializeResult:
    """Expand what qbawa.yaml declares into strategies; they become the matrix's strategy partitions.

    Each new one is described at once, on the page of its partition, before anything is answered.
    """
    declared = replay_stage.declare_strategies(project)
    known = set(context.instance.get_dynamic_partitions(str(strategy_partitions.name)))
    add_partitions(context.instance, strategy_partitions, declared["strategy_id"])
    cards = replay_stage.strategy_cards(project)
    PartitionEvents.of(context, "replay_by_strategy").observed(
        (partition_key(each), describe_strategy(cards[each]))
        for each in declared["strategy_id"]
        if partition_key(each) not in known
    )
    declared = declared.with_columns(
        prompt=pl.Series([cards[each].prompt for each in declared["strategy_id"]], dtype=pl.String)
    )
    return MaterializeResult(
        asset_key="strategies",
        metadata={
            "dagster/row_count": declared.height,
            "by_step": counts(dict(declared.group_by("step").len().sort("step").iter_rows())),
            "preview": preview(declared, ["step", "name", "model", "prompt", "strategy_id"], 20),
        },
        data_version=version_of(declared),
    )


@asset(deps=[recordings], group_name="stage_2_replay", kinds={"deltalake"}, metadata=columns_of("strategies"))
def strategies(context: AssetExecutionContext, project: ProjectResource) -> MaterializeResult:
    """One row per strategy version: what qbawa.yaml declares, and `recorded`, which is what production does."""
    return declare(context, project.open())


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
