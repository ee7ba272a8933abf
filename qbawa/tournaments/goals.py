"""What a tournament is asked for, what it would answer now, and how likely that answer is right.

`Goal.read(posterior)` is the only judgement of certainty in the package: formats ask it where the goal is still open,
the tournament asks it whether to stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from qbawa.errors import InputError
from qbawa.tournaments.posterior import Posterior, field_win_rate

GoalName = Literal["best", "top_k", "order", "pairs"]
GOALS: tuple[GoalName, ...] = ("best", "top_k", "order", "pairs")

# Draws for ranks and chances; and for the confidence, which is looked at after each round, so that its own error
# (at .95: 0.35 points) must not let a lucky look pass for a reached goal.
SAMPLES = 1000
CONFIDENCE_SAMPLES = 4000


@dataclass(frozen=True)
class Reading:
    """The answer that the evidence gives now.

    `order` ranks all strategies, best first; `p_best` is each one's probability to be the best; `confidence` the
    probability that the goal's answer is right. `doubt[i, j]` weighs which comparisons, if settled, would settle the
    goal: symmetric, ≥ 0, zero where nothing hangs on the pair.
    """

    order: np.ndarray
    p_best: np.ndarray
    rank_low: np.ndarray
    rank_high: np.ndarray
    confidence: float
    doubt: np.ndarray


@dataclass(frozen=True)
class Goal:
    """best: within `margin` of the best mean win rate. top_k: these k, none outside better by more than `margin`.
    order: Kendall's tau with the true order ≥ `tau`. pairs: the better one known in all pairs, on average over pairs.

    `margin` is a win rate (0.01 = one percentage point): strategies closer than that are as good as equal.
    """

    name: GoalName = "best"
    k: int = 5
    margin: float = 0.01
    tau: float = 0.95

    def __post_init__(self) -> None:
        if self.name not in GOALS:
            raise InputError(f"Received invalid value `goal={self.name}`. Valid values are: {', '.join(GOALS)}.")
        if self.k < 1 or not 0 <= self.margin < 0.5 or not 0 < self.tau <= 1:
            raise InputError(
                f"A goal needs k ≥ 1, 0 ≤ margin < 0.5 (a win rate) and 0 < tau ≤ 1; received k={self.k}, "
                f"margin={self.margin}, tau={self.tau}."
            )

    def read(self, posterior: Posterior, seed: Sequence[int]) -> Reading:
        """The answer now, by draws from the posterior; same arguments, same reading."""
        n = len(posterior.mean)
        order = np.argsort(-posterior.mean, kind="stable")
        many = posterior.draw(CONFIDENCE_SAMPLES, seed)
        draws = many[:SAMPLES]
        best = draws.argmax(axis=1)
        p_best = np.bincount(best, minlength=n) / SAMPLES
        ranks = np.argsort(np.argsort(-draws, axis=1), axis=1)
        low, high = np.quantile(ranks, [0.025, 0.975], axis=0, method="nearest") + 1
        grid, rates = field_win_rate(posterior.mean)
        if self.name in ("order", "pairs"):
            confidence, doubt = self._order(posterior, order, draws)
        else:
            confidence, doubt = self._top(order, np.interp(many, grid, rates))
        if not doubt.any() and n > 1:
            # No draw speaks against the answer: strengthen it where it is least far from turning.
            doubt = self._nearest(posterior, order)
        return Reading(order, p_best, low.astype(int), high.astype(int), confidence, doubt)

    def _top(self, order: np.ndarray, rates: np.ndarray) -> tuple[float, np.ndarray]:
        n = len(order)
        k = 1 if self.name == "best" else min(self.k, n)
        inside, outside = order[:k], order[k:]
        doubt = np.zeros((n, n))
        if len(outside) == 0:
            return 1.0, doubt
        weakest = inside[rates[:, inside].argmin(axis=1)]
        challenger = outside[rates[:, outside].argmax(axis=1)]
        every = np.arange(len(rates))
        wrong = rates[every, weakest] < rates[every, challenger] - self.margin
        np.add.at(doubt, (weakest[wrong], challenger[wrong]), 1.0)
        return 1 - wrong.mean(), (doubt + doubt.T) / len(rates)

    def _order(self, posterior: Posterior, order: np.ndarray, draws: np.ndarray) -> tuple[float, np.ndarray]:
        n = len(order)
        above, below = np.triu_indices(n, 1)
        # Chance that a pair stands the wrong way round: shape (pairs,), in the answer's order.
        wrong = (draws[:, order[above]] < draws[:, order[below]]) if n <= 64 else None
        spread = _difference_spread(posterior)
        z = (posterior.mean[order[above]] - posterior.mean[order[below]]) / spread[order[above], order[below]]
        p_wrong = _normal_tail(z)
        doubt = np.zeros((n, n))
        doubt[order[above], order[below]] = p_wrong
        if self.name == "pairs":
            confidence = 1 - p_wrong.mean() if len(p_wrong) else 1.0
        else:
            discordant = wrong.mean(axis=1) if wrong is not None else _discordant(draws[:300], order)
            confidence = float((1 - 2 * discordant >= self.tau).mean()) if n > 1 else 1.0
        return confidence, doubt + doubt.T

    def _nearest(self, posterior: Posterior, order: np.ndarray) -> np.ndarray:
        k = 1 if self.name == "best" else min(self.k, len(order) - 1)
        spread = _difference_spread(posterior)
        inside, outside = order[:k], order[k:]
        gap = (posterior.mean[inside, None] - posterior.mean[None, outside]) / spread[np.ix_(inside, outside)]
        i, j = np.unravel_index(gap.argmin(), gap.shape)
        doubt = np.zeros((len(order), len(order)))
        doubt[inside[i], outside[j]] = doubt[outside[j], inside[i]] = 1.0
        return doubt


def _difference_spread(posterior: Posterior) -> np.ndarray:
    variance = np.diag(posterior.covariance)
    return np.sqrt(np.maximum(variance[:, None] + variance[None, :] - 2 * posterior.covariance, 1e-12))


def _normal_tail(z: np.ndarray) -> np.ndarray:
    """P(Z > z) for z ≥ 0, by the logistic approximation of Bowling et al. 2009 (error < 2e-4)."""
    return 1 / (1 + np.exp(0.07056 * z**3 + 1.5976 * z))


def _discordant(draws: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Share of pairs that each draw ranks against the order, shape (draws,)."""
    ranked = draws[:, order]
    n = ranked.shape[1]
    against = np.zeros(len(ranked))
    for k in range(n - 1):
        against += (ranked[:, k + 1 :] > ranked[:, k : k + 1]).sum(axis=1)
    return against / (n * (n - 1) / 2)
