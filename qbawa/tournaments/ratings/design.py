"""Matches as a sparse matrix: who met whom, and what else may have swayed the verdict."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Requests × parameters held at once: 64 MB of float64.
BLOCK = 8_000_000


@dataclass(frozen=True)
class Luck:
    """A normal effect per request on the one strategy that all its matches share."""

    sign: Floats
    """One per row: +1 where the shared strategy is a, −1 where it is b, 0 where the request has none."""
    sd: float
    """Standard deviation of the effects, in logits."""


@dataclass(frozen=True)
class Design:
    """A matrix X of fixed row width: row r has values[k][r] in column columns[k][r], for each term k.

    A match of i and j has +1 in column i and −1 in column j; covariates come after the strategies. Rows that belong to
    requests may carry luck, a further parameter per request that is eliminated wherever it appears (Schur complement).
    """

    columns: tuple[Ints, ...]
    values: tuple[Floats, ...]
    component: Ints
    """Component of each strategy, shape (strategies,)."""
    ridge: Floats
    """Precision of a normal prior with mean 0 on each parameter, shape (width,); 0 is none."""
    request: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Request of each row, 0, 1, …; empty where rows are sums over requests."""
    luck: Luck | None = None

    @staticmethod
    def of_pairs(
        i: Ints,
        j: Ints,
        strategies: int,
        *covariates: tuple[Ints, Floats],
        ridge: Floats | None = None,
        request: Ints | None = None,
        luck: Luck | None = None,
    ) -> "Design":
        """The design of matches i against j; covariates are terms whose columns count after the strategies."""
        one = np.ones(len(i), dtype=np.float64)
        met = np.zeros((strategies, strategies), dtype=bool)
        met[i, j] = True
        _, component = connected_components(csr_array(met), directed=False)
        return Design(
            (i, j, *(strategies + column for column, _ in covariates)),
            (one, -one, *(value for _, value in covariates)),
            component.astype(np.int64),
            np.concatenate([np.zeros(strategies), np.zeros(0) if ridge is None else ridge]),
            np.zeros(0, dtype=np.int64) if request is None else request,
            luck,
        )

    @property
    def width(self) -> int:
        """Parameters: strategies, then covariates."""
        return len(self.ridge)

    @property
    def terms(self) -> list[tuple[Ints, Floats]]:
        return list(zip(self.columns, self.values, strict=True))

    @cached_property
    def requests(self) -> int:
        return int(self.request.max(initial=-1)) + 1

    def times(self, theta: Floats) -> Floats:
        """X @ theta, one per row."""
        out = np.zeros(len(self.values[0]))
        for column, value in self.terms:
            out += value * theta[column]
        return out

    def gather(self, rows: Floats) -> Floats:
        """X.T @ rows, one per parameter."""
        out = np.zeros(self.width)
        for column, value in self.terms:
            out += np.bincount(column, value * rows, self.width)
        return out

    def times_luck(self, luck: Floats) -> Floats | float:
        """What each request's luck adds to its rows."""
        return 0.0 if self.luck is None else self.luck.sign * luck[self.request]

    def gather_luck(self, rows: Floats) -> Floats:
        """Sum of the rows that each request's luck touches, signed; shape (requests,), empty without luck."""
        if self.luck is None:
            return np.zeros(0)
        return np.bincount(self.request, self.luck.sign * rows, self.requests).astype(np.float64)

    def luck_information(self, weight: Floats) -> Floats:
        """Information on each request's luck, its prior included; shape (requests,), empty without luck."""
        if self.luck is None:
            return np.zeros(0)
        own = np.bincount(self.request, self.luck.sign**2 * weight, self.requests).astype(np.float64)
        return own + self.luck.sd**-2

    def information(self, weight: Floats, on_luck: Floats | None = None) -> Floats:
        """X.T @ diag(weight) @ X plus the ridge, less what luck takes away; shape (width, width)."""
        total = np.zeros(self.width**2)
        for k, (column, value) in enumerate(self.terms):
            for other_column, other in self.terms[k:]:
                share = 0.5 if other_column is column else 1.0
                total += np.bincount(column * self.width + other_column, share * value * other * weight, self.width**2)
        half = total.reshape(self.width, self.width)
        out = half + half.T + np.diag(self.ridge)
        if self.luck is not None and on_luck is not None:
            for block in self.blocks():
                tie = block.gather((self.luck.sign * weight)[block.rows])
                out -= tie.T @ (tie / on_luck[block.span, None])
        return out

    def invert(self, information: Floats) -> Floats:
        """Inverse on the space where strengths have mean 0 in every component."""
        size = len(self.component)
        same = (self.component[:, None] == self.component[None, :]) / np.bincount(self.component)[self.component]
        scale = max(float(np.trace(information[:size, :size])) / size, 1e-9)
        padded = information.copy()
        padded[:size, :size] += scale * same
        inverse: Floats = cho_solve(cho_factor(padded, check_finite=False), np.eye(self.width), check_finite=False)
        inverse[:size, :size] -= same / scale
        return inverse

    def variances(self, weight: Floats, inverse: Floats, on_luck: Floats) -> tuple[Floats, Floats]:
        """Posterior variance of each row's log-odds, and of each request's luck."""
        row = np.zeros(len(self.values[0]))
        for k, (column, value) in enumerate(self.terms):
            for other_column, other in self.terms[k:]:
                row += (1.0 if other_column is column else 2.0) * value * other * inverse[column, other_column]
        if self.luck is None:
            return row, np.zeros(0)
        of_luck = np.zeros(self.requests)
        for block in self.blocks():
            sign, own = self.luck.sign[block.rows], on_luck[block.span]
            tie = block.gather(sign * weight[block.rows]) / own[:, None]
            swing = tie @ inverse
            of_luck[block.span] = 1 / own + (swing * tie).sum(1)
            row[block.rows] += sign**2 * of_luck[block.span][block.request] - 2 * sign * block.times(swing)
        return row, of_luck

    def blocks(self) -> Iterator["Block"]:
        """The rows, some requests at a time, so that requests × parameters fits in memory."""
        per_block = max(1, BLOCK // self.width)
        order = np.argsort(self.request, kind="stable") if self.requests > per_block else None
        for start in range(0, self.requests, per_block):
            stop = min(start + per_block, self.requests)
            if order is None:
                yield Block(self, slice(None), slice(start, stop))
            else:
                low, high = np.searchsorted(self.request, [start, stop], sorter=order)
                yield Block(self, order[low:high], slice(start, stop))


class Block:
    """Some requests and their rows: sums by request and parameter, shape (requests, width)."""

    def __init__(self, design: Design, rows: Ints | slice, span: slice) -> None:
        self.rows, self.span = rows, span
        self.request = design.request[rows] - span.start
        self.shape = (span.stop - span.start, design.width)
        self.terms = [(self.request * design.width + column[rows], value[rows]) for column, value in design.terms]

    def gather(self, rows: Floats, power: int = 1) -> Floats:
        """The sum over each request's rows of row × x (or of row × x², elementwise)."""
        out = np.zeros(self.shape[0] * self.shape[1])
        for cell, value in self.terms:
            out += np.bincount(cell, value**power * rows, len(out))
        return out.reshape(self.shape)

    def times(self, theta: Floats) -> Floats:
        """x @ theta of the row's own request, one per row."""
        flat, out = theta.ravel(), np.zeros(len(self.request))
        for cell, value in self.terms:
            out += value * flat[cell]
        return out
