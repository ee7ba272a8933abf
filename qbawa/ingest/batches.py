"""Batches: groups of journal segments that are ingested together and are one partition of `recordings`.

Which segments a batch holds stands in a small manifest, `<journal>/batches/<name>.json`, written once and atomically.
Whether it has been ingested is not written there: the lake knows (`qbawa.ingest.stage.pending_batches`).
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qbawa.errors import InputError
from qbawa.storage.files import file_lock, write_atomically
from qbawa.storage.journal import adopt_orphans, closed_segments, orphans

BATCH_BYTES = 256 << 20
MANIFESTS = "batches"


@dataclass(frozen=True, slots=True)
class Segment:
    """A closed segment as it was when its batch was formed. A copy of it under any name has the same sha256."""

    path: Path
    bytes: int
    changed_ns: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Segments that are ingested together. `name` is b_<day of the newest>_<hash of the contents>."""

    name: str
    segments: tuple[Segment, ...]
    journal: Path
    """The folder whose `batches/` holds the manifest."""
    empty: bool = False
    """True once it was read and made no row at all, as when requests only ended in it."""


def form_batches(folders: Sequence[Path], *, batch_bytes: int = BATCH_BYTES) -> list[Batch]:
    """All batches, as `all_batches` has them, once closed segments that are in none have formed new ones.

    Segments of writers that died are closed first. A late segment forms a batch of its own; a segment dropped twice,
    under whatever name, is taken once. `folders[0]` keeps the manifests and must be writable.
    """
    for folder in folders:
        adopt_orphans(folder)
    with _locked(folders[0]):
        batches = all_batches(folders)
        closed = [path for folder in folders for path in closed_segments(folder)]
        for batch in _form(_new_segments(batches, closed), folders[0], batch_bytes):
            _write_manifest(batch)
            batches.append(batch)
    return batches


def foreseen_batches(folders: Sequence[Path], *, batch_bytes: int = BATCH_BYTES) -> list[Batch]:
    """The batches that `form_batches` would return; nothing is written. The same segments may land in others yet.

    Segments of writers that died still have their own names there, and maybe a torn last line.
    """
    batches = all_batches(folders)
    paths = [path for folder in folders for path in sorted((*closed_segments(folder), *orphans(folder)))]
    return [*batches, *_form(_new_segments(batches, paths), folders[0], batch_bytes)]


def load_batch(name: str, folders: Sequence[Path]) -> Batch:
    """The batch of that name. Raises InputError where none was formed."""
    path = folders[0] / MANIFESTS / f"{name}.json"
    if Path(name).name != name or not path.is_file():
        raise InputError(
            f"There is no recording batch '{name}': {path} does not exist. `qbawa import` lists new batches."
        )
    return _read_manifest(path)


def all_batches(folders: Sequence[Path]) -> list[Batch]:
    """Every batch that was ever formed, oldest first."""
    return [_read_manifest(path) for path in sorted((folders[0] / MANIFESTS).glob("b_*.json"))]


def mark_empty(batch: Batch) -> None:
    """Remember that a batch makes no row: the lake, which has nothing of it, cannot know that it was read."""
    _write_manifest(replace(batch, empty=True))


def _new_segments(batches: Sequence[Batch], paths: Sequence[Path]) -> list[Segment]:
    taken = {segment.sha256 for batch in batches for segment in batch.segments}
    # Hashing costs a second a GiB: a file that has not changed since its batch was formed is not read again.
    unchanged = {(s.path, s.bytes, s.changed_ns) for batch in batches for s in batch.segments}
    new = []
    for path in dict.fromkeys(path.resolve() for path in paths):
        try:
            stat = path.stat()
            if not stat.st_size or (path, stat.st_size, stat.st_mtime_ns) in unchanged:
                continue
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            continue  # taken away since it was listed
        if sha256 not in taken:
            taken.add(sha256)
            new.append(Segment(path, stat.st_size, stat.st_mtime_ns, sha256))
    return new


def _form(segments: Sequence[Segment], journal: Path, batch_bytes: int) -> Iterator[Batch]:
    """Consecutive segments together, up to `batch_bytes`; a larger segment alone."""
    group: list[Segment] = []
    for segment in segments:
        if group and sum(s.bytes for s in group) + segment.bytes > batch_bytes:
            yield _name(group, journal)
            group = []
        group.append(segment)
    if group:
        yield _name(group, journal)


def _name(segments: Sequence[Segment], journal: Path) -> Batch:
    newest = datetime.fromtimestamp(max(s.changed_ns for s in segments) / 1e9, UTC)
    digest = hashlib.sha256("".join(sorted(s.sha256 for s in segments)).encode()).hexdigest()
    return Batch(f"b_{newest:%Y-%m-%d}_{digest[:12]}", tuple(segments), journal)


def _write_manifest(batch: Batch) -> None:
    """Paths inside the journal folder are written relative to it, so that a home can be moved."""
    root = batch.journal.resolve()
    segments = [asdict(s) | {"path": str(_relative(s.path, root))} for s in batch.segments]
    manifest = {"name": batch.name, "empty": batch.empty, "segments": segments}
    write_atomically(root / MANIFESTS / f"{batch.name}.json", json.dumps(manifest, indent=1))


def _read_manifest(path: Path) -> Batch:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        root = path.resolve().parent.parent
        segments = tuple(Segment(**s | {"path": root / s["path"]}) for s in content["segments"])
        # 0.1.0 called it barren.
        return Batch(content["name"], segments, root, content["empty"] if "empty" in content else content["barren"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a batch manifest ({error}). Remove it: its segments then form a new batch, and recordings "
            "that the lake holds already are not taken twice."
        ) from None


def _relative(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time forms batches, so that no segment lands in two."""
    (folder / MANIFESTS).mkdir(parents=True, exist_ok=True)
    with file_lock(folder / MANIFESTS / ".lock"):
        yield
