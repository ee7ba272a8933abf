"""What the place in which an answer was shown has to do with verdicts: the order of each match, the bias of each judge."""

from collections.abc import Collection
from dataclasses import dataclass

import polars as pl
from scipy.special import ndtri

from qbawa.tournaments.agreement.intervals import wilson
from qbawa.tournaments.scores import scored_verdicts, sign_of


@dataclass(frozen=True, slots=True)
class PositionBias:
    """How much more often than half the time the answer shown first wins with a judge, −½ to ½, with its 95 % interval."""

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
    known = _counting(verdicts, jury).filter(pl.col("verdict") != "unscored", pl.col("shown_first").is_in(["a", "b"]))
    return known.group_by("match_id").agg(order=sign_of("shown_first").mean())


def towards_first(scored: pl.DataFrame) -> pl.DataFrame:
    """The rows of `scored_verdicts` whose order is known, with `towards_first`, −1 (to the second) to 1 (to the first)."""
    known = scored.filter(pl.col("shown_first").is_in(["a", "b"]))
    return known.with_columns(towards_first=pl.col("score") * sign_of("shown_first"))


def position_bias(scored: pl.DataFrame) -> float | None:
    """Share of one judge's verdicts that the answer shown first wins, less ½; ties are ½. None where no order is known.

    True where the order is drawn or both are asked. It describes all verdicts, each by itself, as the columns beside
    it in `judge_reliability` do. `position_biases` counts each match once, since an interval needs independent
    observations: the same number unless some matches were asked in both orders and others in one.
    """
    halves = (towards_first(scored)["towards_first"] / 2).mean()
    return None if halves is None else float(halves)  # type: ignore[arg-type]


def position_biases(verdicts: pl.DataFrame, jury: Collection[str], *, confidence: float = 0.95) -> list[PositionBias]:
    """The bias of each judge that counts and saw answers in an order, most biased first; people left out.

    Wilson's interval (1927) over matches: orders are drawn for each match by itself, so matches of one request are no
    more alike in this than others.
    """
    each = (
        towards_first(scored_verdicts(_counting(verdicts, jury)))
        .filter(pl.col("judge_kind") != "human")
        .group_by("judge", "match_id")
        .agg(share=(pl.col("towards_first").mean() + 1) / 2)
        .group_by("judge")
        .agg(share=pl.col("share").mean(), matches=pl.len())
    )
    z = float(ndtri((1 + confidence) / 2))
    found = []
    for judge, share, n in each.iter_rows():
        low, high = wilson(share, n, z)
        found.append(PositionBias(judge, share - 0.5, low - 0.5, high - 0.5, n))
    return sorted(found, key=lambda bias: (-abs(bias.bias), bias.judge))


def _counting(verdicts: pl.DataFrame, jury: Collection[str]) -> pl.DataFrame:
    if not jury:
        return verdicts
    return verdicts.filter((pl.col("judge_kind") != "llm") | pl.col("judge").is_in(list(jury)))
