"""From rows of matches to ratings."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from qbawa.errors import InputError
from qbawa.ratings.intervals import Uncertainty, clustered, critical
from qbawa.ratings.newton import Design, Floats, Ints, best_first, maximise
from qbawa.ratings.ranks import groups, rank_ranges

RATING_SCHEMA = {
    "strategy_id": pl.String,
    "strength": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "win_rate": pl.Float64,
    "matches": pl.Int64,
    "rank": pl.Int64,
    "rank_low": pl.Int64,
    "rank_high": pl.Int64,
    "group": pl.Int64,
    "component": pl.Int64,
}


@dataclass(frozen=True, slots=True)
class Effect:
    """What something other than the answers' quality adds to a verdict, in logits, with its interval."""

    logit: float
    low: float
    high: float

    @property
    def points(self) -> float:
        """Percentage points that it moves an even match away from 50 : 50."""
        return 100 / (1 + float(np.exp(-self.logit / 2))) - 50


@dataclass(frozen=True, slots=True)
class RatingFit:
    """What `fit_ratings` returns."""

    table: pl.DataFrame
    """The rows of `rate`, best first."""
    strategies: list[str]
    """In the order of `strength` and `covariance`."""
    strength: Floats
    covariance: Floats
    """Of the strengths, request-clustered, shape (strategies, strategies)."""
    order_effect: Effect | None
    """Log-odds of the answer shown first against the same answer shown second; None where no order is known."""
    length_effect: Effect | None
    """Log-odds per unit of tanh(length gap / its standard deviation); None unless asked for."""


def rate(matches: pl.DataFrame, *, length_effect: bool = False, confidence: float = 0.95) -> pl.DataFrame:
    """One row per strategy, best first: the columns of the `ratings` view, and `group` and `component`.

    See `fit_ratings`, whose `table` this is.
    """
    return fit_ratings(matches, length_effect=length_effect, confidence=confidence).table


def fit_ratings(matches: pl.DataFrame, *, length_effect: bool = False, confidence: float = 0.95) -> RatingFit:
    """Bradley–Terry strengths of all strategies in `matches`, with request-clustered intervals.

    Columns of `matches`: request_id, strategy_a, strategy_b, p_a (probability or share of verdicts for a, 0–1; a tie is
    ½; null is unscored and left out), optionally shown_first ('a', 'b' or null) and length_a, length_b (characters).
    """
    rows = _Rows.of(matches, length_effect)
    size = len(rows.strategies)
    if size == 0:
        return RatingFit(pl.DataFrame(schema=RATING_SCHEMA), [], np.zeros(0), np.zeros((0, 0)), None, None)
    design, request, outcome = rows.design(), rows.request, rows.outcome
    fit = maximise(*rows.aggregate(design))
    sure = clustered(design, fit, outcome, request)
    extra = {name: _effect(fit.theta, sure, size + k, confidence) for k, name in enumerate(rows.covariates)}
    strength = fit.theta[:size]
    covariance = sure.covariance[:size, :size]
    table = _table(rows, design.component, strength, covariance, sure.freedom[:size], confidence)
    return RatingFit(table, rows.strategies, strength, covariance, extra.get("order"), extra.get("length"))


def _effect(theta: Floats, sure: Uncertainty, k: int, confidence: float) -> Effect:
    half = float(critical(sure.freedom[k : k + 1], confidence)[0] * np.sqrt(sure.covariance[k, k]))
    return Effect(float(theta[k]), float(theta[k]) - half, float(theta[k]) + half)


def _table(
    rows: "_Rows", component: Ints, strength: Floats, covariance: Floats, freedom: Floats, confidence: float
) -> pl.DataFrame:
    size = len(strength)
    half = critical(freedom, confidence) * np.sqrt(np.diag(covariance))
    points = np.bincount(rows.a, rows.outcome, size) + np.bincount(rows.b, 1 - rows.outcome, size)
    played = np.bincount(rows.a, minlength=size) + np.bincount(rows.b, minlength=size)
    rank, low, high, group = (np.zeros(size, dtype=np.int64) for _ in range(4))
    # The largest field is component 1; equally large ones in the order of their first strategy.
    by_size = np.argsort(-np.bincount(component), kind="stable")
    number = np.empty_like(by_size)
    number[by_size] = np.arange(1, len(by_size) + 1)
    for c in range(len(by_size)):
        members = np.flatnonzero(component == c)
        crit = critical(freedom[members], confidence, len(members) - 1)
        inside = covariance[np.ix_(members, members)]
        order = best_first(strength[members])
        better = rank_ranges(strength[members], inside, crit)
        rank[members[order]] = np.arange(1, len(members) + 1)
        low[members] = 1 + better.sum(0)
        high[members] = len(members) - better.sum(1)
        group[members] = groups(better, order)
    table = pl.DataFrame(
        {
            "strategy_id": rows.strategies,
            "strength": strength,
            "low": strength - half,
            "high": strength + half,
            "win_rate": points / played,
            "matches": played,
            "rank": rank,
            "rank_low": low,
            "rank_high": high,
            "group": group,
            "component": number[component],
        },
        schema=RATING_SCHEMA,
    )
    return table.sort("component", "rank")


@dataclass(frozen=True, slots=True)
class _Rows:
    """Scored matches as arrays, one element per match."""

    strategies: list[str]
    request: Ints
    a: Ints
    b: Ints
    outcome: Floats
    order: Floats | None
    """+½ where a was shown first, −½ where b was, 0 where it is not known."""
    length: Floats | None
    """tanh of the standardised length gap, a minus b."""

    @staticmethod
    def of(matches: pl.DataFrame, length_effect: bool) -> "_Rows":
        needed = ["request_id", "strategy_a", "strategy_b", "p_a"] + ["length_a", "length_b"] * length_effect
        if missing := [name for name in needed if name not in matches.columns]:
            raise InputError(f"Matches lack the column(s) {missing}. Present: {matches.columns}.")
        scored = matches.filter(pl.col("p_a").is_not_null() & pl.col("p_a").is_not_nan())
        if length_effect:
            scored = scored.filter(pl.col("length_a").is_not_null() & pl.col("length_b").is_not_null())
        outcome = scored["p_a"].cast(pl.Float64).to_numpy()
        if len(outcome) and (outcome.min() < 0 or outcome.max() > 1):
            raise InputError(f"p_a is a probability, received values from {outcome.min()} to {outcome.max()}.")
        both = [scored[column].cast(pl.String).unique() for column in ("strategy_a", "strategy_b")]
        names = pl.concat(both).unique().sort()
        strategies = names.to_list()
        a, b = (_codes(scored[column], names) for column in ("strategy_a", "strategy_b"))
        if (a == b).any():
            itself = strategies[a[a == b][0]]
            raise InputError(f"Strategy '{itself}' is matched against itself. Leave such matches out.")
        request = _codes(scored["request_id"], scored["request_id"].cast(pl.String).unique().sort())
        order = length = None
        if "shown_first" in scored.columns:
            first = scored["shown_first"]
            half = (first == "a").fill_null(False).cast(pl.Float64) - (first == "b").fill_null(False).cast(pl.Float64)
            known = half.to_numpy() / 2
            order = known if known.any() else None
        if length_effect:
            gap = (scored["length_a"].cast(pl.Float64) - scored["length_b"].cast(pl.Float64)).to_numpy()
            scale = float(np.sqrt(np.mean(gap**2))) if len(gap) else 0.0
            length = np.tanh(gap / scale) if scale > 0 else None
        return _Rows(strategies, request, a, b, outcome, order, length)

    @property
    def covariates(self) -> list[str]:
        return [name for name, values in (("order", self.order), ("length", self.length)) if values is not None]

    def design(self) -> Design:
        terms = [values for values in (self.order, self.length) if values is not None]
        extra = [(np.full(len(self.a), k, dtype=np.int64), values) for k, values in enumerate(terms)]
        return Design.of_pairs(self.a, self.b, len(self.strategies), *extra, ridge=np.zeros(len(terms)))

    def aggregate(self, design: Design) -> tuple[Design, Floats, Floats]:
        """The same design with one row per (pair, order) and its wins and matches: what Newton iterates over."""
        if self.length is not None:  # hardly two matches share their lengths
            return design, self.outcome, np.ones(len(self.outcome))
        size = len(self.strategies)
        swap = self.a > self.b
        i, j = np.where(swap, self.b, self.a), np.where(swap, self.a, self.b)
        won = np.where(swap, 1 - self.outcome, self.outcome)
        order = np.zeros(len(i), dtype=np.int64) if self.order is None else (2 * self.order).astype(np.int64)
        key = (i * size + j) * 3 + np.where(swap, -order, order) + 1
        played = np.bincount(key)
        wins = np.bincount(key, won)
        cells = np.flatnonzero(played)
        pair, sign = np.divmod(cells, 3)
        extra = [] if self.order is None else [(np.zeros(len(cells), dtype=np.int64), (sign - 1) / 2)]
        aggregated = Design.of_pairs(pair // size, pair % size, size, *extra, ridge=np.zeros(len(extra)))
        return aggregated, wins[cells].astype(np.float64), played[cells].astype(np.float64)


def _codes(column: pl.Series, names: pl.Series) -> Ints:
    """Position of each value in `names` (sorted, distinct)."""
    return column.cast(pl.Enum(names)).to_physical().cast(pl.Int64).to_numpy()
