"""Cells of the replay matrix and brackets of requests as partition events."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import polars as pl
from dagster import AssetKey, Failure, MetadataValue

from qbawa.engine.counted import Counted
from qbawa.project import Project
from qbawa.replay import stage as replay_stage
from qbawa.text import shorten
from qbawa.tournaments import stage as tournaments_stage
from qbawa_assets.metadata import picture
from qbawa_assets.partition_events import PartitionEvents
from qbawa_assets.partition_keys import name_of, partition_key
from qbawa_assets.partitions import add_partitions, cell_key, requests, strategies

# A picture takes about 0.2 CPU seconds and 90 kB of the event log.
MOST_PICTURES = 12
NOT_DRAWN = MetadataValue.text(
    f"A run draws its first {MOST_PICTURES} brackets. Materialize this partition by itself to see it; nothing is asked again."
)

# Of a prompt in the event of every cell, of which there may be 30,000.
MOST_OF_A_PROMPT = 200
DONE = ["ok", "refused"]

OnCells = Callable[[pl.DataFrame], None]


def report_cells(context: Any, project: Project, *, plan_failures: bool = False) -> OnCells:
    """A function that takes finished cells (request_id, strategy_id, state, error, cost_usd, latency_s) and reports them.

    Cells that are ok become materialised. In a run that did not plan its cells, `plan_failures` plans the failed ones
    alone: they show as failed when the run ends in failure, and no other cell does.
    """
    events = PartitionEvents.of(context, "replay_matrix")
    about = {
        key: describe_strategy(card, MOST_OF_A_PROMPT) for key, card in replay_stage.strategy_cards(project).items()
    }

    def report(cells: pl.DataFrame) -> None:
        good = cells.filter(pl.col("state") == "ok")
        events.materialized(
            (
                (
                    cell_key(cell["request_id"], cell["strategy_id"]),
                    # What is not known is left out.
                    {name: cell[name] for name in ("cost_usd", "latency_s") if cell[name] is not None}
                    | about.get(cell["strategy_id"], {}),
                )
                for cell in good.iter_rows(named=True)
            ),
            "cells",
        )
        if plan_failures:
            bad = cells.filter(pl.col("state") == "failed")
            events.planned(str(cell_key(*key)) for key in bad.select("request_id", "strategy_id").iter_rows())

    return report


def report_unreported_cells(context: Any, project: Project) -> None:
    """Report every cell that the lake calls ok but Dagster does not know as materialised."""
    columns = ["request_id", "strategy_id", "cost_usd", "latency_s"]
    stored = project.lake.read("replay_matrix", columns, keep=(pl.col("status") == "ok") & (pl.col("sample") == 0))
    known = context.instance.get_materialized_partitions(AssetKey("replay_matrix"))
    new = [
        str(cell_key(request, strategy)) not in known for request, strategy in stored.select(columns[:2]).iter_rows()
    ]
    lost = stored.filter(pl.Series(new, dtype=pl.Boolean))
    if lost.is_empty():
        return
    add_partitions(context.instance, requests, lost["request_id"].unique().sort())
    add_partitions(context.instance, strategies, lost["strategy_id"].unique().sort())
    report_cells(context, project)(lost.with_columns(state=pl.lit("ok")))


def describe_strategy(card: replay_stage.StrategyCard, most: int = 2_000) -> dict[str, Any]:
    """A strategy's name, model and prompt as metadata: what its key alone does not say. `most`: letters of the prompt."""
    about = {"strategy": card.name, "model": card.model or "production's own", "prompt": shorten(card.prompt, most)}
    return {name: MetadataValue.text(text) for name, text in about.items()}


def report_whole(context: Any, project: Project, again: Collection[str] = ()) -> None:
    """Report the requests and strategies of which every wanted cell is answered, and that Dagster does not know as whole.

    They are the partitions of `replay_by_request` and `replay_by_strategy`, whichever way their cells were answered. Those
    of `again` are reported in any case: a run over them planned them, and would show them as failed if it ends so.
    """
    wanted = replay_stage.wanted_cells(project.lake)
    _report_whole(context, "replay_by_request", wanted, "request_id", {}, again)
    cards = replay_stage.strategy_cards(project)
    about = {key: describe_strategy(card) for key, card in cards.items()}
    _report_whole(context, "replay_by_strategy", wanted, "strategy_id", about, again)


def _report_whole(
    context: Any,
    asset: str,
    wanted: pl.DataFrame,
    by: str,
    about: Mapping[str, Mapping[str, Any]],
    again: Collection[str],
) -> None:
    counted = wanted.group_by(by).agg(
        pl.len().alias("cells"), (pl.col("state") == "refused").sum(), pl.col("state").is_in(DONE).all().alias("whole")
    )
    known = context.instance.get_materialized_partitions(AssetKey(asset)) - set(again)
    whole = counted.filter(pl.col("whole")).sort(by)
    PartitionEvents.of(context, asset).materialized(
        (key, {"cells": row["cells"], "refused": row["state"], **about.get(row[by], {})})
        for row in whole.iter_rows(named=True)
        if (key := partition_key(row[by])) not in known
    )


def fail_for_failed_cells(context: Any, project: Project) -> None:
    """Raise Failure if cells failed in this run: only a run that ends in failure shows them red."""
    failed = replay_stage.failures_of_run(project, context.run_id)
    if failed.height:
        raise Failure(
            replay_stage.describe_failures(failed),
            metadata={"examples": MetadataValue.json(failed.head(5).to_dicts())},
            allow_retries=False,
        )


def fail_for_judging(failure: str | None) -> None:
    """Raise Failure if tournaments could not be played to their end, and say why."""
    if failure:
        raise Failure(failure, allow_retries=False)


def report_brackets(
    context: Any, project: Project, played: Collection[str], unfinished: Collection[str] = frozenset()
) -> None:
    """Report each bracket of `played` by itself, and those with matches that Dagster does not know, such as imports.

    Those of `unfinished` are left out. The first MOST_PICTURES of `played` have their picture too.
    """
    played = set(played) - set(unfinished)
    known = context.instance.get_materialized_partitions(AssetKey("tournament_brackets"))
    counts = tournaments_stage.bracket_counts(project)
    reported = {name for key in known if partition_key(name := name_of(key)) == key}
    due = sorted({*played, *(set(counts) - reported - set(unfinished))})
    drawn = _draw(context, project, sorted(played)[:MOST_PICTURES])
    add_partitions(context.instance, requests, due)
    PartitionEvents.of(context, "tournament_brackets").materialized(
        (
            (
                partition_key(request),
                {
                    **counts.get(request, {"matches": 0}),
                    "bracket": drawn.get(request, NOT_DRAWN),
                },
            )
            for request in due
        ),
        "brackets",
    )


def _draw(context: Any, project: Project, requests: Sequence[str]) -> dict[str, MetadataValue]:
    """Pictures of these requests' brackets."""
    drawing, drawn = Counted(context.log.info, "drawing", len(requests), "brackets"), {}
    for request in requests:
        drawn[request] = picture(tournaments_stage.bracket_picture(project, request))
        drawing.advance()
    return drawn
