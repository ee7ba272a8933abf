"""The words of many texts as numbers, found for all of them at once: what signatures and vectors of questions are made of.

The numbers are the same on every machine and in every version: what is computed from them is kept in the lake.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_PORTION = 1 << 20
"""Characters that are looked at together; working on one takes some 40 bytes."""
# A character of a script without spaces between words is a word by itself.
_UNSPACED = ((0x0E00, 0x0E7F), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0xAC00, 0xD7AF))
_SEPARATOR, _LETTER, _ALONE, _UNKNOWN = range(4)
_kinds = np.full(0x110000, _UNKNOWN, np.uint8)
"""Of every character, as far as it has been met."""
# Odd, so that nothing is lost modulo 2⁶⁴ and 2³²; three that differ, so that the order of words counts.
_BASE = 0x9E3779B97F4A7C15
_FIRST, _SECOND, _THIRD = np.uint32(0x9E3779B1), np.uint32(0x85EBCA77), np.uint32(0xC2B2AE3D)


@dataclass(frozen=True, slots=True)
class Numbers:
    """Some numbers for each of several texts: those of text k are `values[starts[k]:starts[k + 1]]`, uint32."""

    values: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def kept(self, which: np.ndarray) -> "Numbers":
        """Without the numbers for which `which` is false."""
        return Numbers(self.values[which], np.concatenate([[0], np.cumsum(which)])[self.starts])

    def owners(self) -> np.ndarray:
        """For each number the place of its text."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))


def words_of(texts: Sequence[str]) -> Numbers:
    """A number for each word of each text, in order; a word is a run of letters, digits and `_`, whatever its case."""
    parts = [_words([text.lower() for text in portion]) for portion in _portions(texts)]
    counts = np.concatenate([[0], *(np.diff(part.starts) for part in parts)])
    return Numbers(np.concatenate([np.zeros(0, np.uint32), *(part.values for part in parts)]), np.cumsum(counts))


def triples_of(words: Numbers) -> Numbers:
    """A number for each three words that follow each other; none for a text of fewer. One may come twice."""
    values = words.values
    if len(values) < 3:
        return Numbers(values[:0], np.zeros_like(words.starts))
    runs = scatter(values[:-2] * _FIRST + values[1:-1] * _SECOND + values[2:] * _THIRD)
    # The last two words of a text begin a triple that ends in the next one.
    inside = np.ones(len(values), bool)
    for back in (1, 2):
        ends = words.starts[1:] - back
        inside[ends[ends >= words.starts[:-1]]] = False
    found = Numbers(np.concatenate([runs, values[:2]]), words.starts)
    return found.kept(inside)


def whole(words: Numbers) -> np.ndarray:
    """A number for each text, made of all its words in their order, uint64; 0 for a text without any."""
    powers, inverse = _powers(len(words.values) + 1)
    sums = np.concatenate([[np.uint64(0)], np.cumsum((words.values.astype(np.uint64) + np.uint64(1)) * powers[:-1])])
    starts, ends = words.starts[:-1], words.starts[1:]
    return mixed((sums[ends] - sums[starts]) * inverse[starts])


def exact(texts: Sequence[str]) -> np.ndarray:
    """A number for each text, uint64, that is another one where a single character is."""
    parts = [np.zeros(0, np.uint64)]
    for portion in _portions(texts):
        codes = np.frombuffer("".join(portion).encode("utf-32-le", "surrogatepass"), np.uint32)
        ends = np.cumsum([0, *map(len, portion)])
        powers, inverse = _powers(len(codes) + 1)
        sums = np.concatenate([[np.uint64(0)], np.cumsum((codes.astype(np.uint64) + np.uint64(1)) * powers[:-1])])
        parts.append(mixed((sums[ends[1:]] - sums[ends[:-1]]) * inverse[ends[:-1]]))
    return np.concatenate(parts)


def scatter(numbers: np.ndarray) -> np.ndarray:
    """The numbers, uint32, with every bit depending on all bits."""
    numbers = numbers ^ (numbers >> np.uint32(16))
    numbers = numbers * np.uint32(0x7FEB352D)
    numbers = numbers ^ (numbers >> np.uint32(15))
    numbers = numbers * np.uint32(0x846CA68B)
    return numbers ^ (numbers >> np.uint32(16))


def _portions(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    begin = size = 0
    for place, text in enumerate(texts):
        size += len(text)
        if size > _PORTION:
            yield texts[begin : place + 1]
            begin, size = place + 1, 0
    if begin < len(texts):
        yield texts[begin:]


def _words(texts: Sequence[str]) -> Numbers:
    # A blank after each text keeps its last word from the next one's first.
    joined = " ".join([*texts, ""])
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _kinds[codes]
    if (kinds == _UNKNOWN).any():
        for code in np.unique(codes[kinds == _UNKNOWN]).tolist():
            _kinds[code] = _kind(code)
        kinds = _kinds[codes]
    before = np.concatenate([[_SEPARATOR], kinds[:-1]])
    begins = np.flatnonzero((kinds == _ALONE) | ((kinds == _LETTER) & (before != _LETTER)))
    after = np.concatenate([kinds[1:], [_SEPARATOR]])
    ends = np.flatnonzero((kinds == _ALONE) | ((kinds == _LETTER) & (after != _LETTER))) + 1
    # A polynomial of the characters modulo 2⁶⁴, by differences of running sums: the same wherever the word stands.
    powers, inverse = _powers(len(codes) + 1)
    sums = np.concatenate([[np.uint64(0)], np.cumsum(codes.astype(np.uint64) * powers[:-1])])
    values = _folded((sums[ends] - sums[begins]) * inverse[begins])
    places = np.cumsum([0, *(len(text) + 1 for text in texts)])
    return Numbers(values, np.searchsorted(begins, places))


def _kind(code: int) -> int:
    if any(low <= code <= high for low, high in _UNSPACED):
        return _ALONE
    return _LETTER if chr(code).isalnum() or code == ord("_") else _SEPARATOR


_known_powers: tuple[np.ndarray, np.ndarray] = (np.zeros(0, np.uint64), np.zeros(0, np.uint64))


def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first powers of _BASE modulo 2⁶⁴, and of its inverse."""
    global _known_powers
    if len(_known_powers[0]) < count:
        room = max(count, 2 * len(_known_powers[0]), 1 << 16)
        bases = (_BASE, pow(_BASE, -1, 1 << 64))
        made = [np.cumprod(np.full(room, base, np.uint64)) for base in bases]
        one = np.ones(1, np.uint64)
        _known_powers = np.concatenate([one, made[0]]), np.concatenate([one, made[1]])
    return _known_powers[0][:count], _known_powers[1][:count]


def mixed(numbers: np.ndarray) -> np.ndarray:
    """The numbers, uint64, with every bit depending on all bits (Stafford's variant 13 of MurmurHash3's finaliser)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _folded(numbers: np.ndarray) -> np.ndarray:
    return (mixed(numbers) >> np.uint64(32)).astype(np.uint32)
