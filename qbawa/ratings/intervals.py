"""How sure a fit is when matches on one request share their luck: the clustered jackknife."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from qbawa.ratings.newton import Design, Floats, Ints, Maximum

# Requests × parameters held at once: 64 MB of float64.
BLOCK = 8_000_000
# Leave-one-out by fixed point: each pass shrinks the error by the largest share one request has of the information.
MOST_PASSES = 20


@dataclass(frozen=True, slots=True)
class Uncertainty:
    covariance: Floats
    """Of all parameters, shape (width, width)."""
    freedom: Floats
    """Degrees of freedom of each parameter's interval: the effective number of its requests less one, at least 1."""


def clustered(design: Design, fit: Maximum, outcome: Floats, request: Ints) -> Uncertainty:
    """Covariance of the parameters when whole requests, not single matches, are the independent draws.

    `design` and `outcome` have one row per match, `request` its request (0, 1, …).
    Leave-one-request-out jackknife, each fold one Newton step from the optimum: the CR3 sandwich of Bell & McCaffrey
    2002 (Survey Methodology 28(2)), which does not undercover with few requests as the plain sandwich does. Folds
    solve d = V (u + I_g d) by iteration, so that no matrix is inverted per request.
    """
    p = 1 / (1 + np.exp(-design.times(fit.theta)))
    residual, weight = outcome - p, p * (1 - p)
    requests, width = int(request.max()) + 1, design.width
    per_block = max(1, BLOCK // width)
    order = np.argsort(request, kind="stable") if requests > per_block else None
    meat = np.zeros((width, width))
    first, second = np.zeros(width), np.zeros(width)
    for start in range(0, requests, per_block):
        size = min(per_block, requests - start)
        if order is None:
            rows: Ints | slice = slice(None)
        else:
            lo, hi = np.searchsorted(request[order], [start, start + size])
            rows = order[lo:hi]
        block = _Block(design, rows, request[rows] - start, size)
        score = block.gather(residual[rows])
        change = score @ fit.covariance
        for _ in range(MOST_PASSES):
            following = (score + block.gather(weight[rows] * block.times(change))) @ fit.covariance
            moved = float(np.abs(following - change).max())
            change = following
            if moved <= 1e-3 * float(np.abs(change).max()):
                break
        meat += change.T @ change
        share = block.gather_squared(weight[rows])
        first += share.sum(0)
        second += (share**2).sum(0)
    covariance = meat * (requests - 1) / requests + fit.covariance @ fit.prior_meat @ fit.covariance
    freedom = np.maximum(first**2 / np.maximum(second, 1e-300) - 1, 1.0)
    return Uncertainty(covariance, freedom)


def critical(freedom: Floats, confidence: float, comparisons: int = 1) -> Floats:
    """Two-sided Student quantile for each degree of freedom; several comparisons share the error (Bonferroni)."""
    values, inverse = np.unique(np.round(freedom, 2), return_inverse=True)
    return np.asarray(student.isf((1 - confidence) / 2 / max(comparisons, 1), values))[inverse]


class _Block:
    """Some matches and their requests: sums by (request, parameter), shape (requests, width)."""

    def __init__(self, design: Design, rows: Ints | slice, request: Ints, requests: int) -> None:
        self.shape = (requests, design.width)
        self.cells = [request * design.width + column[rows] for column in design.columns]
        self.values = [value[rows] for value in design.values]

    def gather(self, weight: Floats) -> Floats:
        total = np.zeros(self.shape[0] * self.shape[1])
        for cell, value in zip(self.cells, self.values, strict=True):
            total += np.bincount(cell, value * weight, len(total))
        return total.reshape(self.shape)

    def gather_squared(self, weight: Floats) -> Floats:
        total = np.zeros(self.shape[0] * self.shape[1])
        for cell, value in zip(self.cells, self.values, strict=True):
            total += np.bincount(cell, value**2 * weight, len(total))
        return total.reshape(self.shape)

    def times(self, theta: Floats) -> Floats:
        flat = theta.ravel()
        return sum((v * flat[c] for c, v in zip(self.cells, self.values, strict=True)), np.zeros(len(self.values[0])))
