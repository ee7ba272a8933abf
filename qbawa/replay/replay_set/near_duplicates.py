"""Groups of questions that hardly differ, found in bounded memory among any number of them.

Two questions are near-duplicates where about `NEAR` of their word triples are shared (Jaccard similarity, estimated by
MinHash: Broder 1997, "On the resemblance and containment of documents"; candidates by banding: Leskovec, Rajaraman &
Ullman, "Mining of Massive Datasets", ch. 3). Groups join whatever is near-duplicate, even indirectly.
"""

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from qbawa.replay.replay_set.question_text import normal, scatter, triple_hashes

NEAR = 0.6
"""Of the estimate, whose standard error is 0.04: pairs that share 0.7, leaks to `qbawa.datasets.pairs`, are met."""
BANDS, ROWS = 25, 5
TEMPLATE_SHARE, TEMPLATE_FROM = 0.2, 20
"""A triple in more than this share of at least so many texts belongs to the prompt's template, not to the question."""
_SLOTS = 1 << 20


def question_clusters(questions: pl.DataFrame, previous: pl.DataFrame | None = None) -> pl.DataFrame:
    """request_id, cluster and cluster_size of every question, in the order given.

    Columns needed: request_id, text, oldest first. A request that has a cluster in `previous` (request_id, cluster)
    keeps it, and newcomers to its group join it; a new group is named after its oldest text. Alike questions thus share
    a cluster for good, however much traffic comes.
    """
    ids, texts = questions["request_id"].to_list(), questions["text"].to_list()
    leaders = near_groups(texts)
    known: dict[str, str] = {}
    if previous is not None and not previous.is_empty():
        known = dict(previous.select("request_id", "cluster").drop_nulls().iter_rows())
    names: dict[int, str] = {}
    for request, leader in zip(ids, leaders, strict=True):
        if request in known:
            names.setdefault(leader, known[request])
    for leader in dict.fromkeys(leaders):
        names.setdefault(
            leader, f"q_{hashlib.sha256(normal(texts[leader]).encode('utf-8', 'replace')).hexdigest()[:16]}"
        )
    clusters = [known.get(request, names[leader]) for request, leader in zip(ids, leaders, strict=True)]
    frame = pl.DataFrame(
        {"request_id": ids, "cluster": clusters}, schema={"request_id": pl.String, "cluster": pl.String}
    )
    return frame.with_columns(pl.col("request_id").n_unique().over("cluster").cast(pl.Int64).alias("cluster_size"))


def near_groups(texts: Sequence[str]) -> list[int]:
    """For each text the place of the first text of its group."""
    first: dict[str, int] = {}
    leader = [first.setdefault(normal(text), place) for place, text in enumerate(texts)]
    places = list(first.values())
    signatures = _signatures([texts[place] for place in places])
    pairs = ((places[a], places[b]) for a, b in _near_pairs(signatures))
    return first_of_groups(len(leader), chain(enumerate(leader), pairs))


def first_of_groups(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """For each of `count` places the first place of its group, where the groups of every pair's two places are one."""
    edges = np.fromiter(chain.from_iterable(pairs), np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(edges), np.int8), edges.T), shape=(count, count))
    _, group = connected_components(graph, directed=False)
    _, first = np.unique(group, return_index=True)
    return [int(place) for place in first[group]]


def _signatures(texts: Sequence[str]) -> np.ndarray:
    """MinHash signatures, uint32, shape (texts, BANDS × ROWS)."""
    common = _common(texts)
    random = np.random.default_rng(20260101)
    factor = random.integers(0, 1 << 32, BANDS * ROWS, dtype=np.uint32) | np.uint32(1)
    offset = random.integers(0, 1 << 32, BANDS * ROWS, dtype=np.uint32)
    signatures = np.empty((len(texts), BANDS * ROWS), np.uint32)
    for place, text in enumerate(texts):
        triples = triple_hashes(text)
        own = triples[~common[triples % _SLOTS]]
        if not len(own):
            # Nothing but template: alike only where equal, which is settled already.
            own = np.array([zlib.crc32(normal(text).encode("utf-8", "replace"))], np.uint32)
        signatures[place] = scatter(own[:, None] * factor + offset).min(axis=0)
    return signatures


def _common(texts: Sequence[str]) -> np.ndarray:
    """Which triples, by their hash modulo _SLOTS, belong to a template; judged by about 5,000 texts evenly taken."""
    seen = np.zeros(_SLOTS, np.int32)
    if len(texts) < TEMPLATE_FROM:
        return seen > 0
    sample = texts[:: max(1, len(texts) // 5_000)]
    for text in sample:
        seen[np.unique(triple_hashes(text) % _SLOTS)] += 1
    return seen > TEMPLATE_SHARE * len(sample)


def _near_pairs(signatures: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of rows whose signatures agree in at least NEAR; of a bucket, each row with those right before it."""
    for band in range(BANDS):
        part = np.ascontiguousarray(signatures[:, band * ROWS : (band + 1) * ROWS])
        keys = part.view([("", part.dtype)] * ROWS).ravel()
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        # A bucket of n would have n² pairs; its members that truly belong together are also neighbours within three.
        for gap in (1, 2, 3):
            same = np.flatnonzero(ordered[gap:] == ordered[:-gap])
            left, right = order[same], order[same + gap]
            for begin in range(0, len(left), 50_000):
                a, b = left[begin : begin + 50_000], right[begin : begin + 50_000]
                alike = (signatures[a] == signatures[b]).mean(axis=1) >= NEAR
                yield from zip(a[alike].tolist(), b[alike].tolist(), strict=True)
