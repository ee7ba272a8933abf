"""Every possible pair of a batch of requests, with its probability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from qbawa.datasets.pairs.posterior import Answers, Evidence, Floats, Ints, Posterior, people_say


@dataclass(frozen=True, slots=True)
class Candidates:
    """Possible pairs as arrays; an answer is (request, slot), its slot counting the request's answers from 0."""

    request: Ints
    best: Ints
    """Slot of the answer more likely to be better."""
    worse: Ints
    p_best: Floats
    margin: Floats
    """Posterior mean of theta[best] - theta[worse] on the request."""
    match: Ints
    """Row of the evidence that judged this very pair, or -1."""


def candidates(answers: Answers, posterior: Posterior) -> Candidates:
    """All pairs of the batch's answers.

    On bare verdicts p is the posterior probability that the gap is positive. With a calibrated jury it is the
    probability that people call best better, which also pays for people's own noise: where nothing but its own verdict
    is known of a pair, that verdict's. Evidence must name the strategy of the lower number as a.
    """
    i, j = np.triu_indices(answers.strategy.shape[1], 1)
    there = answers.strategy[:, j] >= 0
    gap = answers.mean[:, i] - answers.mean[:, j]
    own = np.einsum("kii->ki", answers.covariance)
    variance = np.maximum(own[:, i] + own[:, j] - 2 * answers.covariance[:, i, j], 1e-9)
    evidence = posterior.evidence
    p = people_say(gap, variance) if evidence.calibrated else ndtr(gap / np.sqrt(variance))
    match = np.full(p.shape, -1, dtype=np.int64)
    rows, batch, place = _judged(answers, evidence)
    match[batch, place] = rows
    toward = p >= 0.5
    request = np.broadcast_to(answers.requests[:, None], p.shape)
    return Candidates(
        request[there],
        np.where(toward, i, j)[there],
        np.where(toward, j, i)[there],
        np.maximum(p, 1 - p)[there],
        np.where(toward, gap, -gap)[there],
        match[there],
    )


def _judged(answers: Answers, evidence: Evidence) -> tuple[Ints, Ints, Ints]:
    """Matches between answers of the batch: (row of the evidence, place in the batch, place among the upper triangle)."""
    width = answers.strategy.shape[1]
    most = max(evidence.a.max(initial=0), evidence.b.max(initial=0), answers.strategy.max(initial=0))
    slot = np.full((len(answers.requests), int(most) + 1), -1)
    k, n = np.nonzero(answers.strategy >= 0)
    slot[k, answers.strategy[k, n]] = n
    order = np.argsort(answers.requests)
    found = np.searchsorted(answers.requests[order], evidence.request)
    found = np.minimum(found, len(order) - 1)
    rows = np.flatnonzero(answers.requests[order][found] == evidence.request)
    batch = order[found[rows]]
    low, high = slot[batch, evidence.a[rows]], slot[batch, evidence.b[rows]]
    both = (low >= 0) & (high >= 0)
    rows, batch, low, high = rows[both], batch[both], low[both], high[both]
    return rows, batch, low * width - low * (low + 1) // 2 + (high - low - 1)
