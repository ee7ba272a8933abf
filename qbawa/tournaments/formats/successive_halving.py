"""Successive halving: all play a little, the better half plays on, and so on down to two.

As a format each stage of a pass costs the same, so the better half plays twice as much each; each pass costs twice the
one before and starts from all again, led by what is known, so that there is an answer at any time and early misfortune
is corrected. Karnin, Koren, Somekh 2013 (ICML), with the posterior's ranking in place of raw means.
"""

from __future__ import annotations

import numpy as np

from qbawa.tournaments.formats.information_gain import place
from qbawa.tournaments.formats.posterior import Posterior
from qbawa.tournaments.formats.results_table import NO_PAIRINGS, Pairings, Results

# Verdicts of a stage in the first pass, per strategy of the field: all N play four matches, then N/2 eight, …
_FIRST_STAGE = 2

# Matches that a strategy plays in each stage of the opening that it reaches.
_OPENING_MATCHES = 4


def propose_opening(results: Results, posterior: Posterior, orders: int, seed: int) -> Pairings:
    """A halving that is soon over: all play four matches, the better half four more, …: 4 N matches in all.

    NO_PAIRINGS when that many have been played.
    """
    order = np.argsort(-posterior.mean, kind="stable")
    active, played = results.strategies, results.matches
    while active > 1:
        wanted = active * _OPENING_MATCHES // 2
        if played < wanted:
            return _matchings(results, order[:active], wanted - played, orders, seed)
        played -= wanted
        active = (active + 1) // 2
    return NO_PAIRINGS


def propose_halving(results: Results, posterior: Posterior, orders: int, seed: int) -> Pairings:
    """The next round of the stage that the verdicts asked so far have reached; later stages if it has no match left."""
    n = results.strategies
    stages = _stages(n)
    per_stage, asked = _FIRST_STAGE * n, results.verdicts
    while asked >= per_stage * stages:
        asked -= per_stage * stages
        per_stage *= 2
    order = np.argsort(-posterior.mean, kind="stable")
    stage, done = divmod(asked, per_stage)
    for later in range(stage, stage + stages):
        active = order[: max(2, int(np.ceil(n / 2 ** (later % stages))))]
        wanted = per_stage - done if later == stage else per_stage
        table = _matchings(results, active, wanted, orders, seed)
        if len(table):
            return table
    return _matchings(results, order, per_stage, orders, seed)


def _stages(n: int) -> int:
    return max(1, int(np.ceil(np.log2(max(2, n)))))


def _matchings(results: Results, active: np.ndarray, wanted: int, orders: int, seed: int) -> Pairings:
    """Up to `wanted` matches among the active: random perfect matchings, so that all play alike."""
    room = results.capacity(orders)
    counts = np.zeros_like(room)
    rng = np.random.default_rng([seed, results.verdicts])
    idle = 0
    while wanted > 0 and idle < 8:
        mixed = rng.permutation(active)
        half = len(mixed) // 2
        before = wanted
        for a, b in zip(mixed[:half], mixed[half : 2 * half], strict=True):
            if wanted > 0 and room[a, b] > 0:
                counts[min(a, b), max(a, b)] += 1
                room[a, b] -= 1
                room[b, a] -= 1
                wanted -= 1
        idle = idle + 1 if wanted == before else 0
    return place(results, counts, orders) if counts.any() else NO_PAIRINGS
