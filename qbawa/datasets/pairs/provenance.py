"""Where a pair comes from: its judges, how far they disagreed, and its matches."""

from __future__ import annotations

import numpy as np
import polars as pl

# How many matches an inferred pair names for each of its two answers.
NAMED = 2


def history(rows: pl.DataFrame, matches: pl.DataFrame) -> list[pl.Series]:
    """judges, dissent and match_ids of pairs: of the judged match, else of the matches that say most of the two answers.

    `rows`: request, best_strategy, worse_strategy (numbers), match (row of `matches`, or -1). `matches`: request, low,
    high (numbers, low < high), match_id, p_low, weight, dissent, judges.
    """
    if matches.is_empty():
        none = pl.Series([[]], dtype=pl.List(pl.String)).new_from_index(0, rows.height)
        return [none.alias("judges"), pl.Series("dissent", [None], pl.Float64).new_from_index(0, rows.height),
                none.alias("match_ids")]  # fmt: skip
    match = rows["match"].to_numpy()
    direct = match >= 0
    mask, at = pl.Series(direct), np.where(direct, match, 0)
    # p_low < ½ with best = low happens where the other matches overrule the verdict: then it dissents.
    best_is_low = rows["best_strategy"].to_numpy() < rows["worse_strategy"].to_numpy()
    with_it = (matches["p_low"].to_numpy()[at] >= 0.5) == best_is_low
    share = matches["dissent"].cast(pl.Float64).to_numpy()[at]
    dissent = np.where(direct, np.where(with_it, share, 1 - share), np.nan)
    everyone = matches["judges"].explode(empty_as_null=True).drop_nulls().unique().sort().to_list()
    all_judges = pl.Series([everyone], dtype=pl.List(pl.String)).new_from_index(0, rows.height)
    leading = [_leading(matches, rows["request"], rows[name]) for name in ("best_strategy", "worse_strategy")]
    named = pl.select(pl.concat_list(*leading).list.unique(maintain_order=True)).to_series()
    own = matches.select(pl.concat_list("match_id")).to_series()
    return [
        matches["judges"][at].zip_with(mask, all_judges).alias("judges"),
        pl.Series("dissent", dissent).fill_nan(None),
        own[at].zip_with(mask, named).alias("match_ids"),
    ]


def _leading(matches: pl.DataFrame, request: pl.Series, strategy: pl.Series) -> pl.Series:
    """For each answer up to NAMED of its own matches, the most telling first; where it has none, of its strategy's."""
    telling = pl.col("weight") * (pl.col("p_low") - 0.5).abs()
    sides = pl.concat(
        [matches.select("request", "match_id", strategy=pl.col(side), telling=telling) for side in ("low", "high")]
    ).sort("telling", "match_id", descending=[True, False])
    own = sides.group_by("request", "strategy").agg(own=pl.col("match_id").head(NAMED))
    other = sides.group_by("strategy").agg(other=pl.col("match_id").head(NAMED))
    return (
        pl.DataFrame({"request": request, "strategy": strategy})
        .join(own, on=["request", "strategy"], how="left", maintain_order="left")
        .join(other, on="strategy", how="left", maintain_order="left")
        .select(pl.coalesce("own", "other").fill_null([]))
        .to_series()
    )
