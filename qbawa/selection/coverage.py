"""Which few questions stand for many: text features, and a greedy choice that covers them."""

from collections.abc import Sequence

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

DIMENSIONS = 64
_FIT = 5_000
_CHUNK = 2_000
_words = HashingVectorizer(
    n_features=1 << 16, norm=None, alternate_sign=False, dtype=np.float32, token_pattern=r"(?u)\w+"
)


def embed(texts: Sequence[str], seed: int) -> np.ndarray:
    """Unit vectors of the texts, float32, shape (texts, ≤ DIMENSIONS): TF-IDF of words, reduced by SVD (LSA).

    Fitted on up to 5,000 texts, applied in chunks, so memory does not grow with the vocabulary. A text without words
    gets zeros.
    """
    if not texts:
        return np.zeros((0, 1), np.float32)
    sample = list(texts[:: max(1, len(texts) // _FIT)])
    counts = _words.transform(sample)
    # Only words that occur: the cost of an SVD grows with its columns, empty or not.
    words = np.unique(counts.indices)
    counts = counts[:, words]
    weigh = TfidfTransformer(sublinear_tf=True).fit(counts)
    rank = min(DIMENSIONS, len(sample) - 1, len(words) - 1)
    if rank < 2:
        return np.ones((len(texts), 1), np.float32)
    svd = TruncatedSVD(rank, random_state=seed).fit(weigh.transform(counts))
    vectors = np.empty((len(texts), rank), np.float32)
    for start in range(0, len(texts), _CHUNK):
        part = weigh.transform(_words.transform(texts[start : start + _CHUNK])[:, words])
        vectors[start : start + _CHUNK] = svd.transform(part)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norm, out=np.zeros_like(vectors), where=norm > 1e-6)


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
        free = np.ones(len(candidates), bool)
        chosen: list[int] = []
        while len(chosen) < count and free.any():
            gain = np.where(free, np.maximum(near - self._best, 0).sum(axis=1), -1.0)
            place = int(gain.argmax())
            free[place] = False
            self._best = np.maximum(self._best, near[place])
            chosen.append(place)
        return chosen
