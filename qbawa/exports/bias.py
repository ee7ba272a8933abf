"""What a model could learn from a dataset besides quality."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

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
    best, worse = pl.col("best_answer"), pl.col("worse_answer")
    row = pairs.select(
        longer=_wins(best.str.len_chars(), worse.str.len_chars()),
        richer=_wins(best.str.count_matches(_MARKUP), worse.str.count_matches(_MARKUP)),
        best=best.str.len_chars().mean(),
        worse=worse.str.len_chars().mean(),
        top_best=pl.col("best_strategy").unique_counts().max() / pl.len(),
        top_worse=pl.col("worse_strategy").unique_counts().max() / pl.len(),
    ).row(0)
    return Bias(*(float("nan") if value is None else float(value) for value in row))


def _wins(best: pl.Expr, worse: pl.Expr) -> pl.Expr:
    return (best > worse).sum() / (best != worse).sum()
