"""The words of a question: what distinguishes one request to a step from another; and words as numbers."""

import re
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import polars as pl

MAX_CHARS = 4_000
"""Of a longer question, its beginning and its end count."""

# A word; a character where a script writes no spaces between words.
_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f"
_tokens = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+").findall
# Odd multipliers, so that nothing is lost modulo 2³²; different, so that the order of words counts.
_FIRST, _SECOND, _THIRD = np.uint32(0x9E3779B1), np.uint32(0x85EBCA77), np.uint32(0xC2B2AE3D)


def question_texts(recordings: pl.DataFrame) -> list[str]:
    """For each recording the text values of its inputs; where it has none, of its messages but for the system's.

    Columns needed: inputs, messages. At most `MAX_CHARS` characters each.
    """
    return [question_text(*row) for row in recordings.select("inputs", "messages").iter_rows()]


def question_text(inputs: str | None, messages: str | None) -> str:
    """The words of one question, from the JSON texts of its inputs and messages."""
    text = " ".join(_leaves(_decode(inputs)))
    if not text:
        said = _decode(messages)
        spoken = (
            [m for m in said if not (isinstance(m, dict) and m.get("role") in _SYSTEM)]
            if isinstance(said, list)
            else said
        )
        text = " ".join(_leaves(spoken))
    return text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS // 2]} {text[-MAX_CHARS // 2 :]}"


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


_SYSTEM = ("system", "developer")
# Words of the message format, not of the question.
_FORMAT_KEYS = frozenset({"role", "type", "id", "tool_call_id", "detail"})


def _decode(text: str | None) -> Any:
    try:
        return msgspec.json.decode(text) if text else None
    except (msgspec.DecodeError, RecursionError):
        return text


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in _FORMAT_KEYS or not isinstance(inner, str):
                yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif value is not None:
        yield str(value)
