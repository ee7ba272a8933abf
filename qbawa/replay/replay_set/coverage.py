"""Which few questions stand for many: text features, and a greedy choice that covers them."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix
from threadpoolctl import ThreadpoolController

from qbawa.replay.replay_set.words import words_of

# Matrices are narrow; BLAS threads that wait for one another on busy cores cost ten times the work.
ONE_BLAS_THREAD = ThreadpoolController()
DIMENSIONS = 64
_FIT = 5_000
_CHUNK = 2_000
_SLOTS = np.uint32(1 << 18)


def embed(texts: Sequence[str], seed: int) -> np.ndarray:
    """Unit vectors of the texts, float32, shape (texts, ≤ DIMENSIONS): TF-IDF of words, reduced by SVD (LSA).

    Fitted on about 5,000 texts, applied in chunks, so memory does not grow with the vocabulary. A text without words
    that others have gets zeros.
    """
    sample = _counts(list(texts[:: max(1, len(texts) // _FIT)]))
    words = np.unique(sample.indices)
    rank = min(DIMENSIONS, sample.shape[0] - 1, len(words) - 1)
    if rank < 2:
        return np.ones((len(texts), 1), np.float32)
    frequency = np.bincount(sample.indices, minlength=int(_SLOTS))[words]
    weights = np.log((1 + sample.shape[0]) / (1 + frequency)) + 1
    with ONE_BLAS_THREAD.limit(limits=1, user_api="blas"):
        axes = _principal_axes(_weighted(sample, words, weights), rank, seed)
    vectors = np.empty((len(texts), rank), np.float32)
    for start in range(0, len(texts), _CHUNK):
        vectors[start : start + _CHUNK] = _weighted(_counts(texts[start : start + _CHUNK]), words, weights) @ axes
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norm, out=np.zeros_like(vectors), where=norm > 1e-6)


def _counts(texts: Sequence[str]) -> csr_matrix:
    """How often each word stands in each text, damped (1 + log), shape (texts, _SLOTS)."""
    words = words_of(texts)
    slots, often = np.unique(words.owners() * int(_SLOTS) + words.values % _SLOTS, return_counts=True)
    ends = np.searchsorted(slots, np.arange(len(texts) + 1) * int(_SLOTS))
    return csr_matrix((1 + np.log(often), slots % int(_SLOTS), ends), shape=(len(texts), int(_SLOTS)))


def _weighted(counts: csr_matrix, words: np.ndarray, weights: np.ndarray) -> csr_matrix:
    """TF-IDF of the known words, each row of length 1."""
    known = csr_matrix(counts[:, words].multiply(weights))
    norm = np.sqrt(known.multiply(known).sum(axis=1)).A1
    return csr_matrix(known.multiply(1 / np.where(norm > 0, norm, 1.0)[:, None]))


def _principal_axes(rows: csr_matrix, rank: int, seed: int) -> np.ndarray:
    """The first right singular vectors, shape (columns, rank): randomised subspace iteration.

    Halko, Martinsson & Tropp 2011, SIAM Review 53(2), algorithms 4.4 and 5.1. scikit-learn has the same, but its import
    alone costs 3 CPU seconds in every process.
    """
    random = np.random.default_rng(seed)
    span = np.linalg.qr(rows @ random.standard_normal((rows.shape[1], min(rank + 10, *rows.shape))))[0]
    for _ in range(4):
        span = np.linalg.qr(rows @ np.linalg.qr(rows.T @ span)[0])[0]
    axes: np.ndarray = np.linalg.svd((rows.T @ span).T, full_matrices=False)[2]
    return axes[:rank].T


class Cover:
    """A growing choice of questions that stands for `points`, unit vectors of shape (points, dimensions).

    The measure is facility location: the sum over points of the similarity to the nearest chosen one. Its greedy choice
    reaches at least 1 − 1/e of the best possible (Nemhauser, Wolsey & Fisher 1978, Mathematical Programming 14), takes
    dense regions first and outlying ones after, and only ever adds.
    """

    def __init__(self, points: np.ndarray) -> None:
        self._points = points
        self._best = np.zeros(len(points), np.float32)

    def add(self, vectors: np.ndarray) -> None:
        """Count these as chosen."""
        for start in range(0, len(vectors), 1_000):
            near = vectors[start : start + 1_000] @ self._points.T
            self._best = np.maximum(self._best, near.max(axis=0, initial=0.0))

    def choose(self, candidates: np.ndarray, count: int) -> list[int]:
        """Places of up to `count` candidates, the most telling first; they then count as chosen."""
        near = candidates @ self._points.T
        # What one adds only falls as others are chosen, so that few have to be looked at again for each (Minoux 1978,
        # "Accelerated greedy algorithms for maximizing submodular set functions").
        gain = np.maximum(near - self._best, 0).sum(axis=1) if len(near) else np.zeros(0)
        chosen: list[int] = []
        while len(chosen) < min(count, len(candidates)):
            place, found = int(gain.argmax()), -1
            while place != found:
                gain[place] = np.maximum(near[place] - self._best, 0).sum()
                place, found = int(gain.argmax()), place
            gain[place] = -1.0
            self._best = np.maximum(self._best, near[place])
            chosen.append(place)
        return chosen


def exchanges(
    points: np.ndarray, chosen: np.ndarray, may_go: np.ndarray, candidates: np.ndarray, count: int
) -> list[tuple[int, int]]:
    """Up to `count` pairs (place in `chosen` that goes, place in `candidates` that comes), the most telling first.

    `may_go` says of each chosen one whether it may. Each pair adds to the cover of `points` at least twice what it takes:
    one that gains next to nothing is not worth the answers that have to be paid for it.
    """
    have, offered = chosen @ points.T, candidates @ points.T
    stays, free = np.ones(len(chosen), bool), np.ones(len(candidates), bool)
    came: list[int] = []
    found: list[tuple[int, int]] = []
    while len(found) < count and (stays & may_go).any() and free.any():
        now = np.concatenate([np.zeros((2, len(points)), np.float32), have[stays], offered[came]])
        best, second = np.partition(now, -2, axis=0)[-2:][::-1]
        gain = np.where(free, np.maximum(offered - best, 0).sum(axis=1), -1.0)
        comes = int(gain.argmax())
        with_it = np.maximum(best, offered[comes])
        # Without one of the chosen, its points fall to the nearest of the others.
        rest = np.where(have >= best, np.maximum(second, offered[comes]), with_it)
        loss = np.where(stays & may_go, (with_it - rest).sum(axis=1), np.inf)
        goes = int(loss.argmin())
        if gain[comes] <= 2 * loss[goes] or gain[comes] <= 1e-6:
            break
        stays[goes], free[comes] = False, False
        came.append(comes)
        found.append((goes, comes))
    return found
