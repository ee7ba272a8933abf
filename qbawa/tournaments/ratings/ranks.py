"""Which ranks the intervals allow."""

import numpy as np
from numpy.typing import NDArray

from qbawa.tournaments.ratings.design import Floats, Ints


def separably_better(strength: Floats, covariance: Floats, critical: Floats) -> NDArray[np.bool_]:
    """better[i, j]: i is separably better than j. Shape (strategies, strategies).

    The difference of two strengths is compared with its own standard error, which is smaller than the two intervals
    suggest: all strategies share the requests. `critical` holds each strategy's quantile, for as many comparisons as
    there are opponents, so that a rank range covers the true rank with the stated confidence
    (Mogstad, Romano, Shaikh & Wilhelm 2024, Review of Economic Studies 91(1)).
    """
    variance = np.diag(covariance)
    spread = np.sqrt(np.maximum(variance[:, None] + variance[None, :] - 2 * covariance, 0))
    gap = strength[:, None] - strength[None, :]
    return gap > np.maximum(critical[:, None], critical[None, :]) * spread + 1e-9


def groups(better: NDArray[np.bool_], order: Ints) -> Ints:
    """Group of each strategy, 1 first: its best member, and all from whom that one is not yet separable.

    Group 1 is therefore everyone who may still be the best.
    """
    group = np.zeros(len(order), dtype=np.int64)
    number = 0
    for leader in order:
        if group[leader] == 0:
            number += 1
            group[(group == 0) & ~better[leader]] = number
    return group
