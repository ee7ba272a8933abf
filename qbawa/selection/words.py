"""Words of a text as numbers, the same in every process."""

import re
import zlib

import numpy as np

# A word; a character where a script writes no spaces between words.
_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f"
_tokens = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+").findall
# Odd multipliers, so that nothing is lost modulo 2³²; different, so that the order of words counts.
_FIRST, _SECOND, _THIRD = np.uint32(0x9E3779B1), np.uint32(0x85EBCA77), np.uint32(0xC2B2AE3D)


def normal(text: str) -> str:
    """The text without case, punctuation and spacing; one without any word as it is, stripped."""
    return " ".join(_tokens(text.lower())) or text.strip()


def word_hashes(text: str) -> np.ndarray:
    """A number for each word, in order, uint32."""
    return np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in _tokens(text.lower())], np.uint32)


def triple_hashes(text: str) -> np.ndarray:
    """A number for each three words that follow each other, each once, uint32; of fewer words one number for all."""
    words = word_hashes(text)
    if len(words) < 3:
        return np.array([zlib.crc32(normal(text).encode("utf-8", "replace"))], np.uint32)
    return np.unique(scatter(words[:-2] * _FIRST + words[1:-1] * _SECOND + words[2:] * _THIRD))


def scatter(numbers: np.ndarray) -> np.ndarray:
    """The numbers, uint32, with every bit depending on all bits."""
    numbers = numbers ^ (numbers >> np.uint32(16))
    numbers = numbers * np.uint32(0x7FEB352D)
    numbers = numbers ^ (numbers >> np.uint32(15))
    numbers = numbers * np.uint32(0x846CA68B)
    return numbers ^ (numbers >> np.uint32(16))
