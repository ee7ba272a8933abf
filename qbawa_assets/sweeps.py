"""Many cells in one run: rows and columns of the matrix, chosen by clicks in the UI or by globs in the run's configuration."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import polars as pl
from dagster import AssetExecutionContext, BackfillPolicy, Config, MaterializeResult, asset
from pydantic import Field

from qbawa.project import Project
from qbawa.replay import stage as replay_stage
from qbawa.replay.cells import choose_cells
from qbawa_assets.metadata import columns_of, picture
from qbawa_assets.model_checks import note_cap, say_what_is_wrong
from qbawa_assets.partition_keys import name_of
from qbawa_assets.partition_reports import (
    fail_for_failed_cells,
    report_cells,
    report_unreported_cells,
    report_whole,
)
from qbawa_assets.partitions import requests, strategies
from qbawa_assets.recordings import replay_set
from qbawa_assets.replay import strategies as strategies_asset
from resources import ProjectResource


class ReplaySweep(Config):
    """Which cells a run takes; by default all that are missing or failed."""

    requests: str = Field("*", description="Glob over request ids.")
    strategies: str = Field("*", description="Names or ids of strategies, globs, several with commas.")
    states: list[str] = Field(
        ["missing", "failed"],
        description="States of the cells to take: missing, failed, refused (may cost again), ok.",
    )
    older_than_days: float | None = Field(None, description="Answer also cells again that are older than this.")
    usd: float | None = Field(None, description="Dollar cap of this run, besides those in qbawa.yaml.")


class SweepOfPartitions(ReplaySweep):
    """Which cells of the run's partitions it takes."""

    only: list[str] | None = Field(
        None, description="Of the run's partitions take these alone; a schedule's range may have others between."
    )


def choose(
    project: Project,
    config: ReplaySweep,
    *,
    requests: Collection[str] | None = None,
    strategies: Collection[str] | None = None,
) -> pl.DataFrame:
    """The cells that the configuration takes, in the form of `wanted_cells`; of these requests and strategies alone."""
    wanted = replay_stage.wanted_cells(project.lake)
    if requests is not None:
        wanted = wanted.filter(pl.col("request_id").is_in(list(requests)))
    if strategies is not None:
        wanted = wanted.filter(pl.col("strategy_id").is_in(list(strategies)))
    return choose_cells(
        wanted,
        states=config.states,
        requests=config.requests,
        strategies=replay_stage.matching_strategies(project, config.strategies),
        older_than=None if config.older_than_days is None else timedelta(days=config.older_than_days),
    )


def sweep(
    context: Any,
    project: Project,
    config: ReplaySweep,
    chosen: pl.DataFrame,
    *judging: Mapping[str, Sequence[str]],
    partitions: Collection[str] = (),
) -> None:
    """Answer the chosen cells and report them, each by itself. `judging` are models that are called later in the run.

    `partitions` are keys of a run over whole rows or columns: they are reported again even if known as whole.
    """
    if chosen.height:
        context.log.info(f"{chosen.height:,} cells are to be answered")
    problems = say_what_is_wrong(context, project, replay_stage.model_uses(project, chosen), *judging, usd=config.usd)
    # Imported cells, and what a killed run had answered but not yet reported: the lake is right, Dagster is made to agree.
    report_unreported_cells(context, project)
    report = replay_stage.replay(
        project,
        chosen,
        run_id=context.run_id,
        log=context.log.info,
        on_cells=report_cells(context, project, plan_failures=True),
        usd=config.usd,
        retry_refused="refused" in config.states,
    )
    project.publish()
    context.log.info(report.summary())
    report_whole(context, project, again=partitions)
    if report.cells:
        context.log.info("drawing the matrix")
    drawn = {"matrix": picture(replay_stage.matrix_picture(project))} if report.cells else {}
    note_cap(context, report.capped)
    context.add_output_metadata(report.metadata() | problems | drawn)


_ROWS_OR_COLUMNS: dict[str, Any] = {
    "deps": [replay_set, strategies_asset],
    "backfill_policy": BackfillPolicy.single_run(),
    "group_name": "stage_2_replay",
    "kinds": {"deltalake"},
    "pool": "model_calls",
    "output_required": False,
    "metadata": columns_of("replay_matrix"),
}


@asset(partitions_def=requests, **_ROWS_OR_COLUMNS)
def replay_by_request(
    context: AssetExecutionContext, config: SweepOfPartitions, project: ProjectResource
) -> Iterator[MaterializeResult]:
    """Whole rows of `replay_matrix`: every wanted cell of the chosen requests, in one run however many there are.

    The run's configuration narrows it: `strategies: "limits*"`, `states: [failed]`, `usd: 2`. A partition is green once
    all its cells are answered, whichever run answered them.
    """
    opened = project.open()
    asked = _asked(context, config)
    sweep(context, opened, config, choose(opened, config, requests=asked), partitions=context.partition_keys)
    fail_for_failed_cells(context, opened)
    # Each row that is whole has reported itself. A result here would turn the others green too.
    yield from ()


@asset(partitions_def=strategies, **_ROWS_OR_COLUMNS)
def replay_by_strategy(
    context: AssetExecutionContext, config: SweepOfPartitions, project: ProjectResource
) -> Iterator[MaterializeResult]:
    """Whole columns of `replay_matrix`: the chosen strategies over all their requests, in one run however many there are.

    A partition's page shows the strategy's name, model and prompt. The run's configuration narrows it: `requests: "vip-*"`.
    """
    opened = project.open()
    asked = _asked(context, config)
    sweep(context, opened, config, choose(opened, config, strategies=asked), partitions=context.partition_keys)
    fail_for_failed_cells(context, opened)
    yield from ()


def _asked(context: AssetExecutionContext, config: SweepOfPartitions) -> list[str]:
    names = [name_of(key) for key in context.partition_keys]
    only = set(names if config.only is None else config.only)
    return [name for name in names if name in only]
