"""Verdicts, sides and preferences as numbers, and back: the only place that says what `a`, `b` and `tie` are worth.

A *score* runs from −1 (b) to 1 (a), a *preference* from 0 (b) to 1 (a). Unscored verdicts are neither.
"""

import polars as pl

PREFERENCE = {"a": 1.0, "tie": 0.5, "b": 0.0}
SCORE = {"a": 1.0, "tie": 0.0, "b": -1.0}


def is_scored() -> pl.Expr:
    return pl.col("verdict").is_in(["a", "b", "tie"])


def sign_of(column: str) -> pl.Expr:
    """1 where a column names a, −1 where it names b, null where it names neither."""
    return pl.col(column).replace_strict({"a": 1.0, "b": -1.0}, default=None, return_dtype=pl.Float64)


def preference_of(column: str) -> pl.Expr:
    """1 where a column names a, 0 where it names b, ½ for a tie, null for anything else."""
    return pl.col(column).replace_strict(PREFERENCE, default=None, return_dtype=pl.Float64)


def preference() -> pl.Expr:
    """The preference of each verdict: the judge's own where it gave one, else that of what it named."""
    return pl.coalesce(pl.col("preference").cast(pl.Float64).fill_nan(None), preference_of("verdict"))


def winner(towards_a: pl.Expr, sure: pl.Expr | None = None) -> pl.Expr:
    """'a' above 0, 'b' below, 'tie' at 0 and wherever it is not `sure`; null where there is nothing to go by."""
    decided = pl.lit(True) if sure is None else sure
    return (
        pl.when(towards_a.is_null())
        .then(None)
        .when(decided & (towards_a > 0))
        .then(pl.lit("a"))
        .when(decided & (towards_a < 0))
        .then(pl.lit("b"))
        .otherwise(pl.lit("tie"))
    )


def scored_verdicts(verdicts: pl.DataFrame) -> pl.DataFrame:
    """Scored rows with `score`, −1 (b) to 1 (a): the preference where there is one, else the verdict."""
    named = pl.col("verdict").replace_strict(SCORE, default=None, return_dtype=pl.Float64)
    own = pl.lit(None, dtype=pl.Float64)
    if "preference" in verdicts.columns:
        own = 2 * pl.col("preference").cast(pl.Float64).fill_nan(None) - 1
    return verdicts.filter(is_scored()).with_columns(score=pl.coalesce(own, named))
