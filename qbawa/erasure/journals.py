"""A request's lines, cut out of closed journal segments, those put aside too; what is known of their batches follows."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import orjson

from qbawa.erasure.files import rewrite
from qbawa.erasure.quotes import name_pattern
from qbawa.errors import BusyError, InputError
from qbawa.ingest.batch_index import Segment
from qbawa.ingest.batches import MANIFESTS, PACKED, segments_rewritten
from qbawa.ingest.journal_retention import put_aside
from qbawa.ingest.line_reader import open_bytes
from qbawa.ingest.span_store import SpanStore
from qbawa.storage.journal import CLOSED, adopt_orphans, all_segments, closed_segments, read_lines


def refuse_growing(folders: Sequence[Path], request_id: str) -> None:
    """Raise BusyError where a process that lives is writing a segment that holds the request; close those of the dead."""
    for folder in folders:
        adopt_orphans(folder)
        for segment in all_segments(folder):
            if segment.suffix != CLOSED and any(_mentions(line, request_id) for line in read_lines(segment)):
                raise BusyError(
                    f"A running process is still writing {segment}, which holds the request '{request_id}'. Segments close "
                    "after a minute; try again then, or stop the process first."
                )


def cut_segments(folder: Path, manifests: Path, request_id: str) -> int:
    """Rewrite a folder's closed segments without the request's lines; how many lines went.

    The journal `manifests` keeps the batches that hold these segments. Raises InputError for a packed segment that is
    damaged: nobody can know what it holds.
    """
    SpanStore(manifests / MANIFESTS).forget(request_id)
    return sum(_cut(segment, manifests, request_id) for segment in (*closed_segments(folder), *put_aside(folder)))


def _cut(segment: Path, manifests: Path, request_id: str) -> int:
    try:
        with open_bytes(segment) as file:
            lines = list(file)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{segment} cannot be unpacked ({error}), so nobody knows whether it holds the request. Put it back from a "
            "back-up or delete it, then `qbawa forget --resume`."
        ) from None
    kept = [line for line in lines if not (_mentions(line, request_id) and _is_about(line, request_id))]
    if len(kept) < len(lines):
        data, path = b"".join(kept), segment.resolve()
        # The time stays: how long a segment has lain there is counted from it. What is known of the batch changes first:
        # killed in between, the segment still holds the lines, and the next try comes by here again. The other way round
        # the segment would look new, and be ingested once more.
        new = Segment(path, len(data), segment.stat().st_mtime_ns, hashlib.sha256(data).hexdigest())
        segments_rewritten(manifests, {path: new})
        rewrite(segment, gzip.compress(data, 6, mtime=0) if segment.suffix == PACKED else data, keep_time=True)
    return len(lines) - len(kept)


def _mentions(line: bytes, request_id: str) -> bool:
    # Most lines are others': bytes first, then the name by itself, `r_3` and not `r_30`.
    if not any(form in line for form in (json.dumps(request_id)[1:-1].encode(), orjson.dumps(request_id)[1:-1])):
        return False
    try:
        text = json.dumps(orjson.loads(line), ensure_ascii=False)
    except (orjson.JSONDecodeError, RecursionError):
        text = line.decode("utf-8", "replace")
    return bool(name_pattern(json.dumps(request_id, ensure_ascii=False)[1:-1]).search(text))


def _is_about(line: bytes, request_id: str) -> bool:
    """Whether a line that mentions the request is the request's own; a line that cannot be read counts as its own."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return True
    owner = value.get("request_id") if isinstance(value, dict) else None
    return owner == request_id or not isinstance(owner, str)
