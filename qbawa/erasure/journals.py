"""A request's lines, cut out of closed journal segments; the batches that hold those segments follow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import orjson

from qbawa.erasure.files import rewrite
from qbawa.erasure.quotes import name_pattern
from qbawa.errors import BusyError
from qbawa.storage.journal import CLOSED, adopt_orphans, all_segments, read_lines


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


def cut_segments(folder: Path, request_id: str) -> int:
    """Rewrite a folder's closed segments without the request's lines; how many lines went."""
    cut = 0
    for segment in all_segments(folder):
        if segment.suffix != CLOSED:
            continue
        lines = list(read_lines(segment))
        kept = [line for line in lines if not (_mentions(line, request_id) and _is_about(line, request_id))]
        if len(kept) < len(lines):
            rewrite(segment, b"".join(line + b"\n" for line in kept))
            cut += len(lines) - len(kept)
    return cut


def follow_in_manifests(folder: Path) -> int:
    """Note in the manifests of batches what their segments have become; how many manifests changed.

    Or the changed segments would look new and be ingested once more. A closed segment never changes by itself, so every
    one that is not as its manifest says was cut, by this call of `forget` or by one that was killed.
    """
    changed = 0
    for path in sorted((folder / "batches").glob("b_*.json")):
        batch = json.loads(path.read_bytes())
        now = [entry | _as_it_is(folder / entry["path"], entry) for entry in batch["segments"]]
        if now != batch["segments"]:
            rewrite(path, json.dumps(batch | {"segments": now}, indent=1).encode())
            changed += 1
    return changed


def _as_it_is(segment: Path, entry: dict[str, object]) -> dict[str, object]:
    try:
        stat = segment.stat()
        if (stat.st_size, stat.st_mtime_ns) == (entry["bytes"], entry["changed_ns"]):
            return {}
        digest = hashlib.sha256(segment.read_bytes()).hexdigest()
    except FileNotFoundError:
        return {}
    if digest == entry["sha256"]:
        return {}  # only copied: as it was when its batch was formed
    return {"bytes": stat.st_size, "changed_ns": stat.st_mtime_ns, "sha256": digest}


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
