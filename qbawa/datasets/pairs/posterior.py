"""What is known about every answer to every request: a hierarchical Bradley–Terry posterior.

An answer's log-strength on a request is its strategy's strength plus an effect of its own:
theta[request, strategy] = mu[strategy] + u[request, strategy], mu ~ N(0, field²), u ~ N(0, effect²). Matches tie the
answers of one request together; mu carries what was learnt on the other requests. So a pair that never met still
has a probability, and a strategy's fame alone never makes one sure about a single answer.

A match says one of two things. Bare verdicts: the share of them for a, a Bradley–Terry outcome. Where the jury was
calibrated on people: the probability that people call a better, as long as nothing else is known of the two. Theta is
then in units of people's log-odds, and the match is the evidence that takes a pair from knowing nothing to that
probability. So a verdict repeats part of what the ratings say, as it does on real labels: judges are right more often
where the gap is wide. Multiplying odds as if it did not is overconfident (docs/pairs.md).

Laplace approximation (MacKay 1992): the likelihood of each match becomes a Gaussian site at the mode, after which
everything is exact linear algebra, small matrices batched over requests. `field` and `effect` are estimated from the
matches (empirical Bayes), with a prior worth a few hundred matches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]

# Soft preferences in data/anchors: log-odds after model and request means have a standard deviation of 0.75 in the
# scale of its README's slopes; judges' noise flattens what their verdicts show of it to about 0.4 or 0.5.
TYPICAL_EFFECT = 0.5
# What that prior weighs against the measured products of residuals (each about 0.03): some three hundred of them.
EFFECT_PRIOR = 10.0
# With few matches the strategies' strengths soak up the effects; no field measured so far has less.
SMALLEST_EFFECT = 0.4
TYPICAL_FIELD = 0.7
# Elements of the largest batch of matrices: 16 MB.
BATCH = 2_000_000
MOST_PASSES = 25
PASSES_TO_LEARN_SPREADS = 12


@dataclass(frozen=True, slots=True)
class Evidence:
    """Scored matches of one step as arrays, one element per match."""

    request: Ints
    a: Ints
    b: Ints
    toward_a: Floats
    """Bare: share of the verdicts for a, 0 to 1. Calibrated: probability that people would call a better."""
    weight: Floats
    """How many verdicts the match is worth; 1 where calibrated."""
    calibrated: bool = False

    def site(self, rows: Ints, gap: Floats, variance: float) -> tuple[Floats, Floats]:
        """(precision, precision × mean) of the Gaussian that stands for each of these matches.

        `gap` is where the likelihood is linearised, `variance` that of a gap of which nothing is known.
        """
        said = self.toward_a[rows]
        if self.calibrated:
            return _evidence_for(said, variance)
        p, weight = expit(gap), self.weight[rows]
        curve = np.maximum(weight * p * (1 - p), 1e-9)
        return curve, curve * gap + weight * (said - p)


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of some requests, padded to one width: strategy[k, n] is -1 beyond the answers of request k."""

    requests: Ints
    strategy: Ints
    mean: Floats
    """Posterior mean of theta, shape (requests, width)."""
    covariance: Floats
    """Shape (requests, width, width)."""


@dataclass(frozen=True, slots=True)
class Posterior:
    """The fitted model. `answers` reads from it what is known about the answers to requests."""

    evidence: Evidence
    mu: Floats
    """Mean log-strength of each strategy."""
    covariance: Floats
    """Of mu, shape (strategies, strategies)."""
    field: float
    """Standard deviation of mu over the field."""
    effect: float
    """Standard deviation of what an answer owes to its request."""
    gap: Floats
    """Mean of theta[a] - theta[b] of each match: where its site was linearised."""
    rows: ByRequest

    def answers(self, strategies_of: list[Ints]) -> Iterator[Answers]:
        """Mean and covariance of theta for the given strategies of request 0, 1, …, in batches of like width."""
        for requests, members in _batches(strategies_of):
            local = _Local(self.rows, requests, members, len(self.mu))
            site = local.sites(self.gap, self.evidence, _unknown(self.field, self.effect))
            spread = np.linalg.inv(site.precision + np.eye(members.shape[1]) / self.effect**2)
            prior = np.where(members >= 0, self.mu[members], 0.0)
            mean = np.einsum("kij,kj->ki", spread, site.shift + prior / self.effect**2)
            gain = spread / self.effect**2
            shared = self.covariance[members[:, :, None], members[:, None, :]]
            yield Answers(requests, members, mean, spread + gain @ shared @ gain.transpose(0, 2, 1))


def fit_posterior(evidence: Evidence, strategies: int, requests: int) -> Posterior:
    """The posterior of all strategies and request effects given the matches; without any, the prior."""
    rows = ByRequest(evidence, requests)
    played = [rows.members(r) for r in range(requests)]
    batches = [(r, m) for r, m in _batches(played)]
    locals_ = [_Local(rows, r, m, strategies) for r, m in batches]
    mu: Floats = np.zeros(strategies)
    covariance: Floats = np.eye(strategies) * TYPICAL_FIELD**2
    gap: Floats = np.zeros(len(evidence.a))
    width, effect = TYPICAL_FIELD, TYPICAL_EFFECT
    for number in range(MOST_PASSES):
        precision = np.eye(strategies) / width**2
        shift = np.zeros(strategies)
        for local in locals_:
            local.add_to(precision, shift, gap, evidence, effect, _unknown(width, effect))
        covariance = np.linalg.inv(precision)
        mu = covariance @ shift
        new = gap.copy()
        for local in locals_:
            local.update(new, gap, evidence, effect, mu, _unknown(width, effect))
        moved = float(np.abs(new - gap).max(initial=0.0))
        gap = gap + np.clip(new - gap, -2.0, 2.0)
        if len(gap) and number < PASSES_TO_LEARN_SPREADS:
            effect = _effect(evidence, mu, effect, requests, strategies)
            met = np.bincount(np.concatenate([evidence.a, evidence.b]), minlength=strategies) > 0
            # One imaginary strategy of the typical field keeps a field of two from collapsing.
            square = (mu**2 + np.diag(covariance))[met]
            width = float(np.sqrt((square.sum() + TYPICAL_FIELD**2) / (len(square) + 1)))
        if moved < 1e-3 and number >= PASSES_TO_LEARN_SPREADS:
            break
    return Posterior(evidence, mu, covariance, width, effect, gap, rows)


def people_say(gap: Floats, variance: Floats | float) -> Floats:
    """Probability that people call a better: the mean of σ(d) for d ~ N(gap, variance), by MacKay's approximation."""
    return np.asarray(expit(gap / np.sqrt(1 + np.pi / 8 * variance)))


def _unknown(field: float, effect: float) -> float:
    """Variance of the gap between two answers of which nothing is known."""
    return 2 * (field**2 + effect**2)


def _evidence_for(p: Floats, variance: float) -> tuple[Floats, Floats]:
    """The Gaussian (precision, precision × mean) that takes a gap from N(0, variance) to where people_say is `p`.

    Its precision is that of as many plain verdicts as would do the same.
    """
    mode = np.linspace(0.0, 12.0, 2_001)
    precision = mode * expit(mode) / variance
    after = people_say(mode, 1 / (1 / variance + precision))
    sure = np.clip(np.maximum(p, 1 - p), 0.5, after[-1])
    at = np.interp(sure, after, mode)
    found = np.interp(at, mode, precision)
    return np.maximum(found, 1e-9), np.where(p >= 0.5, at, -at) * (1 / variance + found)


def _effect(evidence: Evidence, mu: Floats, effect: float, requests: int, strategies: int) -> float:
    """Standard deviation of the request effects: matches that share an answer err together by its square.

    Method of moments on products of residuals; the logistic is flattened by the effects (MacKay's κ).
    """
    flat = 1 / np.sqrt(1 + np.pi / 8 * 2 * effect**2)
    p = expit((mu[evidence.a] - mu[evidence.b]) * flat)
    # A calibrated probability moves less than what people would say: by its share of that variance.
    share = float(np.mean((2 * evidence.toward_a - 1) ** 2)) if evidence.calibrated else 1.0
    error, slope = evidence.toward_a - 0.5 - share * (p - 0.5), share * flat * p * (1 - p)
    cell = np.concatenate([evidence.request * strategies + evidence.a, evidence.request * strategies + evidence.b])
    _, code = np.unique(cell, return_inverse=True)
    signed, both = np.concatenate([error, -error]), np.concatenate([slope, slope])
    product = np.bincount(code, signed) ** 2 - np.bincount(code, signed**2)
    scale = np.bincount(code, both) ** 2 - np.bincount(code, both**2)
    variance = (product.sum() + EFFECT_PRIOR * TYPICAL_EFFECT**2) / (scale.sum() + EFFECT_PRIOR)
    return float(np.sqrt(np.clip(variance, SMALLEST_EFFECT**2, 9.0)))


class ByRequest:
    """Rows of the evidence, found by request."""

    def __init__(self, evidence: Evidence, requests: int) -> None:
        self.evidence = evidence
        self.order = np.argsort(evidence.request, kind="stable")
        self.start = np.searchsorted(evidence.request[self.order], np.arange(requests + 1))

    def rows(self, request: int) -> Ints:
        return self.order[self.start[request] : self.start[request + 1]]

    def members(self, request: int) -> Ints:
        rows = self.rows(request)
        return np.unique(np.concatenate([self.evidence.a[rows], self.evidence.b[rows]]))


@dataclass(frozen=True, slots=True)
class _Site:
    precision: Floats
    """Shape (requests, width, width)."""
    shift: Floats
    """Precision times mean, shape (requests, width)."""


class _Local:
    """A batch of requests with their matches in local numbering."""

    def __init__(self, rows: ByRequest, requests: Ints, members: Ints, strategies: int) -> None:
        self.members = members
        self.rows = np.concatenate([rows.rows(r) for r in requests]) if len(requests) else np.zeros(0, np.int64)
        counts = [rows.start[r + 1] - rows.start[r] for r in requests]
        self.batch = np.repeat(np.arange(len(requests)), counts)
        place = np.full((len(requests), strategies + 1), -1, dtype=np.int64)
        np.put_along_axis(place, np.where(members >= 0, members, strategies), np.arange(members.shape[1])[None], 1)
        self.i = place[self.batch, rows.evidence.a[self.rows]]
        self.j = place[self.batch, rows.evidence.b[self.rows]]
        # A match of an answer that is no candidate any more informs mu, but not these answers.
        both = (self.i >= 0) & (self.j >= 0)
        self.rows, self.batch, self.i, self.j = self.rows[both], self.batch[both], self.i[both], self.j[both]

    def sites(self, gap: Floats, evidence: Evidence, variance: float) -> _Site:
        count, width = self.members.shape
        curve, pull = evidence.site(self.rows, gap[self.rows], variance)
        at_i, at_j = self.batch * width + self.i, self.batch * width + self.j
        size = count * width
        shift = np.bincount(at_i, pull, size) - np.bincount(at_j, pull, size)
        square = [at_i * width + self.i, at_j * width + self.j]
        cells = np.concatenate([*square, at_i * width + self.j, at_j * width + self.i])
        precision = np.bincount(cells, np.concatenate([curve, curve, -curve, -curve]), size * width)
        return _Site(precision.reshape(count, width, width).astype(float), shift.reshape(count, width).astype(float))

    def add_to(
        self, precision: Floats, shift: Floats, gap: Floats, evidence: Evidence, effect: float, variance: float
    ) -> None:
        """Add what these requests say about mu, their own effects integrated out."""
        site = self.sites(gap, evidence, variance)
        width = self.members.shape[1]
        gain = np.linalg.inv(site.precision + np.eye(width) / effect**2) / effect**2
        real = self.members >= 0
        about = (site.precision @ gain)[real[:, :, None] & real[:, None, :]]
        rows = np.broadcast_to(self.members[:, :, None], (*real.shape, width))[real[:, :, None] & real[:, None, :]]
        columns = np.broadcast_to(self.members[:, None, :], (*real.shape, width))[real[:, :, None] & real[:, None, :]]
        size = len(shift)
        precision += np.bincount(rows * size + columns, about, size * size).reshape(size, size)
        shift += np.bincount(self.members[real], np.einsum("kij,kj->ki", gain, site.shift)[real], size)

    def update(self, new: Floats, gap: Floats, evidence: Evidence, effect: float, mu: Floats, variance: float) -> None:
        """Write the mean gap of these requests' matches, given mu, into `new`."""
        site = self.sites(gap, evidence, variance)
        width = self.members.shape[1]
        prior = np.where(self.members >= 0, mu[self.members], 0.0) / effect**2
        theta = np.linalg.solve(site.precision + np.eye(width) / effect**2, (site.shift + prior)[..., None])[..., 0]
        new[self.rows] = theta[self.batch, self.i] - theta[self.batch, self.j]


def _batches(members: list[Ints]) -> Iterator[tuple[Ints, Ints]]:
    """Requests of like size together, as (requests, members padded with -1); those without members are left out."""
    sizes = np.array([len(m) for m in members], dtype=np.int64)
    order = np.argsort(sizes, kind="stable")
    order = order[sizes[order] > 0]
    while len(order):
        # Widths within a batch differ by a quarter at most, so that little is spent on padding.
        first = int(sizes[order[0]])
        size = int(np.searchsorted(sizes[order], first + first // 4, side="right"))
        width = int(sizes[order[size - 1]])
        size = max(1, min(size, BATCH // width**2))
        taken, order = order[:size], order[size:]
        padded = np.full((len(taken), width), -1, dtype=np.int64)
        for k, r in enumerate(taken):
            padded[k, : sizes[r]] = members[r]
        yield taken.astype(np.int64), padded
