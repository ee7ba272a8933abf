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
from qbawa.tournaments.formats.posterior import Posterior, field_win_rate

GoalName = Literal["best", "top_k", "order", "pairs"]
GOALS: tuple[GoalName, ...] = ("best", "top_k", "order", "pairs")

# The confidence is looked at after each round: its own error (at .95: 0.35 points) must not let a lucky look pass
# for a reached goal. The confidence of a whole order costs N²/2 comparisons a draw and gets fewer.
DRAWS = 4000
ORDER_DRAWS = 500

# Differences in strength that are known better than this are those of strategies with the same answers.
_ALIKE = 1e-6

# Strategies that are this many standard deviations away from mattering are left out of the draws.
_OUT_OF_REACH = 5.0


@dataclass(frozen=True)
class Reading:
    """The answer that the evidence gives now.

    `order` ranks all strategies, best first; `p_best` is each one's probability to be the best; `confidence` the
    probability that the goal's answer is right. `doubt[i, j]` weighs which comparisons, if settled, would settle the
    goal: symmetric, ≥ 0, zero where nothing hangs on the pair.
    """

    order: np.ndarray
    p_best: np.ndarray
    confidence: float
    doubt: np.ndarray


@dataclass(frozen=True)
class Goal:
    """best: within `margin` of the best mean win rate. top_k: these k, none outside better by more than `margin`.
    order: Kendall's tau with the true order ≥ `tau`. pairs: the better one known in all pairs, on average over pairs.

    `margin` is a win rate (0.01 = one percentage point): strategies closer than that are as good as equal, and none of
    the four goals calls it wrong to have them the wrong way round.
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
        order = np.argsort(-posterior.mean, kind="stable")
        size = min(self.k, len(order)) if self.name == "top_k" else 1
        contenders = _within_reach(posterior, order, size)
        draws = posterior.draw(DRAWS, seed, contenders)
        p_best = np.zeros(len(order))
        p_best[contenders] = np.bincount(draws.argmax(axis=1), minlength=len(contenders)) / DRAWS
        if self.name in ("order", "pairs"):
            confidence, doubt = self._order(posterior, order, seed)
        else:
            confidence, doubt = self._top(posterior, size, contenders, draws)
        if len(order) > size and not doubt.any():
            # No draw speaks against the answer: strengthen it where it is least far from turning.
            doubt = _nearest(posterior, order, size)
        return Reading(order, p_best, confidence, doubt)

    def _top(
        self, posterior: Posterior, size: int, contenders: np.ndarray, draws: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """`contenders` best first, so that the first `size` are the answer; draws of shape (draws, contenders)."""
        doubt = np.zeros((len(posterior.mean), len(posterior.mean)))
        if len(contenders) == size:
            return 1.0, doubt
        weakest = draws[:, :size].argmin(axis=1)
        challenger = size + draws[:, size:].argmax(axis=1)
        every, curve = np.arange(len(draws)), field_win_rate(posterior.mean)
        lost = np.interp(draws[every, challenger], *curve) - np.interp(draws[every, weakest], *curve)
        wrong = lost > self.margin
        np.add.at(doubt, (contenders[weakest[wrong]], contenders[challenger[wrong]]), 1 / len(draws))
        return 1 - float(wrong.mean()), doubt + doubt.T

    def _order(self, posterior: Posterior, order: np.ndarray, seed: Sequence[int]) -> tuple[float, np.ndarray]:
        n = len(order)
        if n < 2:
            return 1.0, np.zeros((n, n))
        # Chance that the lower of a pair is better than the higher by more than the margin.
        gap = np.abs(posterior.mean[:, None] - posterior.mean)
        higher = np.maximum(posterior.mean[:, None], posterior.mean)
        strengths, rates = field_win_rate(posterior.mean)
        surpassed = np.interp(np.interp(higher, strengths, rates) + self.margin, rates, strengths)
        doubt = _normal_tail((gap + surpassed - higher) / _difference_spread(posterior))
        np.fill_diagonal(doubt, 0)
        if self.name == "pairs":
            return 1 - float(doubt.sum()) / (n * (n - 1)), doubt
        draws = np.interp(posterior.draw(ORDER_DRAWS, seed, order), strengths, rates)
        discordant = sum((draws[:, k + 1 :] > draws[:, k : k + 1] + self.margin).sum(axis=1) for k in range(n - 1))
        tau = 1 - 4 * discordant / (n * (n - 1))
        return float((tau >= self.tau).mean()), doubt


def rank_ranges(posterior: Posterior, seed: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The best and the worst rank of each strategy in its central 95 % of draws; rank 1 is best."""
    draws = posterior.draw(1000, seed, np.arange(len(posterior.mean)))
    ranks = np.argsort(np.argsort(-draws, axis=1), axis=1) + 1
    low, high = np.quantile(ranks, [0.025, 0.975], axis=0, method="nearest")
    return low.astype(int), high.astype(int)


def _within_reach(posterior: Posterior, order: np.ndarray, size: int) -> np.ndarray:
    """The first `size` strategies and all that may be as good as the last of them, best first."""
    last = order[size - 1]
    gap = posterior.mean[last] - posterior.mean
    keep = gap <= _OUT_OF_REACH * _difference_spread(posterior)[last]
    return order[keep[order] | (np.arange(len(order)) < size)]


def _nearest(posterior: Posterior, order: np.ndarray, size: int) -> np.ndarray:
    """Doubt about the one comparison across the answer's edge that is the least certain."""
    inside, outside = order[:size], order[size:]
    spread = _difference_spread(posterior)[np.ix_(inside, outside)]
    gap = (posterior.mean[inside, None] - posterior.mean[None, outside]) / spread
    # Between strategies with the same answers there is nothing to compare.
    i, j = np.unravel_index(int(np.where(spread > 1.5 * _ALIKE, gap, np.inf).argmin()), gap.shape)
    doubt = np.zeros((len(order), len(order)))
    doubt[inside[i], outside[j]] = doubt[outside[j], inside[i]] = 1.0
    return doubt


def _difference_spread(posterior: Posterior) -> np.ndarray:
    variance = np.diag(posterior.covariance)
    return np.sqrt(np.maximum(variance[:, None] + variance[None, :] - 2 * posterior.covariance, _ALIKE**2))


def _normal_tail(z: np.ndarray) -> np.ndarray:
    """P(Z > z) for z ≥ 0, by the logistic approximation of Bowling et al. 2009 (error < 2e-4)."""
    z = np.minimum(z, 20)
    return 1 / (1 + np.exp(0.07056 * z**3 + 1.5976 * z))
