"""Newton's method for the Bradley–Terry model and its covariates."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from qbawa.errors import DisconnectedError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A separated field walks towards its finite optimum in steps of at most this many logits.
LONGEST_STEP = 2.0
MOST_STEPS = 200


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
    """Some strategies never lost to the others: their strengths are finite only through the prior."""


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
    met = coo_array(wins + wins.T)
    components, of = connected_components(met, directed=False)
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
    fit = maximise(design, wins[i, j], wins[i, j] + wins[j, i], tolerance=tolerance, firth=separated)
    strength = fit.theta - fit.theta.mean()
    return Rating(strength, best_first(strength), fit.covariance, separated)


def best_first(strength: Floats) -> Ints:
    """Indices by falling strength; equal ones (to nine decimals) in their given order."""
    return np.argsort(-np.round(strength, 9), kind="stable").astype(np.int64)


@dataclass(frozen=True, slots=True)
class Design:
    """A sparse matrix X of fixed row width: row r has values[k][r] in column columns[k][r], for each term k.

    A match of i and j has +1 in column i and −1 in column j; covariates follow in the columns after the strategies.
    """

    columns: tuple[Ints, ...]
    values: tuple[Floats, ...]
    component: Ints
    """Component of each strategy, shape (strategies,)."""
    width: int
    """Parameters: strategies, then covariates."""
    ridge: Floats
    """Precision of a normal prior with mean 0 on each parameter, shape (width,); 0 is none."""

    @staticmethod
    def of_pairs(
        i: Ints, j: Ints, strategies: int, *extra: tuple[Ints, Floats], ridge: Floats | None = None
    ) -> "Design":
        """The design of matches i against j, followed by further terms (columns counted after the strategies)."""
        one = np.ones(len(i), dtype=np.float64)
        _, component = connected_components(coo_array((one, (i, j)), shape=(strategies, strategies)), directed=False)
        ridge = np.zeros(0) if ridge is None else ridge
        return Design(
            (i, j, *(strategies + column for column, _ in extra)),
            (one, -one, *(value for _, value in extra)),
            component.astype(np.int64),
            strategies + len(ridge),
            np.concatenate([np.zeros(strategies), ridge]),
        )

    def times(self, theta: Floats) -> Floats:
        """X @ theta, one per row."""
        out = np.zeros(len(self.values[0]))
        for c, v in zip(self.columns, self.values, strict=True):
            out += v * theta[c]
        return out

    def gather(self, weight: Floats) -> Floats:
        """X.T @ weight, one per parameter."""
        out = np.zeros(self.width)
        for c, v in zip(self.columns, self.values, strict=True):
            out += np.bincount(c, v * weight, self.width)
        return out

    def information(self, weight: Floats) -> Floats:
        """X.T @ diag(weight) @ X plus the ridge, shape (width, width)."""
        total = np.zeros(self.width**2)
        terms = list(zip(self.columns, self.values, strict=True))
        for k, (ck, vk) in enumerate(terms):
            for cl, vl in terms[k:]:
                total += np.bincount(ck * self.width + cl, vk * vl * weight, self.width**2) * (0.5 if cl is ck else 1.0)
        half = total.reshape(self.width, self.width)
        return half + half.T + np.diag(self.ridge)

    def invert(self, information: Floats) -> Floats:
        """Inverse on the space where strengths have mean 0 in every component."""
        size = len(self.component)
        same = (self.component[:, None] == self.component[None, :]) / np.bincount(self.component)[self.component]
        scale = max(float(np.trace(information[:size, :size])) / size, 1e-9)
        padded = information.copy()
        padded[:size, :size] += scale * same
        inverse: Floats = np.linalg.inv(padded).astype(np.float64)
        inverse[:size, :size] -= same / scale
        return inverse

    def spread(self, inverse: Floats) -> Floats:
        """x @ inverse @ x for each row x."""
        out = np.zeros(len(self.values[0]))
        terms = list(zip(self.columns, self.values, strict=True))
        for k, (ck, vk) in enumerate(terms):
            for cl, vl in terms[k:]:
                out += vk * vl * inverse[ck, cl] * (1.0 if cl is ck else 2.0)
        return out


@dataclass(frozen=True, slots=True)
class Maximum:
    theta: Floats
    covariance: Floats
    """Inverse of the information, shape (width, width)."""
    prior_meat: Floats
    """Score variance that Firth's imaginary matches carry, shape (width, width); zero without them."""


def maximise(design: Design, wins: Floats, played: Floats, *, tolerance: float = 1e-6, firth: bool = True) -> Maximum:
    """Parameters at the maximum of the (penalised) binomial likelihood: wins of `played` in each row of the design.

    `firth` adds Jeffreys' prior: each row gets half its leverage as imaginary wins and losses.
    """
    theta = np.zeros(design.width)
    for _ in range(MOST_STEPS):
        p = 1 / (1 + np.exp(-design.times(theta)))
        weight = played * p * (1 - p)
        covariance = design.invert(design.information(weight))
        leverage = weight * design.spread(covariance) if firth else np.zeros_like(p)
        score = design.gather(wins - played * p + leverage * (0.5 - p)) - design.ridge * theta
        step = covariance @ score
        longest = float(np.abs(step).max(initial=0.0))
        theta = theta + step * min(1.0, LONGEST_STEP / max(longest, LONGEST_STEP))
        if longest < tolerance:
            break
    prior = design.information(leverage / 2 * (p**2 + (1 - p) ** 2)) - np.diag(design.ridge)
    return Maximum(theta, covariance, prior)
