"""Whether a text names a request or quotes it, however the text was escaped or shortened on its way."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson
import polars as pl

Json = Any
FORGOTTEN = "[forgotten]"
PIECE = 24
"""Characters of a piece. A quote of PIECE + STRIDE - 1 characters or more, from wherever, holds a whole one."""
STRIDE = 8
_LONGEST = 20_000
_LONG_NAME = 8
_UNICODE = re.compile(r"\\u([0-9a-fA-F]{4})")
_SPACE = re.compile(r"(?:\\[nrt]|\s)+")
_NAMES_OF_FIELDS = frozenset(
    {"__class__", "__enum__", "event_type_value", "run_id", "step_key", "job_name", "pipeline_name"}
)
"""Of Dagster's stored objects: never somebody's words."""


class Quotes:
    """Texts that name the request `request_id` by itself, not as a part of another name, or hold one of `pieces`."""

    def __init__(self, request_id: str, pieces: Sequence[str]) -> None:
        self.request_id = request_id
        self._names = name_pattern(request_id)
        self._plain_name = name_pattern(plain(request_id))
        # Dagster's partitions write a name with `|` or NUL so (qbawa_assets.partition_keys).
        escaped = "".join(f"%{ord(c):02X}" if c in "|\0%" else c for c in request_id)
        self._key = name_pattern(escaped)
        self._pieces = sorted({piece for piece in map(plain, pieces) if piece})

    def among(self, texts: Iterable[str]) -> set[str]:
        """Those of the texts that name or quote the request."""
        distinct = list(dict.fromkeys(texts))
        simple = [plain(text) for text in distinct]
        quoting: Sequence[bool] = [False] * len(distinct)
        if self._pieces and distinct:
            quoting = pl.Series(simple, dtype=pl.String).str.contains_any(self._pieces).to_list()
        return {
            text
            for text, bare, quotes in zip(distinct, simple, quoting, strict=True)
            if quotes or self._names.search(text) or self._plain_name.search(bare) or self._key.search(text)
        }

    def in_binary(self, data: bytes) -> bool:
        """The same of a file that is no text, where a letter may only be the length of what follows."""
        text = data.decode("utf-8", "ignore")
        return bool(self.among([text])) or (len(self.request_id) >= _LONG_NAME and self.request_id in text)


def name_pattern(name: str) -> re.Pattern[str]:
    """Finds a name that stands by itself: `r1` in `request 'r1'.` and `r1|way`, not in `r10`, `r1-b` or `r1.jsonl`."""
    return re.compile(rf"(?<![\w-])(?<![\w-]\.){re.escape(name)}(?![\w-])(?!\.[\w-])")


def plain(text: str) -> str:
    """The text without what JSON, HTML and Markdown add to it, on one line."""
    if "\\u" in text:
        text = _UNICODE.sub(lambda found: chr(int(found[1], 16)), text)
    if not text.isascii():
        # Halves of characters beyond 16 bits join; one that stands alone is nobody's.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if "&" in text:
        text = html.unescape(text)
    return _SPACE.sub(" ", text).replace("\\", "").strip()


def pieces_of(text: str) -> Iterator[str]:
    """Pieces of a text such that whoever quotes enough of it quotes one; a short text is a piece itself."""
    bare = plain(text)[:_LONGEST]
    if len(bare) < PIECE + STRIDE:
        yield bare
        return
    for start in range(0, len(bare) - PIECE + 1, STRIDE):
        yield bare[start : start + PIECE]


def leaves(text: str | None) -> Iterator[str]:
    """The strings in a JSON text, or the text itself."""
    if text:
        yield from strings(_json(text))


def strings(value: Json, names: bool = False) -> Iterator[str]:
    """Every string in a JSON value; with `names` also those of its objects' fields."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            waiting.extend(inner for name, inner in item.items() if name not in _NAMES_OF_FIELDS)
            if names:
                yield from item
        elif isinstance(item, list):
            waiting.extend(item)


def without(value: Json, found: set[str], request_id: str) -> Json:
    """The value with FORGOTTEN in place of the strings of `found`, and of whole rows that are the request's."""
    if isinstance(value, str):
        return FORGOTTEN if value in found else value
    if isinstance(value, list):
        return [without(item, found, request_id) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("request_id") == request_id and "__class__" not in value:
        return {"request_id": FORGOTTEN}
    return {
        (FORGOTTEN if name in found else name): inner if name in _NAMES_OF_FIELDS else without(inner, found, request_id)
        for name, inner in value.items()
    }


def _json(text: str) -> Json:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
