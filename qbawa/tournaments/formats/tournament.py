"""A tournament: what to ask next, what was judged, when to stop. No judge, no storage, no clock in here.

It goes in rounds. The matches of a round are a function of the results of earlier rounds alone, so they may be
judged in any order and all at once, and a tournament that is built again from the results so far goes on with
exactly the matches that it would have asked next. Nothing else is remembered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np

from qbawa.errors import InputError
from qbawa.tournaments.formats.auto import propose_auto
from qbawa.tournaments.formats.elimination import double_elimination, single_elimination
from qbawa.tournaments.formats.goals import Goal, Reading, rank_ranges
from qbawa.tournaments.formats.information_gain import propose_information, propose_newcomers
from qbawa.tournaments.formats.per_request import play_waves
from qbawa.tournaments.formats.posterior import Posterior, fit_posterior
from qbawa.tournaments.formats.results_table import NO_PAIRINGS, Field, Match, Pairings, Result, Results
from qbawa.tournaments.formats.round_robin import propose_round_robin
from qbawa.tournaments.formats.successive_halving import propose_halving
from qbawa.tournaments.formats.swiss import swiss

FormatName = Literal[
    "auto", "round_robin", "single_elimination", "double_elimination", "swiss", "successive_halving", "information_gain"
]
FORMATS: tuple[FormatName, ...] = (
    "auto",
    "round_robin",
    "single_elimination",
    "double_elimination",
    "swiss",
    "successive_halving",
    "information_gain",
)

# Rounds of the formats that choose freely: this share of what was asked before, so their number grows as a logarithm.
_ROUND_SHARE = 0.06


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a tournament ended: its goal is reached, its verdict budget is spent, or no match is left that would help."""

    reason: Literal["goal", "budget", "exhausted"]
    verdicts: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a strategy stands: rank 1 is best, rank_low ≤ rank ≤ rank_high its 95 % range."""

    strategy: str
    rank: int
    rank_low: int
    rank_high: int
    strength: float
    p_best: float
    matches: int


def round_size(strategies: int, asked: int) -> int:
    """Matches in the next round of the formats that choose freely, after so many were asked."""
    return max(strategies // 2, int(_ROUND_SHARE * asked), 1)


class Tournament:
    """One step's tournament. Build with `make_tournament`."""

    def __init__(
        self,
        field: Field,
        format: FormatName,
        goal: Goal,
        confidence: float | None,
        verdict_budget: int | None,
        verdicts_per_match: int,
        orders: Literal[1, 2],
        seed: int,
        past_results: Iterable[Result],
        only_requests: Sequence[str] | None,
        newcomers: Collection[str] = (),
        newcomer_verdicts: int = 0,
    ) -> None:
        self.field = field
        self.goal = goal
        self._format = format
        self._confidence = confidence
        self._budget = verdict_budget
        self._per_match = verdicts_per_match
        self._orders = orders
        self._seed = seed
        self._strategy = {name: index for index, name in enumerate(field.strategies)}
        self._request = {name: index for index, name in enumerate(field.requests)}
        self._results = Results(field, self._playable(only_requests))
        self._late = np.isin(field.strategies, list(newcomers))
        self._for_late = newcomer_verdicts
        self._posterior: Posterior | None = None
        self._reading: Reading | None = None
        self._stop: Stop | None = None
        self._was_sure = False
        self.round = 0
        self._table = NO_PAIRINGS
        self._p_a = np.zeros(0)
        self._recorded = np.zeros(0, dtype=bool)
        self._cost = np.zeros(0, dtype=np.int64)
        self._ties: list[Match] = []
        self._resume(list(past_results))

    # ── asking and recording ───────────────────────────────────────────────────────────────────────────────────────

    def next_matches(self, limit: int | None = None) -> list[Match]:
        """The matches of this round that have no result yet, at most `limit`; [] when the tournament is done.

        All may be judged in parallel. Asking again gives the same until results are recorded.
        """
        waiting = np.flatnonzero(~self._recorded)[:limit]
        return [self._match(int(slot)) for slot in waiting]

    @property
    def round_matches(self) -> list[Match]:
        """All matches of this round, those with a result too; the same when the tournament is built again."""
        return [self._match(slot) for slot in range(len(self._table))]

    def record(self, results: Iterable[Result]) -> None:
        """Takes results of this round's matches, in any order and any portions.

        Raises InputError for a match that this round does not ask or that has a result already.
        """
        for result in results:
            slot = self._slot(result.match)
            if slot is None or self._recorded[slot]:
                raise InputError(
                    f"Match {result.match.a} against {result.match.b} on request {result.match.request} is not "
                    f"waiting in round {self.round}. Record only what next_matches() returned, once."
                )
            self._tell(slot, result)
        self._advance()

    def take_ties(self) -> list[Match]:
        """Matches between identical answers that came up since this was last called: ties that nobody was asked about.

        Keep them with the results (p_a ½, 0 verdicts): a tournament that is built again needs them to go on as before.
        """
        ties, self._ties = self._ties, []
        return ties

    def next_batch(self) -> Pairings:
        """As `next_matches`, as integer rows (a, b, request, swapped): for simulations."""
        return self._table[~self._recorded]

    def record_batch(self, p_a: np.ndarray) -> None:
        """Results of all that `next_batch` returned, in its order; NaN is unscored."""
        waiting = ~self._recorded
        self._p_a[waiting] = p_a
        self._cost[waiting] = self._per_match
        self._recorded[:] = True
        self._advance()

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def done(self) -> Stop | None:
        """Why it ended, None while it runs."""
        return self._stop

    @property
    def verdicts(self) -> int:
        """Verdicts asked so far, this round's included."""
        return self._results.verdicts + int(self._cost[self._recorded].sum())

    @property
    def reading(self) -> Reading:
        """The goal's answer and its confidence on all results of finished rounds."""
        if self._reading is None:
            self._reading = self.goal.read(self.posterior, (self._seed, self._results.verdicts))
        return self._reading

    @property
    def posterior(self) -> Posterior:
        """Strengths on all results of finished rounds."""
        if self._posterior is None:
            self._posterior = fit_posterior(self._results)
        return self._posterior

    @property
    def standings(self) -> list[Standing]:
        """All strategies, best first."""
        reading, played = self.reading, self._results.shown.sum(axis=1)
        low, high = rank_ranges(self.posterior, (self._seed, self._results.verdicts))
        return [
            Standing(
                strategy=self.field.strategies[s],
                rank=rank,
                rank_low=int(low[s]),
                rank_high=int(high[s]),
                strength=float(self.posterior.mean[s]),
                p_best=float(reading.p_best[s]),
                matches=int(played[s]),
            )
            for rank, s in enumerate(map(int, reading.order), start=1)
        ]

    @property
    def answer(self) -> list[str]:
        """What the goal asked for: the best strategy, the best k, or all in order; [] where nothing speaks for any."""
        if not self._results.judged and (self._stop is None or self._stop.reason != "goal"):
            return []
        size = {"best": 1, "top_k": self.goal.k}.get(self.goal.name, len(self.field.strategies))
        return [self.field.strategies[s] for s in self.reading.order[:size]]

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _advance(self) -> None:
        """Closes the round when all its results are in, and draws up the next that needs a verdict."""
        while self._stop is None and self._recorded.all():
            self._close_round()
            self._open_round()

    def _close_round(self) -> None:
        if len(self._table):
            self._results.add(self._table, self._p_a, int(self._cost.sum()))
            self.round += 1
            self._posterior = self._reading = None

    def _open_round(self) -> None:
        self._table = NO_PAIRINGS
        spent = self._results.verdicts
        left = None if self._budget is None else self._budget - spent
        # The others have used the budget up: what newcomers bring is spent on their matches alone, whatever the format.
        late_only = left is not None and left < self._per_match <= left + self._for_late and bool(self._late.any())
        if left is not None and late_only:
            left += self._for_late
        # Twice in a row: a goal is looked at after every round, and one lucky look is not enough.
        was_sure, self._was_sure = self._was_sure, self._is_sure()
        if was_sure and self._was_sure:
            self._stop = Stop("goal", spent, self.reading.confidence)
        elif left is not None and left < self._per_match:
            self._stop = Stop("budget", spent, self.reading.confidence)
        else:
            self._table = self._propose_late() if late_only else self._propose()
            if not len(self._table):
                self._stop = Stop("exhausted", spent, self.reading.confidence)
        identical = self._identical(self._table)
        if left is not None and len(self._table):
            # Ties of identical answers cost nothing, so they do not count against what is left.
            affordable = identical | (np.cumsum(~identical) <= left // self._per_match)
            self._table, identical = self._table[affordable], identical[affordable]
        self._p_a = np.where(identical, 0.5, np.nan)
        self._recorded = identical
        self._cost = np.zeros(len(self._table), dtype=np.int64)
        self._ties += [self._match(int(slot)) for slot in np.flatnonzero(identical)]

    def _is_sure(self) -> bool:
        wanted = self._confidence
        return wanted is not None and self._results.verdicts > 0 and self.reading.confidence >= wanted

    def _propose(self) -> Pairings:
        results, orders, seed = self._results, self._orders, self._seed
        size = round_size(results.strategies, results.verdicts)
        match self._format:
            case "round_robin":
                return propose_round_robin(results, orders)
            case "single_elimination":
                return play_waves(results, single_elimination, orders, seed)
            case "double_elimination":
                return play_waves(results, double_elimination, orders, seed)
            case "swiss":
                return play_waves(results, swiss, orders, seed)
            case "successive_halving":
                return propose_halving(results, self.posterior, orders, seed)
            case "information_gain":
                return propose_information(results, self.posterior, size, orders)
            case "auto":
                return propose_auto(results, self.posterior, self.reading, self.goal, size, orders, seed)

    def _propose_late(self) -> Pairings:
        size = round_size(self._results.strategies, self._results.verdicts)
        return propose_newcomers(self._results, self.posterior, self._late, size, self._orders)

    def _identical(self, table: Pairings) -> np.ndarray:
        answers = self.field.answers
        return answers[table[:, 0], table[:, 2]] == answers[table[:, 1], table[:, 2]]

    def _resume(self, past: list[Result]) -> None:
        """Goes on from results of earlier rounds; those of the last one may be incomplete."""
        known = sorted((r for r in past if self._knows(r.match)), key=lambda r: (r.match.round, r.match.slot))
        self.round = max((r.match.round for r in known), default=0)
        earlier = groupby([r for r in known if r.match.round < self.round], key=lambda r: r.match.round)
        for number, results in earlier:
            if number == self.round - 1:
                self._was_sure = self._is_sure()
                self._posterior = self._reading = None
            self._add(list(results))
        self._open_round()
        last = [r for r in known if r.match.round == self.round]
        asked = [(slot, r) for r in last if (slot := self._slot(r.match)) is not None]
        if len(asked) == len(last):
            for slot, result in asked:
                self._tell(slot, result)
        else:
            # Another format or field asked for them, or other requests: evidence, and what is next follows from it.
            self._add(last)
            self.round += 1
            self._stop, self._ties = None, []
            self._posterior = self._reading = None
            self._open_round()
        self._advance()

    def _knows(self, match: Match) -> bool:
        return match.a in self._strategy and match.b in self._strategy and match.request in self._request

    def _add(self, results: list[Result]) -> None:
        if results:
            rows = np.array([self._row(r.match) for r in results], dtype=np.int64)
            p_a = np.array([np.nan if r.p_a is None else r.p_a for r in results])
            self._results.add(rows, p_a, sum(r.verdicts for r in results))

    def _tell(self, slot: int, result: Result) -> None:
        self._p_a[slot] = np.nan if result.p_a is None else result.p_a
        self._cost[slot] = result.verdicts
        self._recorded[slot] = True

    def _row(self, match: Match) -> tuple[int, int, int, int]:
        return self._strategy[match.a], self._strategy[match.b], self._request[match.request], int(match.swapped)

    def _slot(self, match: Match) -> int | None:
        """Where this round asks the match, None if it does not."""
        if not self._knows(match):
            return None
        row = self._row(match)
        if match.slot < len(self._table) and tuple(self._table[match.slot]) == row:
            return match.slot
        found = np.flatnonzero((self._table == row).all(axis=1))
        return int(found[0]) if len(found) else None

    def _match(self, slot: int) -> Match:
        a, b, request, swapped = map(int, self._table[slot])
        names = self.field.strategies
        return Match(self.field.requests[request], names[a], names[b], self.round, slot, bool(swapped))

    def _playable(self, only_requests: Sequence[str] | None) -> np.ndarray | None:
        if only_requests is None:
            return None
        unknown = sorted(set(only_requests) - set(self.field.requests))
        if unknown:
            raise InputError(f"Requests {', '.join(unknown[:5])} are not in this tournament's field.")
        return np.isin(self.field.requests, list(only_requests))
