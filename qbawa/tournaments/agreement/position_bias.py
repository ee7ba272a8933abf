"""What the place in which an answer was shown has to do with verdicts: the order of each match, the bias of each judge."""

from collections.abc import Collection
from dataclasses import dataclass

import polars as pl
from scipy.special import ndtri

from qbawa.tournaments.agreement.calibration import scored_verdicts


@dataclass(frozen=True, slots=True)
class PositionBias:
    """How much oftener than half the answer shown first wins with a judge, −½ to ½, with its 95 % interval."""

    judge: str
    bias: float
    low: float
    high: float
    matches: int
    """On which it rests."""


def order_of_matches(verdicts: pl.DataFrame, jury: Collection[str]) -> pl.DataFrame:
    """match_id, order: the mean over the match's verdicts of 1 (a shown first) and −1 (b first).

    A jury whose judges saw different orders gives a fraction, both orders give 0. Verdicts without an order, as
    pointwise judges give them, and those of judges that are no longer on the `jury` do not count; a match that has no
    other has no row. An empty jury counts all.
    """
    towards = pl.col("shown_first").replace_strict({"a": 1.0, "b": -1.0}, default=None, return_dtype=pl.Float64)
    known = _counting(verdicts, jury).filter(pl.col("verdict") != "unscored", pl.col("shown_first").is_in(["a", "b"]))
    return known.group_by("match_id").agg(order=towards.mean())


def position_biases(verdicts: pl.DataFrame, jury: Collection[str], *, confidence: float = 0.95) -> list[PositionBias]:
    """The bias of each judge that counts and saw answers in an order, most biased first; people left out.

    Wilson's interval (1927) over matches: orders are drawn for each match by itself, so matches of one request are no
    more alike in this than others.
    """
    first = pl.when(pl.col("shown_first") == "a").then(pl.col("score")).otherwise(-pl.col("score"))
    each = (
        scored_verdicts(_counting(verdicts, jury))
        .filter(pl.col("shown_first").is_in(["a", "b"]), pl.col("judge_kind") != "human")
        .group_by("judge", "match_id")
        .agg(share=(first.mean() + 1) / 2)
        .group_by("judge")
        .agg(share=pl.col("share").mean(), matches=pl.len())
    )
    z2 = float(ndtri((1 + confidence) / 2)) ** 2
    found = []
    for judge, share, n in each.iter_rows():
        centre = (share + z2 / (2 * n)) / (1 + z2 / n)
        half = z2**0.5 / (1 + z2 / n) * (share * (1 - share) / n + z2 / (4 * n**2)) ** 0.5
        found.append(PositionBias(judge, share - 0.5, centre - half - 0.5, centre + half - 0.5, n))
    return sorted(found, key=lambda bias: (-abs(bias.bias), bias.judge))


def _counting(verdicts: pl.DataFrame, jury: Collection[str]) -> pl.DataFrame:
    if not jury:
        return verdicts
    return verdicts.filter((pl.col("judge_kind") != "llm") | pl.col("judge").is_in(list(jury)))
