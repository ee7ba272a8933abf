"""What becomes of segments that the lake has held for a while: put aside as they are, packed, or deleted."""

import contextlib
import gzip
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qbawa.ingest.batch_index import Segment
from qbawa.ingest.batches import INGESTED, PACKED, index_of, shelf_of
from qbawa.storage.files import write_atomically
from qbawa.storage.journal import CLOSED

Fate = Literal["keep", "archive", "delete"]
_GONE = ".deleted"


@dataclass(frozen=True, slots=True)
class Retired:
    """What `retire_segments` did; bytes as they were before."""

    segments: int = 0
    bytes: int = 0
    left: int = 0
    """Segments that are old enough and stay, since their folder cannot be written."""


def retire_segments(
    folders: Sequence[Path], fate: Fate, *, older_than_s: float, held: Callable[[Sequence[str]], set[str]]
) -> Retired:
    """Take segments that were last written so long ago, and that the lake holds now, out of the journals' folders.

    `keep` moves them into `ingested/<day>/`, `archive` packs them there, `delete` deletes them, those put aside before too.
    `held` says which of some batches the lake holds; it is asked anew, since what the index believes must not cost a line.
    A batch can be ingested again from what is kept or packed. Killed anywhere, the next run goes on.
    """
    index = index_of(folders)
    before_ns = time.time_ns() - int(older_than_s * 1e9)
    places = [folder.resolve() for folder in folders]
    places += sorted({path.parent for folder in places for path in put_aside(folder)})
    due = [(batch, segment) for place in places for batch, segment in index.taken_before(place, before_ns)]
    sure = held(sorted({batch for batch, _ in due})) | set(index.names(empty=True))
    moved: dict[Path, Path] = {}
    size = left = 0
    for batch, segment in due:
        if batch not in sure or segment.path.suffix == _GONE:
            continue
        try:
            new = _retire(segment, fate)
        except PermissionError:
            left += 1
            continue
        if new != segment.path:
            moved[segment.path] = new
            size += segment.bytes
    index.moved(moved)
    return Retired(len(moved), size, left)


def put_aside(folder: Path) -> list[Path]:
    """The segments of a journal that lie in its `ingested/`, packed or not, oldest first."""
    return sorted(path for end in (CLOSED, CLOSED + PACKED) for path in (folder / INGESTED).glob(f"*/*{end}"))


def _retire(segment: Segment, fate: Fate) -> Path:
    """Where the segment lies afterwards: its own path where nothing is left to do."""
    path = segment.path
    on_shelf = path.parent.parent.name == INGESTED
    plain = path.with_name(path.name.removesuffix(PACKED)) if on_shelf else shelf_of(segment)
    packed = plain.with_name(plain.name + PACKED)
    if fate == "delete":
        for place in (path, plain, packed):
            place.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            plain.parent.rmdir()
        # Under a name of its own, so that no folder's list of known names grows with it.
        return plain.with_name(plain.name + _GONE)
    if path in (packed, plain if fate == "keep" else packed):
        return path
    plain.parent.mkdir(parents=True, exist_ok=True)
    if fate == "keep":
        with contextlib.suppress(FileNotFoundError):  # moved by a run that was killed before it could say so
            os.rename(path, plain)
        return packed if packed.exists() else plain
    with contextlib.suppress(FileNotFoundError):
        write_atomically(packed, gzip.compress((path if path.exists() else plain).read_bytes(), 6, mtime=0))
    path.unlink(missing_ok=True)
    plain.unlink(missing_ok=True)
    return packed
