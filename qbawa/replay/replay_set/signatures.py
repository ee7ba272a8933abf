"""What is kept of a question, so that it can be compared with all that come after it: 125 bytes.

Two questions are near-duplicates where about `NEAR` of their word triples are shared (Jaccard similarity, estimated by
MinHash: Broder 1997, "On the resemblance and containment of documents"). Of each of the 125 smallest numbers one byte is
kept (Li & König 2010, "b-bit minwise hashing"): what chance adds to the estimate is a 256th, and is taken into account.

Signatures are only compared with those that were made with the same template.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qbawa.replay.replay_set.words import Numbers, scatter, triples_of, whole, words_of

NEAR = 0.6
"""Of the estimate, whose standard error is 0.04: pairs that share 0.7, leaks to `qbawa.datasets.pairs`, are met."""
BANDS, ROWS = 25, 5
BYTES = BANDS * ROWS
_LEAST = int(np.ceil((NEAR + (1 - NEAR) / 256) * BYTES))
"""Bytes in which two signatures must agree."""
TEMPLATE_SHARE, TEMPLATE_FROM = 0.2, 20
"""A triple in more than this share of at least so many texts belongs to the prompt's template, not to the question."""
_SLOTS = 1 << 20
_PORTION = 1 << 15
"""Triples that are hashed together: they stay in the processor's cache."""
_draw = np.random.Generator(np.random.PCG64(20260101))
_FACTORS = _draw.integers(0, 1 << 32, BYTES, dtype=np.uint32) | np.uint32(1)
_OFFSETS = _draw.integers(0, 1 << 32, BYTES, dtype=np.uint32)
_NOTHING = np.zeros(0, np.uint32)


def template_of(texts: Sequence[str]) -> np.ndarray:
    """The triples, as their numbers modulo 2²⁰, sorted, that belong to the template of these different texts."""
    if len(texts) < TEMPLATE_FROM:
        return _NOTHING
    triples = triples_of(words_of(texts))
    slots = triples.values % np.uint32(_SLOTS)
    once = np.unique(triples.owners() * _SLOTS + slots)
    seen = np.bincount(once % _SLOTS, minlength=_SLOTS)
    return np.flatnonzero(seen > TEMPLATE_SHARE * len(texts)).astype(np.uint32)


def would_differ(texts: Sequence[str], old: np.ndarray, new: np.ndarray) -> float:
    """Share of these texts of which another template would leave clearly other triples: by more than a tenth of them."""
    if np.array_equal(old, new) or not texts:
        return 0.0
    triples = triples_of(words_of(texts))
    by_old, by_new = ~_belongs(triples, old), ~_belongs(triples, new)
    owners, count = triples.owners(), len(triples)
    moved = np.bincount(owners[by_old != by_new], minlength=count)
    most = np.maximum(np.bincount(owners[by_old], minlength=count), np.bincount(owners[by_new], minlength=count))
    return float((moved > 0.1 * most).mean())


@dataclass(frozen=True, slots=True)
class Signed:
    """What is kept of some texts."""

    signatures: np.ndarray
    """uint8, shape (texts, BYTES)."""
    names: np.ndarray
    """A number for each text, int64: that of all its words in their order."""


def sign(texts: Sequence[str], template: np.ndarray) -> Signed:
    """The signature of each text, whatever the others are, and its name."""
    words = words_of(texts)
    names = whole(words)
    for place in np.flatnonzero(np.diff(words.starts) == 0).tolist():
        told = hashlib.sha256(texts[place].strip().encode("utf-8", "replace")).digest()[:8]
        names[place] = int.from_bytes(told, "little")
    triples = triples_of(words)
    own = triples.kept(~_belongs(triples, template))
    signatures = np.empty((len(texts), BYTES), np.uint8)
    bare = np.diff(own.starts) == 0
    if bare.any():
        # Nothing but template, or fewer than three words: alike only where equal.
        equal = scatter((names[bare] >> np.uint64(32)).astype(np.uint32))
        signatures[bare] = _smallest(Numbers(equal, np.arange(len(equal) + 1)))
    full = np.flatnonzero(~bare)
    begin = 0
    while begin < len(full):
        # Without the bare ones the starts of the others stand close together.
        first = int(own.starts[full[begin]])
        end = max(int(np.searchsorted(own.starts[full], first + _PORTION, "right")), begin + 1)
        some = full[begin:end]
        starts = np.append(own.starts[some], own.starts[some[-1] + 1])
        signatures[some] = _smallest(Numbers(own.values[first : starts[-1]], starts - first))
        begin = end
    return Signed(signatures, names.view(np.int64))


def alike(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Whether each pair of signatures is one of near-duplicates."""
    agree: np.ndarray = (left == right).sum(axis=1) >= _LEAST
    return agree


def _smallest(numbers: Numbers) -> np.ndarray:
    """One byte of the smallest of each text's numbers under each of BYTES permutations; every text has a number."""
    found = np.empty((BYTES, len(numbers)), np.uint32)
    buffer = np.empty_like(numbers.values)
    starts = numbers.starts[:-1]
    for k in range(BYTES):
        np.multiply(numbers.values, _FACTORS[k], out=buffer)
        np.add(buffer, _OFFSETS[k], out=buffer)
        np.minimum.reduceat(buffer, starts, out=found[k])
    return (scatter(found) >> np.uint32(24)).astype(np.uint8).T


def _belongs(triples: Numbers, template: np.ndarray) -> np.ndarray:
    common = np.zeros(_SLOTS, bool)
    common[template] = True
    return common[triples.values % np.uint32(_SLOTS)]
