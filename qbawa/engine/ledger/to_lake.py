"""Journalled calls become rows of the lake's table `calls`. Safe to interrupt, to repeat and to run twice at once."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from qbawa.engine.counted import Counted
from qbawa.engine.ledger.index import LOADED, adopt_old_shelf
from qbawa.storage.frames import frame
from qbawa.storage.journal import CLOSED, adopt_orphans, closed_segments, read_lines
from qbawa.storage.lake import Lake

log = logging.getLogger("qbawa.engine")

KEEP_S = 24 * 3600.0
"""How long a segment stays in `loaded/`, for runs that began before it was loaded and look it up there."""
_BATCH_BYTES = 8 << 20  # of segments that are loaded in one commit: as rows they take several times as much memory


@dataclass(frozen=True, slots=True)
class LoadReport:
    segments: int = 0
    calls: int = 0
    unreadable: int = 0
    """Lines that are no calls, left out and logged."""


def load_calls(
    lake: Lake, folder: Path, *, keep_s: float = KEEP_S, log: Callable[[str], Any] = lambda message: None
) -> LoadReport:
    """Load every closed segment of `folder` as one block of `calls`, named after it, and move it to `loaded/`.

    Segments of writers that died are closed first. Segments that were loaded more than `keep_s` ago are deleted.
    """
    adopt_orphans(folder)
    adopt_old_shelf(folder)
    segments = calls = unreadable = 0
    batch: list[Path] = []
    size = 0
    waiting = closed_segments(folder)
    loading = Counted(log, "writing paid calls to the lake:", sum(map(_size, waiting)) >> 20, "MB")
    written = 0
    for position, path in enumerate(waiting):
        batch.append(path)
        size += _size(path)
        if size >= _BATCH_BYTES or position == len(waiting) - 1:
            loaded = _load(lake, folder, batch)
            segments += loaded.segments
            calls += loaded.calls
            unreadable += loaded.unreadable
            written += size
            loading.advance((written >> 20) - loading.done)
            batch, size = [], 0
    delete_loaded(folder, older_than_s=keep_s)
    return LoadReport(segments, calls, unreadable)


def delete_loaded(folder: Path, *, older_than_s: float = 0.0) -> int:
    """Delete segments that were loaded long enough ago; how many. 0 s deletes them all, as forgetting a person must."""
    deleted = 0
    for path in closed_segments(folder / LOADED):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime >= older_than_s:
                path.unlink()
                deleted += 1
    return deleted


def call_row(line: bytes) -> dict[str, Any] | None:
    """The row of `calls` in a journalled line, without its block; None for a line that is no call.

    A value of another type than promised becomes null: it must not keep the rest, which was paid for, out of the lake.
    """
    try:
        call = orjson.loads(line)
        if not isinstance(call, dict) or call.get("kind") != "call" or not isinstance(call["call_key"], str):
            return None
        called_at = datetime.fromisoformat(call["called_at"]).astimezone(UTC)
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
    return {name: _plain(name, call.get(name)) for name in _COLUMNS} | {"called_at": called_at}


_TEXT = (
    "call_key",
    "purpose",
    "model",
    "request_id",
    "strategy_id",
    "judge",
    "step",
    "response_text",
    "error",
    "run_id",
)
_JSON = ("messages", "params", "logprobs")
_INTEGERS = ("sample", "input_tokens", "output_tokens", "attempts")
_NUMBERS = ("cost_usd", "charged_usd", "latency_s")
_COLUMNS = ("run_id",) + _TEXT + _JSON + _INTEGERS + _NUMBERS


def _plain(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _JSON:
        try:
            return orjson.dumps(value).decode()
        except TypeError:  # nested too deeply
            return None
    if name in _TEXT:
        return value if isinstance(value, str) else str(value)[:1_000]
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e15 < value < 1e15:
        return None
    return int(value) if name in _INTEGERS else float(value)


def _load(lake: Lake, folder: Path, paths: list[Path]) -> LoadReport:
    rows: list[Mapping[str, Any]] = []
    unreadable = 0
    present = []
    for path in paths:
        try:
            for line in read_lines(path):
                row = call_row(line)
                if row is None:
                    unreadable += 1
                else:
                    rows.append(row | {"block_id": path.stem})
        except FileNotFoundError:
            continue  # another process has just loaded it
        present.append(path)
    if unreadable:
        log.warning("%d lines in %s are no calls and were left out of the lake.", unreadable, folder)
    if not present:
        return LoadReport()
    lake.replace("calls", [path.stem for path in present], frame("calls", rows))
    shelf = folder / LOADED
    shelf.mkdir(exist_ok=True)
    for path in present:
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)  # its time on the shelf begins now
            os.rename(path, shelf / (path.stem + CLOSED))
    return LoadReport(len(present), len(rows), unreadable)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
