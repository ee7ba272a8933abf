"""Round robin: everyone meets everyone on each request. The yardstick: unbiased whatever the judge does, and expensive.

Played by the circle method, a slot at a time: one turn of the circle (everyone once, one sits out where N is odd) on
one request. Each request starts at a turn of its own, so that strategies, pairs and requests fill up evenly and the
table is fair long before it is complete.
"""

from __future__ import annotations

import numpy as np

from qbawa.tournaments.formats.results_table import NO_PAIRINGS, Pairings, Results

# Slots that open at once, as a share of those played.
_GROWTH = 0.10


def propose_round_robin(results: Results, orders: int) -> Pairings:
    """All matches not yet asked in the next slots of the schedule."""
    turns, playable = _turns(results.strategies), np.flatnonzero(results.playable)
    slots = orders * turns * len(playable)
    while results.slots_done < slots:
        size = max(1, round(_GROWTH * results.slots_done))
        wave = range(results.slots_done, min(slots, results.slots_done + size))
        table = np.concatenate([_slot(results, slot, turns, playable) for slot in wave])
        if len(table):
            return table
        results.slots_done = wave.stop
    return NO_PAIRINGS


def _slot(results: Results, slot: int, turns: int, playable: np.ndarray) -> Pairings:
    order, rest = divmod(slot, turns * len(playable))
    turn, position = divmod(rest, len(playable))
    request = int(playable[position])
    a, b = _turn(results.strategies, (turn + request) % turns)
    present = results.field.present[:, request]
    wanted = present[a] & present[b] & ~results.asked_on(request + order * results.requests)[a, b]
    a, b = a[wanted], b[wanted]
    return np.stack([a, b, np.full_like(a, request), np.full_like(a, order)], axis=1)


def _turns(n: int) -> int:
    return n - 1 + n % 2


def _turn(n: int, turn: int) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of one turn of the circle as (low, high) indices: all that add up to the turn, modulo its length."""
    turns = _turns(n)
    one = np.arange(turns)
    other = (turn - one) % turns
    # The one that would meet itself meets the last strategy, who stands at the centre; where N is odd, nobody.
    centre = one == other
    other = np.where(centre, n - 1 if n % 2 == 0 else one, other)
    keep = centre if n % 2 == 0 else np.zeros(turns, dtype=bool)
    keep = keep | (one < other) & ~centre
    return np.minimum(one, other)[keep], np.maximum(one, other)[keep]
