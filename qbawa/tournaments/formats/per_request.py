"""What the per-request formats share: which requests play now, and the draw of each bracket.

Round robin, elimination and Swiss play one bracket per round_key (a request in one order of showing). Round keys open in
waves, each a tenth as large as all before together, so that a tournament can stop early and still is mostly
parallel: 100 brackets take about 33 waves. Everything is derived from the results; nothing else is remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

import numpy as np

from qbawa.tournaments.formats.results_table import NO_PAIRINGS, Pairings, Results, pairings

# The matches that a round_key's bracket needs next, as (a, b), given its entrants as drawn; empty when it is decided.
Bracket = Callable[[Results, int, list[int]], list[tuple[int, int]]]

_GROWTH = 0.10


def play_waves(results: Results, bracket: Bracket, orders: int, seed: int) -> Pairings:
    """The next round of every open bracket; opens the next wave of round_keys when all open ones are decided."""
    round_keys = results.round_keys(orders)
    begun = results.begun[round_keys]
    rows = _next_matches(results, bracket, round_keys[begun], seed)
    waiting = round_keys[~begun]
    while not rows and len(waiting):
        # A round_key that needs no verdict (too few answers) opens and closes at once.
        wave, waiting = next_wave(waiting, len(round_keys))
        rows = _next_matches(results, bracket, wave, seed)
    return pairings(rows, results.requests) if rows else NO_PAIRINGS


def next_wave(waiting: np.ndarray, round_keys: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the round_keys still waiting: those that open now, and the rest."""
    size = max(1, round(_GROWTH * (round_keys - len(waiting))))
    return waiting[:size], waiting[size:]


def advances(results: Results, a: int, b: int, round_key: int) -> bool | None:
    """Whether a goes on against b, None if they have yet to play. On a tie the first named does."""
    p = results.outcome(a, b, round_key)
    return None if p is None else p >= 0.5


def _next_matches(results: Results, bracket: Bracket, round_keys: np.ndarray, seed: int) -> list[tuple[int, int, int]]:
    rows: list[tuple[int, int, int]] = []
    for round_key in map(int, round_keys):
        if round_key in results.decided:
            continue
        if round_key not in results.draws:
            results.draws[round_key] = _draw(results, round_key, seed)
        wanted = bracket(results, round_key, results.draws[round_key])
        rows += [(a, b, round_key) for a, b in wanted]
        if not wanted:
            results.decided.add(round_key)
    return rows


def _draw(results: Results, round_key: int, seed: int) -> list[int]:
    """Entrants, drawn at random: by a checksum of request and strategy, so a newcomer does not reshuffle the others."""
    order, request = divmod(round_key, results.requests)
    prefix = f"{seed}/{order}/{results.field.requests[request]}/"
    names = results.field.strategies
    return sorted(map(int, results.entrants(round_key)), key=lambda e: (crc32((prefix + names[e]).encode()), names[e]))
