"""Single and double elimination: a bracket per request, drawn at random. An odd one out has a bye; a tie goes by the draw."""

from __future__ import annotations

from qbawa.tournaments.formats.per_request import advances
from qbawa.tournaments.formats.results_table import Results


def single_elimination(results: Results, round_key: int, entrants: list[int]) -> list[tuple[int, int]]:
    """The next matches of a knock-out bracket; who loses is out. N − 1 matches in ⌈log2 N⌉ rounds."""
    alive = list(entrants)
    while len(alive) > 1:
        pairs, bye = _pair_up(alive)
        wanted, alive = _play(results, round_key, pairs)
        if wanted:
            return wanted
        alive = alive + bye
    return []


def double_elimination(results: Results, round_key: int, entrants: list[int]) -> list[tuple[int, int]]:
    """The next matches of a bracket in which the second defeat is the end. At most 2N − 2 matches.

    Losers of the winners' bracket drop into the losers' bracket, whose survivor meets the winner in the final. A
    deciding second final would be the same pair on the same request, so there is none: the final decides. Where two
    losers met already, they do not meet again: the earlier match counts.
    """
    winners = list(entrants)
    losers: list[int] = []
    while len(winners) > 1 or len(losers) > 1:
        upper, upper_bye = _pair_up(winners) if len(winners) > 1 else ([], winners)
        lower, lower_bye = _pair_up(losers) if len(losers) > 1 else ([], losers)
        upper_wanted, upper_on = _play(results, round_key, upper)
        lower_wanted, lower_on = _play(results, round_key, lower)
        if upper_wanted or lower_wanted:
            return upper_wanted + lower_wanted
        dropped = [loser for pair in upper for loser in pair if loser not in upper_on]
        winners, losers = upper_on + upper_bye, lower_on + lower_bye + dropped
    if winners and losers:
        return _play(results, round_key, [(winners[0], losers[0])])[0]
    return []


def _pair_up(alive: list[int]) -> tuple[list[tuple[int, int]], list[int]]:
    """First against last, and so on inwards; an odd one out: the first has a bye, and stands last next."""
    bye = alive[:1] if len(alive) % 2 else []
    playing = alive[len(bye) :]
    half = len(playing) // 2
    return list(zip(playing[:half], reversed(playing[half:]), strict=True)), bye


def _play(results: Results, round_key: int, pairs: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], list[int]]:
    """(matches still to be asked, winners of the pairs that were)."""
    wanted, winners = [], []
    for a, b in pairs:
        won = advances(results, a, b, round_key)
        if won is None:
            wanted.append((a, b))
        else:
            winners.append(a if won else b)
    return wanted, winners
