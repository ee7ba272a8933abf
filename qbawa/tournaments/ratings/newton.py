"""Newton's method for the Bradley–Terry model and its covariates."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from threadpoolctl import ThreadpoolController

from qbawa.errors import DisconnectedError
from qbawa.tournaments.ratings.design import Design, Floats, Ints

# A separated field walks towards its finite optimum in steps of at most this many logits.
LONGEST_STEP = 2.0
MOST_STEPS = 200
# Imaginary matches are left out of the curvature where they are at most this share of the real ones.
FEW = 0.01
# Matrices are small; on busy cores BLAS threads that wait for one another made a fit ten times slower.
ONE_BLAS_THREAD = ThreadpoolController()


@dataclass(frozen=True, slots=True)
class Rating:
    """What `bradley_terry` returns."""

    strength: Floats
    """Log-strength of each strategy in the order of the rows of `wins`; the mean is 0."""
    order: Ints
    """Strategies, best first."""
    covariance: Floats
    """Inverse information, shape (strategies, strategies): every match stands alone; `rate` clusters by request."""
    separated: bool
    """Part of the field never lost to the rest: strengths are finite only through the prior."""


def bradley_terry(wins: np.ndarray, *, tolerance: float = 1e-6) -> Rating:
    """Log-strength of each strategy, mean 0, best first.

    wins[i, j] counts wins of i over j, shape (strategies, strategies); a tie adds ½ to both.
    Raises DisconnectedError where some strategies never meet, even indirectly.
    Newton on the log-likelihood; Hunter 2004, Annals of Statistics 32(1). Where part of the field never lost to the
    rest that likelihood has no maximum; Firth's prior (1993, Biometrika 80(1)) then keeps the strengths finite.
    """
    wins = np.asarray(wins, dtype=np.float64)
    if wins.ndim != 2 or wins.shape[0] != wins.shape[1] or not np.isfinite(wins).all() or (wins < 0).any():
        raise ValueError(f"wins must be a square matrix of counts, received shape {wins.shape}")
    size = len(wins)
    components, of = connected_components(coo_array(wins + wins.T), directed=False)
    if components > 1:
        alone = np.flatnonzero(of != np.bincount(of).argmax())
        raise DisconnectedError(
            f"Strategies {alone[:5].tolist()} (of {size}) never met the others, even indirectly: {components} separate "
            "fields. Add matches between them, or use `rate`, which rates each field by itself."
        )
    separated = connected_components(coo_array(wins), directed=True, connection="strong")[0] > 1
    i, j = np.triu_indices(size, 1)
    played = np.flatnonzero(wins[i, j] + wins[j, i])
    i, j = i[played].astype(np.int64), j[played].astype(np.int64)
    design = Design.of_pairs(i, j, size)
    with ONE_BLAS_THREAD.limit(limits=1, user_api="blas"):
        fit = maximise(design, wins[i, j], wins[i, j] + wins[j, i], tolerance=tolerance, firth=separated)
    strength = fit.theta - fit.theta.mean()
    return Rating(strength, best_first(strength), fit.covariance, separated)


def best_first(strength: Floats) -> Ints:
    """Indices by falling strength; equal ones (to nine decimals) in their given order."""
    return np.argsort(-np.round(strength, 9), kind="stable").astype(np.int64)


@dataclass(frozen=True, slots=True)
class Maximum:
    """Where the likelihood is highest."""

    theta: Floats
    """Strengths, then covariates."""
    luck: Floats
    """Each request's luck; empty without."""
    covariance: Floats
    """Of theta: inverse information, imaginary matches included, shape (width, width)."""
    luck_variance: Floats
    prior_meat: Floats
    """Score variance of the priors, shape (width, width): they count as observations made on no request."""


def maximise(
    design: Design,
    wins: Floats,
    played: Floats,
    *,
    tolerance: float = 1e-6,
    firth: bool = True,
    start: Maximum | None = None,
) -> Maximum:
    """Parameters at the maximum of the penalised binomial likelihood: `wins` of `played` in each row of the design.

    `firth` adds Jeffreys' prior: each row gets half its leverage as imaginary wins and as many imaginary losses.
    """
    theta = np.zeros(design.width) if start is None else start.theta
    luck = np.zeros(0 if design.luck is None else design.requests) if start is None else start.luck
    luck_variance = np.zeros_like(luck)
    loose = 0.0 if design.luck is None else design.luck.sd**-2
    for _ in range(MOST_STEPS):
        p = 1 / (1 + np.exp(-(design.times(theta) + design.times_luck(luck))))
        weight, leverage = played * p * (1 - p), np.zeros_like(p)
        on_luck = design.luck_information(weight)
        covariance = design.invert(design.information(weight, on_luck))
        if firth or design.luck is not None:
            row_variance, luck_variance = design.variances(weight, covariance, on_luck)
        if firth:
            leverage = weight * row_variance
            if (leverage > FEW * played).any():  # the imaginary matches count: without them steps overshoot
                weight = (played + leverage) * p * (1 - p)
                on_luck = design.luck_information(weight)
                covariance = design.invert(design.information(weight, on_luck))
        residual = wins - played * p + leverage * (0.5 - p)
        pull = (design.gather_luck(residual) - loose * luck) / on_luck
        step = covariance @ (design.gather(residual - weight * design.times_luck(pull)) - design.ridge * theta)
        luck_step = pull - design.gather_luck(weight * design.times(step)) / on_luck
        longest = max(float(np.abs(step).max(initial=0.0)), float(np.abs(luck_step).max(initial=0.0)))
        shorter = min(1.0, LONGEST_STEP / max(longest, LONGEST_STEP))
        theta, luck = theta + shorter * step, luck + shorter * luck_step
        if longest < tolerance:
            break
    prior_meat = design.information(leverage / 2 * (p**2 + (1 - p) ** 2))
    return Maximum(theta, luck, covariance, luck_variance, prior_meat)
