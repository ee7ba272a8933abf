"""Models that have failed as a whole: of all cells that a run asked them, none has an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from qbawa.engine.error_classes import MODEL_FAULTS, MODEL_UNUSABLE
from qbawa.replay.strategies.strategy import Strategy
from qbawa.text import shorten

BY_CHANCE = 10
"""Cells of a model that may all time out or end in a server's error for what was asked."""


@dataclass(frozen=True, slots=True)
class SilentModel:
    model: str
    cells: int
    error: str
    """Of one of them."""

    def line(self) -> str:
        cells = f"all {self.cells:,} of its cells" if self.cells > 1 else "its only cell"
        return f"Model '{self.model}' gave no answer: {cells} failed ({shorten(self.error, 200).rstrip('.')})."


def models_of(strategy: Strategy) -> set[str]:
    """All models that a strategy calls; none for the recorded one and for imported ones."""
    program = strategy.program
    named = (strategy.model, *program.get("proposers", ()), (program.get("judge") or {}).get("model"))
    return {model for model in named if model}


def silent_models(cells: pl.DataFrame, strategies: Mapping[str, Strategy]) -> list[SilentModel]:
    """The models of which every cell of the run that asked last failed for a reason that lies in the model, by name.

    `cells` are rows of `replay_matrix`: run_id, strategy_id, status, error, answered_at. A cell whose program calls several
    models speaks against each of them, and an answer for each. Fewer than BY_CHANCE cells count only where one says that
    the model cannot be used at all: a last cell that times out every night must not stop everything.
    """
    reason = pl.col("error").str.split(":").list.first().fill_null("")
    judged = (
        cells.filter(pl.col("strategy_id").is_in(list(strategies)))
        .group_by("run_id", "strategy_id")
        .agg(
            cells=pl.len(),
            silent=((pl.col("status") == "failed") & reason.is_in(sorted(MODEL_FAULTS))).all(),
            unusable=reason.is_in(sorted(MODEL_UNUSABLE)).any(),
            error=pl.col("error").drop_nulls().sort().first(),
            at=pl.col("answered_at").max(),
        )
    )
    rows = [
        {"model": model, **row}
        for row in judged.iter_rows(named=True)
        for model in models_of(strategies[row["strategy_id"]])
    ]
    if not rows:
        return []
    by_run = (
        pl.DataFrame(rows, infer_schema_length=None)
        .sort("model", "run_id", "strategy_id")
        .group_by("model", "run_id", maintain_order=True)
        .agg(
            pl.col("cells").sum(), pl.col("silent").all(), pl.col("unusable").any(), pl.col("error").first(),
            pl.col("at").max(),
        )
    )  # fmt: skip
    newest = by_run.sort("at", nulls_last=False).unique("model", keep="last", maintain_order=True).sort("model")
    silent = newest.filter(pl.col("silent") & (pl.col("unusable") | (pl.col("cells") >= BY_CHANCE)))
    return [SilentModel(model, count, error) for model, count, error in silent.select("model", "cells", "error").rows()]


def describe(silent: Sequence[SilentModel]) -> str:
    """What failed, what was not done since, and how to go on."""
    return (
        f"{' '.join(each.line() for each in silent)} So nothing was judged: matches without "
        f"{'it' if len(silent) == 1 else 'them'} would be paid for and asked again later. All answers of other models are "
        "kept. Mend the cause and run `qbawa run flywheel` again, which pays only for what is missing; or judge what there "
        "is with `qbawa run tournament_sweep`; or take the model out of qbawa.yaml."
    )
