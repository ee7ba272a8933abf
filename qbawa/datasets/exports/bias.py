"""What a model could learn from a dataset besides quality."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from qbawa.datasets.pairs.pair_ids import distinct

_MARKUP = r"(?m)^\s*(?:[-*+]|\d+\.|#{1,6})\s|\*\*|```"


@dataclass(frozen=True, slots=True)
class Bias:
    """Shares from 0 to 1; NaN where no pair differs."""

    longer_best: float
    """Pairs of unequal length whose longer answer is best."""
    markup_best: float
    """Pairs of unequal amount of markup whose richer answer is best."""
    best_chars: float
    worse_chars: float
    top_best: float
    """Share of the strategy that is best most often."""
    top_worse: float


def measure(pairs: pl.DataFrame) -> Bias:
    """The biases of a set of pairs."""
    sizes = [pairs.select("best_strategy", "worse_strategy")]
    for side in ("best", "worse"):
        key, table = distinct(pairs[f"{side}_answer"])
        text = pl.col("text")
        measured = table.select(
            "key", text.str.len_chars().alias(side), text.str.count_matches(_MARKUP).alias(f"{side}_markup")
        )
        sizes.append(key.to_frame().join(measured, on="key", how="left", maintain_order="left").drop("key"))
    row = (
        pl.concat(sizes, how="horizontal")
        .select(
            longer=_wins(pl.col("best"), pl.col("worse")),
            richer=_wins(pl.col("best_markup"), pl.col("worse_markup")),
            best=pl.col("best").mean(),
            worse=pl.col("worse").mean(),
            top_best=pl.col("best_strategy").unique_counts().max() / pl.len(),
            top_worse=pl.col("worse_strategy").unique_counts().max() / pl.len(),
        )
        .row(0)
    )
    return Bias(*(float("nan") if value is None else float(value) for value in row))


def _wins(best: pl.Expr, worse: pl.Expr) -> pl.Expr:
    return (best > worse).sum() / (best != worse).sum()
