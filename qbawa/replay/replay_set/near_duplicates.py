"""Groups of questions that hardly differ, found in bounded memory among any number of them, by their signatures.

Pairs to compare are found by banding (Leskovec, Rajaraman & Ullman, "Mining of Massive Datasets", ch. 3): five bytes of two
signatures agree at one of 25 places. Groups join whatever is near-duplicate, even indirectly.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np

from qbawa.replay.replay_set.signatures import BANDS, BYTES, ROWS, alike

_A_KEY = 8
"""Of those known before that share a band with a newcomer, so many are compared with it: of each cluster a few."""
_A_CLUSTER = 3
_PAIRS = 50_000
"""Pairs that are compared at once."""
_PROBED = 1 << 14
"""Signatures that are looked through at once: they stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Which cluster each newcomer belongs to, and what that joins."""

    clusters: np.ndarray
    """int64."""
    joins: list[list[int]]
    """Clusters known before that are one with the newcomer's by now; stands with the first newcomer that shows it."""


class Newcomers:
    """Signatures of one step, oldest first, that are given clusters: show it what is known (`meet`), then ask (`groups`)."""

    def __init__(self, signatures: np.ndarray, names: np.ndarray) -> None:
        """`names`: what a newcomer's cluster is called where nothing is like it, int64."""
        self._names = names
        whole = np.ascontiguousarray(signatures).view(f"V{BYTES}").ravel()
        _, first, self._of = np.unique(whole, return_index=True, return_inverse=True)
        self._first = first
        self._distinct = signatures[first]
        self._keys = [np.sort(_band(self._distinct, band)) for band in range(BANDS)]
        self._order = [np.argsort(_band(self._distinct, band), kind="stable") for band in range(BANDS)]
        # Most of what is known shares no band: told by the beginnings of bands, of which many more exist than are here.
        self._bits = 16 if len(first) < 5_000 else 20
        self._flags = np.zeros((BANDS, 1 << self._bits), bool)
        for band in range(BANDS):
            self._flags[band][_beginning(self._distinct, band, self._bits)] = True
        self._links: set[tuple[int, int]] = set()

    def meet(self, signatures: np.ndarray, clusters: np.ndarray) -> None:
        """Compare with some that have clusters already."""
        for start in range(0, len(signatures), _PROBED):
            part = signatures[start : start + _PROBED]
            for band in range(BANDS):
                near = np.flatnonzero(np.take(self._flags[band], _beginning(part, band, self._bits)))
                if len(near):
                    self._compare(band, part, near, clusters[start : start + _PROBED])

    def groups(self, together: Mapping[int, int]) -> Groups:
        """The clusters of all newcomers, once everything known has been met; `together`: clusters that are one, by number."""
        joined = Union()
        links = {(place, together.get(cluster, cluster)) for place, cluster in self._links}
        for place, cluster in sorted(links):
            joined.link(("new", place), ("known", cluster))
        for a, b in _near_pairs(self._distinct):
            joined.link(("new", a), ("new", b))
        known: dict[object, list[int]] = {}
        for cluster in sorted({cluster for _, cluster in links}):
            known.setdefault(joined.find(("known", cluster)), []).append(cluster)
        clusters = np.empty(len(self._of), np.int64)
        joins: list[list[int]] = [[] for _ in clusters]
        named: dict[object, int] = {}
        for place, distinct in enumerate(self._of.tolist()):
            group = joined.find(("new", distinct))
            if group not in named:
                found = known.get(group, [int(self._names[place])])
                named[group], joins[place] = found[0], found[1:]
            clusters[place] = named[group]
        return Groups(clusters, joins)

    def _compare(self, band: int, signatures: np.ndarray, near: np.ndarray, clusters: np.ndarray) -> None:
        keys = _band(signatures, band, near)
        low = np.searchsorted(self._keys[band], keys)
        met = np.flatnonzero(self._keys[band][np.minimum(low, len(self._distinct) - 1)] == keys)
        if not len(met):
            return
        keys, low, near = keys[met], low[met], near[met]
        high = np.searchsorted(self._keys[band], keys, "right")
        order = np.lexsort((clusters[near], keys))
        order = order[_rank(keys[order], clusters[near[order]]) < _A_CLUSTER]
        order = order[_rank(keys[order]) < _A_KEY]
        counts = (high - low)[order]
        old = np.repeat(near[order], counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        new = self._order[band][np.repeat(low[order], counts) + within]
        for begin in range(0, len(new), _PAIRS):
            a, b = new[begin : begin + _PAIRS], old[begin : begin + _PAIRS]
            same = alike(self._distinct[a], signatures[b])
            self._links.update(zip(a[same].tolist(), clusters[b[same]].tolist(), strict=True))


class Union:
    """Things that are joined pair by pair."""

    def __init__(self) -> None:
        self._above: dict[object, object] = {}

    def link(self, a: object, b: object) -> None:
        """Make both one, with all that they are one with."""
        first, second = self.find(a), self.find(b)
        if first != second:
            self._above[second] = first

    def find(self, thing: object) -> object:
        """What stands for all that this is one with."""
        top = thing
        while top in self._above:
            top = self._above[top]
        while thing != top:
            self._above[thing], thing = top, self._above[thing]
        return top


def first_of_groups(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """For each of `count` places the first place of its group, where the groups of every pair's two places are one."""
    # Slow to import, and worth it for many pairs.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = np.fromiter(chain.from_iterable(pairs), np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(edges), np.int8), edges.T), shape=(count, count))
    _, group = connected_components(graph, directed=False)
    _, first = np.unique(group, return_index=True)
    return [int(place) for place in first[group]]


def _near_pairs(signatures: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of rows that are near-duplicates; of a bucket, each row with those right before it."""
    for band in range(BANDS):
        keys = _band(signatures, band)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        # A bucket of n would have n² pairs; its members that truly belong together are also neighbours within three.
        for gap in (1, 2, 3):
            same = np.flatnonzero(ordered[gap:] == ordered[:-gap])
            left, right = order[same], order[same + gap]
            for begin in range(0, len(left), _PAIRS):
                a, b = left[begin : begin + _PAIRS], right[begin : begin + _PAIRS]
                near = alike(signatures[a], signatures[b])
                yield from zip(a[near].tolist(), b[near].tolist(), strict=True)


def _band(signatures: np.ndarray, band: int, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    """The five bytes of one band of these rows as one number, uint64."""
    found = signatures[rows, band * ROWS].astype(np.uint64)
    for place in range(band * ROWS + 1, (band + 1) * ROWS):
        found = (found << np.uint64(8)) | signatures[rows, place]
    return found


def _beginning(signatures: np.ndarray, band: int, bits: int) -> np.ndarray:
    """So many bits of each of them, 16 or up to 32; of 16 no copy is made."""
    rows = np.ascontiguousarray(signatures)
    if not len(rows):
        return np.zeros(0, np.uint16)
    found = np.ndarray(len(rows), "<u2" if bits == 16 else "<u4", rows, offset=band * ROWS, strides=(BYTES,))
    return found if bits == 16 else found & np.uint32((1 << bits) - 1)


def _rank(*keys: np.ndarray) -> np.ndarray:
    """For each place the number of places before it with the same keys; equal ones stand together."""
    count = len(keys[0])
    new = np.ones(count, bool)
    new[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    begins = np.flatnonzero(new)
    ranks: np.ndarray = np.arange(count) - np.repeat(begins, np.diff([*begins, count]))
    return ranks
