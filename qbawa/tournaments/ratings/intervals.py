"""How sure a fit is when matches on one request share their luck: the clustered jackknife."""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from qbawa.tournaments.ratings.design import Design, Floats
from qbawa.tournaments.ratings.newton import Maximum

# Leave-one-out by fixed point: each pass shrinks the error by the share that one request has of the information, so
# that a pass that moves it by a hundredth leaves far less.
MOST_PASSES = 20


@dataclass(frozen=True, slots=True)
class Uncertainty:
    covariance: Floats
    """Of all parameters, shape (width, width)."""
    freedom: Floats
    """Degrees of freedom of each parameter's interval: the effective number of its requests less one, at least 1."""


def clustered(design: Design, fit: Maximum, outcome: Floats) -> Uncertainty:
    """Covariance of the parameters when whole requests, not single matches, are the independent draws.

    `design` has one row per match and names its request; `outcome` is the share of the match that a won.
    Leave-one-request-out jackknife, each fold one Newton step from the optimum: the CR3 sandwich of Bell & McCaffrey
    2002 (Survey Methodology 28(2)), which does not undercover with few requests as the plain sandwich does. Folds
    solve d = V (u + I_g d) by iteration, so that no matrix is inverted per request.
    """
    p = 1 / (1 + np.exp(-(design.times(fit.theta) + design.times_luck(fit.luck))))
    residual, weight = outcome - p, p * (1 - p)
    on_luck = design.luck_information(weight)
    meat = np.zeros((design.width, design.width))
    total, squares = np.zeros(design.width), np.zeros(design.width)
    for block in design.blocks():
        score = block.gather(residual[block.rows])
        here = weight[block.rows]
        sign = None if design.luck is None else design.luck.sign[block.rows]
        change = score @ fit.covariance
        for _ in range(MOST_PASSES):
            tilt = block.times(change)
            if sign is not None:  # a request's luck follows its rows
                follows = np.bincount(block.request, sign * here * tilt, block.shape[0]) / on_luck[block.span]
                tilt -= sign * follows[block.request]
            following = (score + block.gather(here * tilt)) @ fit.covariance
            moved = float(np.abs(following - change).max(initial=0.0))
            change = following
            if moved <= 1e-2 * float(np.abs(change).max(initial=0.0)):
                break
        meat += change.T @ change
        share = block.gather(here, power=2)
        total += share.sum(0)
        squares += (share**2).sum(0)
    count = design.requests
    covariance = meat * (count - 1) / count + fit.covariance @ fit.prior_meat @ fit.covariance
    return Uncertainty(covariance, np.maximum(total**2 / np.maximum(squares, 1e-300) - 1, 1.0))


def critical(freedom: Floats, confidence: float, comparisons: int = 1) -> Floats:
    """Two-sided Student quantile for each degree of freedom; several comparisons share the error (Bonferroni)."""
    values, inverse = np.unique(np.round(freedom, 2), return_inverse=True)
    return -stdtrit(values, (1 - confidence) / 2 / max(comparisons, 1))[inverse]
