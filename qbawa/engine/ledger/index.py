"""Where each journalled answer lies in a folder of segments: our own, other processes', and those loaded lately."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from qbawa.engine.error_classes import REFUSALS
from qbawa.storage.journal import CLOSED, OPEN

LOADED = "loaded"
"""Subfolder where segments that the lake holds rest for a while, so that runs under way never miss an answer that just moved."""
REFUSAL = ("error", "input_tokens", "output_tokens", "cost_usd")
"""What is kept in memory of a call that was refused."""
_CHUNK = 8 << 20
_FRESH_NS = 100_000_000  # file systems stamp folders by the clock tick; one so recent may have changed again since


@dataclass(slots=True)
class _Segment:
    stem: str
    file: int = -1
    """Descriptor while the segment grows."""
    read_to: int = 0
    finished: bool = False


class CallIndex:
    """Answers by `call_key`, found by tailing the segments of `folder`. Holds places, not texts.

    What was in `loaded/` at the start is the lake's business. `on_line` sees every line once, failures included.
    """

    def __init__(self, folder: Path, on_line: Callable[[Mapping[str, Any]], None] | None = None) -> None:
        self.folder = folder
        self._on_line = on_line
        self._places: dict[str, tuple[str, int, int]] = {}
        self._refusals: dict[str, dict[str, Any]] = {}
        self._segments: dict[str, _Segment] = {}
        self._old = {name.removesuffix(CLOSED) for name in _names(folder / LOADED)}
        self.unreadable = 0
        """Lines that are no JSON objects, passed over."""
        self._stamp = (-1, -1)
        self._folders = (str(folder), str(folder / LOADED))

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def refresh(self) -> None:
        """Read what was added since the last time. Costs some microseconds where nothing was."""
        stamp = (_stamp(self._folders[0]), _stamp(self._folders[1]))
        if stamp != self._stamp or time.time_ns() - max(stamp) < _FRESH_NS:
            self._stamp = stamp
            self._list()
        for segment in self._segments.values():
            if not segment.finished:
                self._read(segment)

    def get(self, key: str) -> dict[str, Any] | None:
        """The journalled line of an answer, as of the last `refresh`; None where there is none."""
        place = self._places.get(key)
        if place is None:
            return None
        stem, start, length = place
        file = self._open(stem)
        if file is None:
            return None
        try:
            line = _parse(os.pread(file, length, start))
        finally:
            os.close(file)
        if line is None or line.get("call_key") != key:
            self._places.pop(key, None)  # a failed write was cut off and written again elsewhere
            return None
        return line

    def refusal(self, key: str) -> dict[str, Any] | None:
        """The journalled line of a call that was billed and brought no answer, as of the last `refresh`."""
        return None if key in self._places else self._refusals.get(key)

    def close(self) -> None:
        for segment in self._segments.values():
            if segment.file >= 0:
                os.close(segment.file)
                segment.file = -1

    def _list(self) -> None:
        # Growing, closed, loaded: the way that segments move, so none slips past between the listings.
        growing = {name.removesuffix(OPEN) for name in _names(self.folder, OPEN)}
        closed = {name.removesuffix(CLOSED) for name in _names(self.folder, CLOSED)}
        loaded = {name.removesuffix(CLOSED) for name in _names(self.folder / LOADED, CLOSED)}
        for stem in sorted(growing | closed | (loaded - self._old)):
            segment = self._segments.setdefault(stem, _Segment(stem))
            if stem in closed or stem in loaded:
                if not segment.finished:
                    self._read(segment)
                    segment.finished = True
                if segment.file >= 0:
                    os.close(segment.file)
                    segment.file = -1

    def _read(self, segment: _Segment) -> None:
        if segment.file < 0:
            file = self._open(segment.stem)
            if file is None:
                return
            segment.file = file
        while (size := os.fstat(segment.file).st_size) > segment.read_to:
            data = os.pread(segment.file, min(_CHUNK, size - segment.read_to), segment.read_to)
            whole = data.rfind(b"\n") + 1
            if not whole and size - segment.read_to > len(data):
                data = os.pread(segment.file, size - segment.read_to, segment.read_to)  # a line longer than a chunk
                whole = data.rfind(b"\n") + 1
            if not whole:
                return
            self._index(segment.stem, segment.read_to, data[:whole])
            segment.read_to += whole

    def _index(self, stem: str, start: int, data: bytes) -> None:
        for raw in data.split(b"\n")[:-1]:
            length = len(raw) + 1
            line = _parse(raw)
            if line is None:
                self.unreadable += 1
            elif line.get("kind") == "call":
                key = line.get("call_key")
                if isinstance(key, str) and is_answer(line):
                    self._places[key] = (stem, start, length)
                elif isinstance(key, str) and is_refusal(line):
                    self._refusals[key] = {name: line.get(name) for name in REFUSAL}
                if self._on_line:
                    self._on_line(line)
            start += length

    def _open(self, stem: str) -> int | None:
        for path in (
            self.folder / (stem + OPEN),
            self.folder / (stem + CLOSED),
            self.folder / LOADED / (stem + CLOSED),
        ):
            try:
                return os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue
        return None


def adopt_old_shelf(folder: Path) -> None:
    """Move loaded segments from `landed/`, where 0.1.0 kept them."""
    old = folder / "landed"
    for name in _names(old):
        (folder / LOADED).mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process has just moved it
            os.rename(old / name, folder / LOADED / name)
    with contextlib.suppress(OSError):
        old.rmdir()


def is_answer(line: Mapping[str, Any]) -> bool:
    """Whether a journalled call can be used again: it brought an answer and no error."""
    return not line.get("error") and isinstance(line.get("response_text"), str)


def is_refusal(line: Mapping[str, Any]) -> bool:
    """Whether a journalled call was billed and would end the same way if it were made again."""
    error, charged_usd = line.get("error"), line.get("charged_usd")
    return (
        isinstance(error, str)
        and error.split(":", 1)[0] in REFUSALS
        and isinstance(charged_usd, int | float)
        and charged_usd > 0
    )


def _parse(raw: bytes) -> dict[str, Any] | None:
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return line if isinstance(line, dict) else None


def _names(folder: Path, suffix: str = CLOSED) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.endswith(suffix) and name[0] != "."]
    except FileNotFoundError:
        return []


def _stamp(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except FileNotFoundError:
        return -1
