"""Groups that grow together pair by pair."""

from collections.abc import Iterable, Sequence


def joined(leaders: Sequence[int], pairs: Iterable[tuple[int, int]]) -> list[int]:
    """For each place the first place of its group, once the groups of every pair's two places are one.

    `leaders` names for each place a place of its group at the start, itself or an earlier one.
    Union by the lower place with path halving: Tarjan & van Leeuwen 1984, Journal of the ACM 31(2).
    """
    leader = list(leaders)

    def lead(place: int) -> int:
        while leader[place] != place:
            leader[place] = leader[leader[place]]
            place = leader[place]
        return place

    for a, b in pairs:
        low, high = sorted((lead(a), lead(b)))
        leader[high] = low
    return [lead(place) for place in range(len(leader))]
