"""Ask what teaches most: choosing the next matches by what they would tell, on the Bradley–Terry posterior.

`information_gain` wants to know all strengths equally well: each next match is the one with the largest expected
information, ½·log(1 + h·Var(s_a − s_b)), h the Fisher information of a verdict. `choose_contrasts` serves a goal: it takes the
comparisons that the goal hangs on and the matches that shrink their variance most (A-optimal design of contrasts;
Pukelsheim 2006). Both choose a batch greedily with rank-one updates of the covariance, as if each verdict was in.
"""

from __future__ import annotations

import numpy as np

from qbawa.tournaments.formats.goals import Reading
from qbawa.tournaments.formats.posterior import Posterior
from qbawa.tournaments.formats.results_table import NO_PAIRINGS, Pairings, Results

# A strategy matters to the goal if it carries at least this share of the doubt that the most doubtful one carries.
_HANGS_ON = 0.01

# Steps of the greedy choice in one batch; larger batches ask for several verdicts a step.
_STEPS = 48


def propose_information(results: Results, posterior: Posterior, size: int, orders: int) -> Pairings:
    """The next `size` matches by expected information about all strengths."""
    return _greedy(results, posterior, None, results.capacity(orders), size, orders)


def propose_newcomers(results: Results, posterior: Posterior, late: np.ndarray, size: int, orders: int) -> Pairings:
    """The next `size` matches by expected information among those in which one of the `late` strategies plays."""
    room = np.where(late[:, None] | late, results.capacity(orders), 0)
    return _greedy(results, posterior, None, room, size, orders)


def choose_contrasts(results: Results, posterior: Posterior, reading: Reading, size: int, orders: int) -> Pairings:
    """The next `size` matches by what they contribute to settling the goal's open comparisons.

    None where the strategies that the goal hangs on have met everyone everywhere: matches among the others would cost
    verdicts and change nothing.
    """
    doubt = reading.doubt
    share = doubt.sum(axis=1)
    open_ = share >= _HANGS_ON * share.max()
    room = np.where(open_[:, None] | open_, results.capacity(orders), 0)
    return _greedy(results, posterior, np.diag(share) - doubt, room, size, orders)


def _greedy(
    results: Results, posterior: Posterior, contrasts: np.ndarray | None, room: np.ndarray, size: int, orders: int
) -> Pairings:
    """Up to `size` matches, at most room[a, b] of each pair.

    `contrasts` K is the weighted sum of c·cᵀ over the comparisons to settle; the aim is the trace of K·covariance.
    None: all strengths alike.
    """
    n = results.strategies
    information = posterior.information() * np.where(results.fresh(), 1.0, posterior.second_order)
    covariance = posterior.covariance.copy()
    aim = None if contrasts is None else covariance @ contrasts @ covariance
    each = max(1, size // _STEPS)
    counts = np.zeros((n, n), dtype=np.int64)
    left = size
    while left > 0:
        variance = np.diag(covariance)
        gap = variance[:, None] + variance[None, :] - 2 * covariance
        if aim is None:
            gain = information * gap
        else:
            along = np.diag(aim)
            gain = information / (1 + information * gap) * (along[:, None] + along[None, :] - 2 * aim)
        gain = np.where(room > 0, gain, -1.0)
        a, b = np.unravel_index(int(gain.argmax()), gain.shape)
        if gain[a, b] < 0:
            break
        take = int(min(each, left, room[a, b]))
        counts[min(a, b), max(a, b)] += take
        room[a, b] -= take
        room[b, a] -= take
        left -= take
        h = take * information[a, b]
        v = covariance[:, a] - covariance[:, b]
        g = h / (1 + h * gap[a, b])
        if aim is not None and contrasts is not None:
            across = aim[:, a] - aim[:, b]
            inner = across[a] - across[b]
            cross = np.outer(across, v)
            aim = aim - g * (cross + cross.T) + g * g * inner * np.outer(v, v)
        covariance = covariance - g * np.outer(v, v)
    return place(results, counts, orders)


def place(results: Results, counts: np.ndarray, orders: int) -> Pairings:
    """Gives each wanted match a request: the ones that its two strategies have met least on.

    Spreading each strategy evenly over the requests is what keeps request effects out of the comparison: once all
    requests are covered alike, only the judge's noise is left. counts[a, b] for a < b.
    """
    shown = results.shown.copy()
    r = results.requests
    load = shown[:, :r] + shown[:, r:]
    rows = []
    for a, b in np.argwhere(counts > 0):
        wanted = int(counts[a, b])
        taken: list[np.ndarray] = []
        for part in range(orders):
            round_keys = results.free_round_keys(int(a), int(b), part)
            if wanted == 0 or not len(round_keys):
                continue
            # Ties among equally used requests by a fixed hash of pair and request, not by their order.
            mixed = ((round_keys * 7919 + a * 104729 + b * 1299709) % 10007) / 10007
            used = load[a, round_keys % r] + load[b, round_keys % r]
            chosen = round_keys[np.argsort(used + mixed, kind="stable")[:wanted]]
            np.add.at(load[a], chosen % r, 1)
            np.add.at(load[b], chosen % r, 1)
            taken.append(chosen)
            wanted -= len(chosen)
        for chosen in taken:
            rows.append(np.stack([np.full(len(chosen), a), np.full(len(chosen), b), chosen % r, chosen // r], axis=1))
    return np.concatenate(rows).astype(np.int64) if rows else NO_PAIRINGS
