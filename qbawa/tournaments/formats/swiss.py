"""Swiss: on each request ⌈log2 N⌉ rounds among equals; nobody is out, nobody meets twice."""

from __future__ import annotations

import numpy as np

from qbawa.tournaments.formats.results_table import Results


def swiss(results: Results, round_key: int, entrants: list[int]) -> list[tuple[int, int]]:
    """The next round's matches: neighbours by score so far, ties in score by the draw; an odd one out has a bye (a win).

    The bye goes to the lowest without one; a strategy that has met everyone left sits out (a draw for it).
    """
    field = entrants
    drawn = {e: k for k, e in enumerate(field)}
    score = dict.fromkeys(field, 0.0)
    met: set[tuple[int, int]] = set()
    had_bye: set[int] = set()
    for _ in range(int(np.ceil(np.log2(len(field)))) if len(field) > 1 else 0):
        table = sorted(field, key=lambda e: (-score[e], drawn[e]))
        if len(table) % 2:
            bye = next((e for e in reversed(table) if e not in had_bye), table[-1])
            table.remove(bye)
            had_bye.add(bye)
            score[bye] += 1.0
        pairs, idle = _pair(table, met)
        wanted = []
        for a, b in pairs:
            p = results.outcome(a, b, round_key)
            if p is None:
                wanted.append((a, b))
                continue
            score[a] += p
            score[b] += 1 - p
        if wanted:
            return wanted
        met |= {(min(a, b), max(a, b)) for a, b in pairs}
        for e in idle:
            score[e] += 0.5
    return []


def _pair(table: list[int], met: set[tuple[int, int]]) -> tuple[list[tuple[int, int]], list[int]]:
    """Each, from the top, with the nearest below that it has not met: (pairs, those left over)."""
    waiting, pairs, idle = list(table), [], []
    while waiting:
        a = waiting.pop(0)
        partner = next((b for b in waiting if (min(a, b), max(a, b)) not in met), None)
        if partner is None:
            idle.append(a)
        else:
            waiting.remove(partner)
            pairs.append((a, partner))
    return pairs, idle
