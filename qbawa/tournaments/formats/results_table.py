"""What a tournament is played on and what is known so far: strategies × requests, matches and their results.

Nothing here decides anything. Inside the engine strategies and requests are indices and a batch of matches is an
integer array; names appear only in `Match` and `Result`, the words that callers speak.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from qbawa.errors import InputError

Winner = Literal["a", "b", "tie"]

WITHDRAWN = -1

# Matches in both orders that "half-way" weighs as much as, in judging how much a second order teaches.
_UNSEEN = 20

# A batch of matches: integer rows (a, b, request, swapped) with a < b.
Pairings = np.ndarray
NO_PAIRINGS: Pairings = np.zeros((0, 4), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Match:
    """Two strategies' answers to one request, to be judged once by each judge. `a` sorts before `b`.

    `swapped` asks for the other order of showing than the one that the match's content draws: a second verdict on
    the same match, wanted when verdicts in one order do not suffice. It is never a repetition.
    """

    request: str
    a: str
    b: str
    round: int
    slot: int
    swapped: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What the verdicts on a match come to. `p_a` is None when no verdict could be read: asked, paid, no evidence.

    `verdicts` is what the match cost; identical answers cost none.
    """

    match: Match
    p_a: float | None
    verdicts: int = 1

    @property
    def winner(self) -> Winner | None:
        if self.p_a is None:
            return None
        return "tie" if self.p_a == 0.5 else "a" if self.p_a > 0.5 else "b"


@dataclass(frozen=True)
class Field:
    """Strategies × requests with the answers that stand in the matrix.

    `answers[strategy, request]` numbers the distinct answers to a request: equal numbers are identical answers,
    `WITHDRAWN` is a cell that has none (failed, not run yet). Strategies and requests are sorted and distinct.
    """

    strategies: tuple[str, ...]
    requests: tuple[str, ...]
    answers: np.ndarray

    def __post_init__(self) -> None:
        for words, names in (("strategies", self.strategies), ("requests", self.requests)):
            if list(names) != sorted(set(names)):
                raise InputError(f"A field's {words} must be sorted and distinct. Build it with Field.of(answers).")
        if self.answers.shape != (len(self.strategies), len(self.requests)):
            raise InputError(
                f"A field of {len(self.strategies)} strategies × {len(self.requests)} requests needs answers of that "
                f"shape, received {self.answers.shape}."
            )

    @staticmethod
    def of(answers: Mapping[tuple[str, str], str]) -> Field:
        """A field from {(strategy, request): answer}; a missing cell is a withdrawal.

        Answers may be texts or digests of them: they are only compared, never kept.
        """
        strategies = tuple(sorted({strategy for strategy, _ in answers}))
        requests = tuple(sorted({request for _, request in answers}))
        row = {name: index for index, name in enumerate(strategies)}
        column = {name: index for index, name in enumerate(requests)}
        numbers: dict[tuple[int, str], int] = {}
        table = np.full((len(strategies), len(requests)), WITHDRAWN, dtype=np.int32)
        for (strategy, request), answer in answers.items():
            r = column[request]
            table[row[strategy], r] = numbers.setdefault((r, answer), len(numbers))
        return Field(strategies, requests, table)

    @staticmethod
    def full(strategies: Sequence[str], requests: Sequence[str]) -> Field:
        """A field in which every strategy answered every request, each in its own words."""
        answers = np.repeat(np.arange(len(strategies), dtype=np.int32)[:, None], len(requests), axis=1)
        return Field(tuple(sorted(strategies)), tuple(sorted(requests)), answers)

    @cached_property
    def present(self) -> np.ndarray:
        """Whether the cell has an answer, shape (strategies, requests)."""
        return self.answers != WITHDRAWN

    @cached_property
    def same_throughout(self) -> np.ndarray:
        """A number for each strategy, equal where all their answers are (and the same ones missing), from 0 up."""
        return np.unique(self.answers, axis=0, return_inverse=True)[1].reshape(-1)


class Results:
    """Everything that was judged so far, as arrays. N strategies, R requests.

    A *round_key* is a request in one order of showing: round_keys 0 … R-1 are the requests as drawn, R … 2R-1 the same
    requests swapped. A pair meets at most once on a round_key, so no match is ever repeated.
    """

    def __init__(self, field: Field, playable: np.ndarray | None = None) -> None:
        """`playable` marks the requests on which new matches may be asked for; None means all."""
        self.field = field
        self.strategies = len(field.strategies)
        self.requests = len(field.requests)
        n, r = self.strategies, self.requests
        everywhere = np.ones(r, dtype=bool)
        self.playable = everywhere if playable is None else playable
        # Wins of i over j, ties ½ each: of matches judged in one order, and (mean of the two verdicts) in both.
        self.once = np.zeros((n, n))
        self.twice = np.zeros((n, n))
        # Of the matches judged in both orders, a < b: sums of p₁ + p₂, p₁·p₂ and (p₁² + p₂²) / 2.
        self._both = np.zeros((3, n, n))
        # shown[i, round_key]: scored matches of i on the round_key.
        self.shown = np.zeros((n, 2 * r), dtype=np.int32)
        self.matches = 0
        self.verdicts = 0
        self.judged = 0  # matches that a judge has decided: neither unscored nor ties of identical answers
        self.begun = np.zeros(2 * r, dtype=bool)
        # Round keys whose bracket was found complete: a memo of the per-request formats.
        self.decided: set[int] = set()
        # Entrants of each bracket as drawn: likewise.
        self.draws: dict[int, list[int]] = {}
        # Slots of the round robin's schedule that were found complete: likewise.
        self.slots_done = 0
        # met[order, i, j]: matches asked on playable requests, symmetric.
        self._met = np.zeros((2, n, n), dtype=np.int32)
        # 0 = never asked, 1 + p_a = scored, -1 = unscored. Zeros stay unmapped memory until a pair really meets.
        self._outcomes = np.zeros((n, n, 2 * r), dtype=np.float16)

    def add(self, pairings: Pairings, p_a: np.ndarray, verdicts: int) -> None:
        """Takes results in: rows (a, b, request, swapped) with their p_a (NaN where unscored), at what they cost."""
        self.matches += len(pairings)
        self.verdicts += verdicts
        for order in (0, 1):
            here = pairings[:, 3] == order
            self._add(pairings[here, 0], pairings[here, 1], pairings[here, 2], order, p_a[here])

    def _add(self, a: np.ndarray, b: np.ndarray, request: np.ndarray, order: int, p_a: np.ndarray) -> None:
        scored = ~np.isnan(p_a)
        round_key = request + order * self.requests
        self.begun[round_key] = True
        other = request + (1 - order) * self.requests
        identical = self.field.answers[a, request] == self.field.answers[b, request]
        self.judged += int((scored & ~identical).sum())
        # Identical answers tie in either order: once is all that there is to learn.
        same = identical & (self._outcomes[a, b, other] == 0)
        self._count(order, a, b, request)
        self._count(1 - order, a[same], b[same], request[same])
        tied = (a[same], b[same], other[same])
        self._outcomes[a, b, round_key] = np.where(scored, 1 + np.nan_to_num(p_a), -1)
        a, b, request, round_key, p = a[scored], b[scored], request[scored], round_key[scored], p_a[scored]
        np.add.at(self.shown, (a, round_key), 1)
        np.add.at(self.shown, (b, round_key), 1)
        before = self._outcomes[a, b, request + (1 - order) * self.requests].astype(float) - 1
        second = before >= 0
        for table, sign, rows, wins in (
            (self.once, 1, ~second, p),
            (self.once, -1, second, before),
            (self.twice, 1, second, (p + before) / 2),
        ):
            np.add.at(table, (a[rows], b[rows]), sign * wins[rows])
            np.add.at(table, (b[rows], a[rows]), sign * (1 - wins[rows]))
        p, before, pair = p[second], before[second], (a[second], b[second])
        for table, values in zip(self._both, (p + before, p * before, (p**2 + before**2) / 2), strict=True):
            np.add.at(table, pair, values)
        self._outcomes[tied] = 1.5

    def _count(self, order: int, a: np.ndarray, b: np.ndarray, request: np.ndarray) -> None:
        np.add.at(self._met[order], (a, b), self.playable[request])
        np.add.at(self._met[order], (b, a), self.playable[request])

    def order_correlation(self, expected: np.ndarray) -> float:
        """How alike the two verdicts on a match are beyond what the pair's strengths (expected[a, b]) explain, 0–1.

        1: the other order repeats the first. 0: it is worth as much as a new match. Half-way until some are seen.
        """
        total, cross, square = self._both
        count = np.triu(self.twice + self.twice.T, 1)
        covariance = (cross - expected * total + count * expected**2).sum()
        variance = (square - expected * total + count * expected**2).sum()
        unseen = _UNSEEN * 0.25
        return float(np.clip((covariance + 0.5 * unseen) / (variance + unseen), 0, 1))

    def asked(self, a: int, b: int) -> np.ndarray:
        """Whether the pair met already, by round_key, shape (2R,)."""
        return self._outcomes[min(a, b), max(a, b)] != 0

    def fresh(self) -> np.ndarray:
        """Whether each pair may still meet on a request where it never met, shape (N, N), symmetric."""
        return self.capacity(1) > 0

    def asked_on(self, round_key: int) -> np.ndarray:
        """Whether each pair (a < b) met on the round_key, shape (N, N)."""
        return self._outcomes[:, :, round_key] != 0

    def outcome(self, a: int, b: int, round_key: int) -> float | None:
        """Probability that a beats b on the round_key as judged, ½ if judged in vain; None if never asked."""
        outcome = float(self._outcomes[min(a, b), max(a, b), round_key])
        if outcome == 0:
            return None
        p = 0.5 if outcome < 0 else outcome - 1
        return p if a < b else 1 - p

    def round_keys(self, orders: int) -> np.ndarray:
        """Round keys on which new matches may be asked, in order: the drawn order first; `orders` is 1 or 2."""
        playable = np.flatnonzero(self.playable)
        return np.concatenate([playable + k * self.requests for k in range(orders)])

    def entrants(self, round_key: int) -> np.ndarray:
        """Strategies with an answer to the round_key's request."""
        return np.flatnonzero(self.field.present[:, round_key % self.requests])

    def free_round_keys(self, a: int, b: int, order: int) -> np.ndarray:
        """Round keys of one order (0 as drawn, 1 swapped) on which the pair may still meet, ascending."""
        both = self.field.present[a] & self.field.present[b] & self.playable
        start = order * self.requests
        return np.flatnonzero(both & ~self.asked(a, b)[start : start + self.requests]) + start

    def capacity(self, orders: int) -> np.ndarray:
        """How many matches each pair may still have, shape (N, N), symmetric, 0 on the diagonal."""
        common = (self.field.present & self.playable).astype(np.int32)
        room = np.maximum(common @ common.T - self._met[:orders], 0).sum(axis=0)
        np.fill_diagonal(room, 0)
        return room


def pairings(rows: Sequence[tuple[int, int, int]], requests: int) -> Pairings:
    """Rows (a, b, round_key) in canonical form: a < b, round_key split into request and order."""
    if not rows:
        return NO_PAIRINGS
    table = np.asarray(rows, dtype=np.int64)
    low, high = np.minimum(table[:, 0], table[:, 1]), np.maximum(table[:, 0], table[:, 1])
    return np.stack([low, high, table[:, 2] % requests, table[:, 2] // requests], axis=1)
