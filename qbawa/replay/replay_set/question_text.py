"""The text of a question: what distinguishes one request to a step from another."""

from collections.abc import Iterator
from typing import Any

import msgspec
import polars as pl

MAX_CHARS = 4_000
"""Of a longer question, its beginning and its end count."""


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
