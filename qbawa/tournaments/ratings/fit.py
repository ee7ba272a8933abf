"""From matches to ratings."""

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.special import ndtr

from qbawa.errors import DisconnectedError, InputError
from qbawa.tournaments.ratings.design import Design, Floats, Ints
from qbawa.tournaments.ratings.intervals import Uncertainty, clustered, critical
from qbawa.tournaments.ratings.newton import ONE_BLAS_THREAD, Maximum, best_first, maximise
from qbawa.tournaments.ratings.ranks import groups, separably_better
from qbawa.tournaments.ratings.rows import Rows

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
    "separable_group": pl.Int64,
    "component": pl.Int64,
}
# Where the standard deviations of slopes and luck start, in logits, and how many observations that start is worth.
SLOPE_SD, LUCK_SD, START_WORTH = 0.5, 1.0, 4
MOST_ROUNDS = 30


@dataclass(frozen=True, slots=True)
class Effect:
    """What something other than the answers' quality adds to a verdict, in logits, with its interval."""

    logit: float
    low: float
    high: float
    matches: int
    """On which it rests: those that it can have swayed one way or the other."""

    @property
    def points(self) -> float:
        """Percentage points by which half of it moves an even match: for order, P(first shown wins) less 50."""
        return _points(self.logit)

    @property
    def points_low(self) -> float:
        """Lower end of the interval of `points`."""
        return _points(self.low)

    @property
    def points_high(self) -> float:
        """Upper end of it."""
        return _points(self.high)


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
    """Log-odds of an answer shown first against the same answer shown second; None where no order is known, and where
    every judge was asked in both, so that place cancels."""
    length_effect: Effect | None
    """Log-odds per unit of tanh(gap of lengths / its root mean square); None unless asked for."""

    def p_better(self, strategy: str, other: str) -> float:
        """Probability that one strategy is really stronger than the other.

        Raises InputError for a strategy without a rating, DisconnectedError where the two never met, even indirectly.
        """
        for name in (strategy, other):
            if name not in self.strategies:
                raise InputError(f"Strategy '{name}' has no scored match. Rated: {', '.join(self.strategies[:20])}.")
        component = dict(self.table.select("strategy_id", "component").iter_rows())
        if component[strategy] != component[other]:
            raise DisconnectedError(
                f"'{strategy}' and '{other}' never met, even indirectly, so their strengths cannot be compared. "
                "Add matches between their fields."
            )
        i, j = self.strategies.index(strategy), self.strategies.index(other)
        variance = self.covariance[i, i] + self.covariance[j, j] - 2 * self.covariance[i, j]
        return float(ndtr((self.strength[i] - self.strength[j]) / math.sqrt(max(variance, 1e-18))))


def rate(matches: pl.DataFrame, *, length_effect: bool = False, confidence: float = 0.95) -> pl.DataFrame:
    """One row per strategy, best first: the columns of the `ratings` view that come from matches.

    strength is 0 on average over a component, low and high enclose it; win_rate is the mean probability of beating the
    others of the component; rank_low to rank_high are the ranks that cannot be ruled out; strategies of one
    separable_group are not yet separable from its best; component is 0 where all have met, even indirectly, else 1 for
    the largest field. Disconnected fields raise nothing: each is rated by itself and ranks count within it.
    """
    return fit_ratings(matches, length_effect=length_effect, confidence=confidence).table


def fit_ratings(matches: pl.DataFrame, *, length_effect: bool = False, confidence: float = 0.95) -> RatingFit:
    """Bradley–Terry strengths of all strategies in `matches`, with request-clustered intervals.

    Columns of `matches`: request_id, strategy_a, strategy_b, p_a (probability or share of verdicts for a, 0 to 1; a tie
    is ½; null is unscored and left out), optionally length_a, length_b, and either shown_first ('a', 'b' or null) or
    order (1 where a was shown first, −1 where b was, the mean over verdicts that differ in it; null is not known).
    The order effect is part of the fit wherever an order is known. With `length_effect` strengths are those at equal
    length: a common effect, a deviation per strategy, and, where all matches of a request share one strategy (a
    baseline), that strategy's luck on the request, which would else pass for length. See docs/ratings.md.
    """
    rows = Rows.of(matches, length_effect)
    size = len(rows.strategies)
    if size == 0:
        return RatingFit(pl.DataFrame(schema=RATING_SCHEMA), [], np.zeros(0), np.zeros((0, 0)), None, None)
    with ONE_BLAS_THREAD.limit(limits=1, user_api="blas"):
        if rows.length is None:
            design, fit = rows.design(), maximise(*rows.aggregate())
        else:
            design, fit = _even_length(rows)
        sure = clustered(design, fit, rows.outcome)
    effects = {
        name: _effect(fit.theta, sure, size + k, confidence, int(np.count_nonzero(values)))
        for k, (name, values) in enumerate(rows.effects.items())
    }
    strength, covariance = fit.theta[:size], sure.covariance[:size, :size]
    table = _table(rows, design.component, strength, covariance, sure.freedom[:size], confidence)
    return RatingFit(table, rows.strategies, strength, covariance, effects.get("order"), effects.get("length"))


def _even_length(rows: Rows) -> tuple[Design, Maximum]:
    """The fit with length effects; how far slopes and luck vary is estimated from the data (MacKay 1992)."""
    slope_sd, luck_sd = SLOPE_SD, LUCK_SD
    played = np.ones(len(rows.outcome))
    design = rows.design(slope_sd=slope_sd, luck_sd=luck_sd)
    fit = maximise(design, rows.outcome, played)
    slopes = slice(design.width - len(rows.strategies), None)
    for _ in range(MOST_ROUNDS):
        before = slope_sd, luck_sd
        slope_sd = _spread(fit.theta[slopes], np.diag(fit.covariance)[slopes], slope_sd, SLOPE_SD)
        luck_sd = _spread(fit.luck, fit.luck_variance, luck_sd, LUCK_SD)
        if abs(math.log(slope_sd / before[0])) < 0.02 and abs(math.log(luck_sd / before[1])) < 0.02:
            break
        design = rows.design(slope_sd=slope_sd, luck_sd=luck_sd)
        fit = maximise(design, rows.outcome, played, start=fit)
    return design, fit


def _spread(effects: Floats, variances: Floats, sd: float, start: float) -> float:
    """Standard deviation under which effects of this size are likeliest."""
    measured = float(np.sum(1 - variances / sd**2))  # effects that the data, not the prior, determine
    return math.sqrt((float(np.sum(effects**2)) + START_WORTH * start**2) / (max(measured, 0.0) + START_WORTH))


def _effect(theta: Floats, sure: Uncertainty, k: int, confidence: float, matches: int) -> Effect:
    half = float(critical(sure.freedom[k : k + 1], confidence)[0] * math.sqrt(sure.covariance[k, k]))
    return Effect(float(theta[k]), float(theta[k]) - half, float(theta[k]) + half, matches)


def _points(logit: float) -> float:
    return 50 * math.tanh(logit / 4)


def _table(
    rows: Rows, component: Ints, strength: Floats, covariance: Floats, freedom: Floats, confidence: float
) -> pl.DataFrame:
    size = len(strength)
    half = critical(freedom, confidence) * np.sqrt(np.diag(covariance))
    played = np.bincount(rows.a, minlength=size) + np.bincount(rows.b, minlength=size)
    rank, low, high, group = (np.zeros(size, dtype=np.int64) for _ in range(4))
    win_rate = np.zeros(size)
    for c in range(int(component.max()) + 1):
        members = np.flatnonzero(component == c)
        inside, order = strength[members], best_first(strength[members])
        quantile = critical(freedom[members], confidence, len(members) - 1)
        better = separably_better(inside, covariance[np.ix_(members, members)], quantile)
        beats = 1 / (1 + np.exp(inside[None, :] - inside[:, None]))
        win_rate[members] = (beats.sum(1) - 0.5) / (len(members) - 1)
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
            "win_rate": win_rate,
            "matches": played,
            "rank": rank,
            "rank_low": low,
            "rank_high": high,
            "separable_group": group,
            "component": _numbered(component),
        },
        schema=RATING_SCHEMA,
    )
    return table.sort("component", "rank")


def _numbered(component: Ints) -> Ints:
    """0 where there is one component; else 1 for the largest, equally large ones by their first strategy."""
    count = np.bincount(component)
    if len(count) == 1:
        return component
    number = np.empty_like(count)
    number[np.argsort(-count, kind="stable")] = np.arange(1, len(count) + 1)
    return number[component]
