"""What the verdicts so far say about the strategies' strengths: a Bradley–Terry posterior by Laplace.

`qbawa.tournaments.ratings` fits the published strengths; this is its Bayesian sibling, made for deciding what to ask next: cheap,
defined from the first verdict on (disconnected strategies keep the prior), with a covariance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from qbawa.tournaments.formats.results_table import Results

# One verdict in ten says nothing about the answers (it follows position, or is noise). Without this floor a single
# odd defeat by a weak strategy outweighs ten wins over strong ones. Judges that flip with the order are 5–20 %.
LAPSE = 0.10

_PRIOR_SPREAD = (0.1, 4.0)


@dataclass(frozen=True)
class Posterior:
    """Normal posterior of the strengths (log-odds scale, centred at the prior mean 0), shape (N,) and (N, N)."""

    mean: np.ndarray
    covariance: np.ndarray
    prior_spread: float
    second_order: float = 1.0
    """What the other order's verdict on a match adds, as a share of a verdict on a new match."""

    def draw(self, draws: int, seed: Sequence[int], strategies: np.ndarray) -> np.ndarray:
        """Strengths of these strategies drawn from the posterior, shape (draws, strategies); same seed, same draws."""
        rng = np.random.default_rng(seed)
        covariance = self.covariance[np.ix_(strategies, strategies)]
        root = np.linalg.cholesky(covariance + 1e-9 * np.eye(len(strategies)))
        return self.mean[strategies] + rng.standard_normal((draws, len(strategies))) @ root.T

    def information(self) -> np.ndarray:
        """Fisher information about the difference in strength that one verdict on each pair carries, shape (N, N)."""
        return _link(self.mean[:, None] - self.mean[None, :])[1]


def fit_posterior(results: Results) -> Posterior:
    """The posterior given all that was judged.

    Strategies that gave the same answers everywhere are one strategy under several names, and as strong as each other.
    Two verdicts on one match in both orders are not two observations: a judge mostly says the same again. With a
    correlation ρ between them, measured on the matches that have both, they count as 2 / (1 + ρ).
    """
    same = results.field.same_throughout
    posterior = _fit_as_one(results.once + results.twice, same)
    expected, _ = _link(posterior.mean[:, None] - posterior.mean[None, :])
    worth = 2 / (1 + results.order_correlation(expected))
    if results.twice.any():
        posterior = _fit_as_one(results.once + worth * results.twice, same)
    return replace(posterior, second_order=worth - 1)


def _fit_as_one(wins: np.ndarray, group: np.ndarray) -> Posterior:
    """`fit`, with strategies of one group taken together and then given the same strength."""
    groups = int(group.max(initial=-1)) + 1
    if groups == len(wins):
        return fit(wins)
    member = np.eye(groups)[group]
    together = member.T @ wins @ member
    np.fill_diagonal(together, 0)
    posterior = fit(together)
    return replace(posterior, mean=posterior.mean[group], covariance=posterior.covariance[np.ix_(group, group)])


def fit(wins: np.ndarray) -> Posterior:
    """The posterior given wins[i, j] = evidence that i beats j (ties ½ each).

    p = LAPSE/2 + (1 − LAPSE)·σ(s_i − s_j), s ~ N(0, spread²), spread by empirical Bayes (EM), so that a close field is
    shrunk more than a wide one. Fisher scoring from the same start each time, so that equal evidence gives equal
    strengths whatever came before; a few ms.
    """
    n = len(wins)
    mean, wanted = np.zeros(n), 1.0
    low, high = _PRIOR_SPREAD
    games = wins + wins.T
    for _ in range(60):
        spread = wanted
        p, information = _link(mean[:, None] - mean[None, :])
        # d log-likelihood / d (s_i − s_j) = (wins − games·p) · p' / (p(1 − p)); information = p'² / (p(1 − p)).
        slope = np.sqrt(information / (p * (1 - p)))
        gradient = ((wins - games * p) * slope).sum(axis=1) - mean / spread**2
        weight = games * information
        precision = -weight
        # In place, and no wrappers below: where matrices are small they took a fifth of the time.
        precision.flat[:: n + 1] += weight.sum(axis=1) + 1 / spread**2
        covariance = np.linalg.inv(precision)
        step = covariance @ gradient
        largest = float(np.abs(step).max())
        mean = mean + step * min(1.0, 2.0 / largest) if largest > 0 else mean
        wanted = min(max(sqrt((mean @ mean + covariance.trace()) / n), low), high)
        if largest < 1e-3 and abs(wanted - spread) < 1e-2 * spread:
            break
    return Posterior(mean, covariance, spread)


def field_win_rate(mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Win rate over the field as a function of strength: (strengths, win rates), increasing, to interpolate in.

    The field's average is known far better than any one strategy, so it is taken at its mean.
    """
    grid = np.linspace(mean.min() - 3, mean.max() + 3, 201)
    rates = 1 / (1 + np.exp(mean[None, :] - grid[:, None]))
    # Nobody meets itself, hence one opponent fewer; the term itself cancels in the difference of two strategies.
    return grid, rates.sum(axis=1) / max(1, len(mean) - 1)


def _link(difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probability that the first wins and the Fisher information of one verdict, elementwise."""
    sigmoid = 1 / (1 + np.exp(-np.minimum(np.maximum(difference, -30), 30)))
    p = LAPSE / 2 + (1 - LAPSE) * sigmoid
    derivative = (1 - LAPSE) * sigmoid * (1 - sigmoid)
    return p, derivative**2 / (p * (1 - p))
