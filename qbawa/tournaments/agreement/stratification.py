"""What each label stands for, so that labels count as if their matches had been drawn at random.

People judge split matches more often than chance would have them: `qbawa judge` asks so, and whoever chooses by hand
does too. How a label came about is not known, but whether the jury is split on its match is: labels are weighted so
that split and unanimous matches have the shares that they have among all (post-stratification, Holt & Smith 1979,
J. R. Statist. Soc. A 142(1)). Models' verdicts alone make the strata, so a label cannot move its own match.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

# Labels that leave a stratum out are no random sample if fewer than one random sample in twenty would do so.
CHANCE = 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """Labelled matches and what each stands for among all that were judged."""

    weights: pl.DataFrame
    """match_id, split, weight (mean 1); as many rows as labelled matches."""
    covered: float
    """Share of all matches whose stratum holds a label; of the rest nothing is known."""

    @property
    def one_sided(self) -> bool:
        """Whether a stratum is left out that random labels would hardly have missed: then they do not speak for all."""
        return self.covered**self.weights.height < CHANCE

    def mean(self, values: pl.DataFrame, column: str) -> float | None:
        """Weighted mean of a column over rows with match_id; None without rows or where labels are one-sided."""
        if values.is_empty() or self.one_sided:
            return None
        rows = values.join(self.weights, on="match_id", maintain_order="left")
        return float(np.average(rows[column].cast(pl.Float64).to_numpy(), weights=rows["weight"].to_numpy()))


def strata(scored: pl.DataFrame) -> pl.DataFrame:
    """match_id, split: one row per match of `scored_verdicts`, split where two models name different answers.

    A model in both orders counts by the mean of its verdicts. Ties, people and single judges split nothing.
    """
    sides = (
        scored.filter(pl.col("judge_kind") != "human").group_by("match_id", "judge").agg(side=pl.col("score").mean())
    )
    split = sides.group_by("match_id").agg(split=(pl.col("side").min() < 0) & (pl.col("side").max() > 0))
    matches = scored.select("match_id").unique(maintain_order=True)
    return matches.join(split, on="match_id", how="left", maintain_order="left").with_columns(
        pl.col("split").fill_null(False)
    )


def weigh(population: pl.DataFrame, labelled: pl.DataFrame) -> Sample:
    """The matches of `population` (rows of `strata`) that `labelled` names too, weighted by stratum."""
    sample = population.join(labelled, on="match_id", how="semi", maintain_order="left")
    n, weight = sample.height, {False: 0.0, True: 0.0}
    counts = {s: (population.filter(split=s).height, sample.filter(split=s).height) for s in weight}
    known = sum(everywhere for everywhere, here in counts.values() if here)
    weight |= {s: everywhere * n / (here * known) for s, (everywhere, here) in counts.items() if here}
    weights = sample.with_columns(weight=pl.when("split").then(weight[True]).otherwise(weight[False]))
    return Sample(weights, known / population.height if population.height else 1.0)


def effective_number(weights: NDArray[np.float64]) -> float:
    """How many equally weighted labels say as much: Kish 1965, Survey Sampling. Their number where all weigh the same."""
    return float(weights.sum() ** 2 / (weights**2).sum())
