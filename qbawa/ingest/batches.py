"""Batches: groups of journal segments that are ingested together and are one partition of `recordings`.

Which segments a batch holds stands in a small manifest, `<journal>/batches/<name>.json`, written once and atomically, until
the lake holds it; then in `<journal>/batches/done.sqlite` with all others (`qbawa.ingest.batch_index`). The lake alone knows
what is ingested (`qbawa.ingest.block_writer.is_complete`): what stands there is compared with it.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qbawa.errors import InputError
from qbawa.ingest.batch_index import BatchIndex, Segment
from qbawa.ingest.block_writer import TABLES, complete_among
from qbawa.storage.files import file_lock, write_atomically
from qbawa.storage.journal import CLOSED, adopt_orphans
from qbawa.storage.lake import Lake

BATCH_BYTES = 256 << 20
MANIFESTS = "batches"
INGESTED = "ingested"
"""Subfolder of a journal for segments that the lake has held for a while, a folder a day; the sensor does not look there."""
PACKED = ".gz"


@dataclass(frozen=True, slots=True)
class Batch:
    """Segments that are ingested together. `name` is b_<day of the newest>_<hash of the contents>."""

    name: str
    segments: tuple[Segment, ...]
    journal: Path
    """The folder whose `batches/` holds the manifest."""
    empty: bool = False
    """True once it was read and made no row at all, as when requests only ended in it."""


def pending_batches(
    lake: Lake,
    folders: Sequence[Path],
    *,
    batch_bytes: int = BATCH_BYTES,
    dry_run: bool = False,
    thorough: bool = True,
) -> list[Batch]:
    """Batches that the lake does not hold yet, oldest first; closed segments that are in no batch form new ones.

    Segments of writers that died are closed first. A late segment forms a batch of its own; a segment dropped twice,
    under whatever name, is taken once. `folders[0]` keeps the manifests and must be writable. With `dry_run` batches are
    only told, not formed: the same segments may land in others.

    `thorough` compares everything with the lake, in case rows went. Otherwise only what is open is: what was found there
    once counts as held for as long as the lake is the same one and has not gone back to an earlier version.
    """
    index = index_of(folders)
    if dry_run:
        batches = _open_batches(folders)
        batches += _form(_new_segments(batches, folders, thorough=True), folders[0], batch_bytes)
        done = complete_among(lake, [batch.name for batch in batches])
        return [batch for batch in batches if batch.name not in done and not batch.empty]
    with _locked(folders[0]):
        tables = {table: lake.state(table) for table in TABLES}
        if thorough or _is_another(index.lake(), tables):
            _reopen_lost(lake, folders)
        batches = _open_batches(folders)
        for batch in _form(_new_segments(batches, folders, thorough=thorough), folders[0], batch_bytes):
            _write_manifest(batch)
            batches.append(batch)
        done = complete_among(lake, [batch.name for batch in batches])
        _settle(folders[0], [batch for batch in batches if batch.empty or batch.name in done])
        index.note_lake(tables)
    return [batch for batch in batches if batch.name not in done and not batch.empty]


def load_batch(name: str, folders: Sequence[Path]) -> Batch:
    """The batch of that name. Raises InputError where none was formed."""
    path = folders[0] / MANIFESTS / f"{name}.json"
    if Path(name).name == name and path.is_file():
        return _found(_read_manifest(path), folders)
    if settled := index_of(folders).get(name):
        return _found(Batch(name, settled[0], folders[0].resolve(), settled[1]), folders)
    raise InputError(f"There is no recording batch '{name}': {path} does not exist. `qbawa import` lists new batches.")


def all_batches(folders: Sequence[Path]) -> list[Batch]:
    """Every batch that was ever formed, oldest first."""
    index, batches = index_of(folders), {batch.name: batch for batch in _open_batches(folders)}
    names = {*batches, *index.names(empty=False), *index.names(empty=True)}
    return [load_batch(name, folders) for name in sorted(names)]


def mark_ingested(batch: Batch, *, empty: bool = False) -> None:
    """Remember that the lake holds a batch or that it makes no row, which the lake, having nothing of it, cannot know."""
    _settle(batch.journal, [Batch(batch.name, batch.segments, batch.journal, empty)])


def segments_rewritten(journal: Path, contents: Mapping[Path, Segment]) -> None:
    """Lines were cut out of these segments, or the changed ones would look new and be ingested once more.

    `journal` is the folder that holds the manifests; `contents` says by path what a segment is now.
    """
    if not contents:
        return
    with _locked(journal):
        for batch in _open_batches([journal]):
            if any(segment.path in contents for segment in batch.segments):
                segments = tuple(contents.get(segment.path, segment) for segment in batch.segments)
                _write_manifest(Batch(batch.name, segments, batch.journal, batch.empty))
        index_of([journal]).rewritten(contents)


def shelf_of(segment: Segment) -> Path:
    """Where a segment lies once the lake has held it for a while: a folder for the day on which it was written."""
    written = datetime.fromtimestamp(segment.changed_ns / 1e9, UTC)
    return segment.path.parent / INGESTED / f"{written:%Y-%m-%d}" / segment.path.name


def index_of(folders: Sequence[Path]) -> BatchIndex:
    """What is known of the batches that the lake holds; `folders[0]` keeps it."""
    journal = folders[0].resolve()
    return BatchIndex(journal / MANIFESTS, journal.parent)


def _open_batches(folders: Sequence[Path]) -> list[Batch]:
    return [_read_manifest(path) for path in sorted((folders[0] / MANIFESTS).glob("b_*.json"))]


def _settle(journal: Path, batches: Sequence[Batch]) -> None:
    if not batches:
        return
    # In this order: killed in between, a batch is in both places and is settled once more.
    index_of([journal]).add((batch.name, batch.segments, batch.empty) for batch in batches)
    for batch in batches:
        (journal / MANIFESTS / f"{batch.name}.json").unlink(missing_ok=True)


def _is_another(known: Mapping[str, tuple[str, int]], tables: Mapping[str, tuple[str, int]]) -> bool:
    """Whether the lake was made anew or put back from a back-up since it was last looked at."""
    return any(
        name not in known or known[name][0] != id or version < known[name][1] for name, (id, version) in tables.items()
    )


def _reopen_lost(lake: Lake, folders: Sequence[Path]) -> None:
    """Batches that the lake held and holds no more have a manifest again."""
    index = index_of(folders)
    names = index.names(empty=False)
    for name in sorted(set(names) - complete_among(lake, names)):
        _write_manifest(load_batch(name, folders))
        index.remove(name)


def _found(batch: Batch, folders: Sequence[Path]) -> Batch:
    """The batch with its segments where they lie now: in place, put aside, or in a home that was moved."""

    def place(segment: Segment) -> Path:
        shelved = shelf_of(segment)
        moved = [folder.resolve() / segment.path.name for folder in folders]
        candidates = [segment.path, shelved, shelved.with_name(shelved.name + PACKED), *moved]
        return next((path for path in candidates if path.is_file()), segment.path)

    segments = tuple(Segment(place(s), s.bytes, s.changed_ns, s.sha256) for s in batch.segments)
    return Batch(batch.name, segments, batch.journal, batch.empty)


def _new_segments(batches: Sequence[Batch], folders: Sequence[Path], *, thorough: bool) -> list[Segment]:
    """Closed segments whose content is in no batch. Of known names only a `thorough` look reads the size and time."""
    index = index_of(folders)
    taken = {segment.sha256 for batch in batches for segment in batch.segments}
    # Hashing costs a second a GiB: a file that has not changed since its batch was formed is not read again.
    unchanged = {(s.path, s.bytes, s.changed_ns) for batch in batches for s in batch.segments}
    new, copies = [], []
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        if thorough:
            names = _closed_names(folder, os.listdir(folder) if folder.is_dir() else [])
            unchanged |= {(s.path, s.bytes, s.changed_ns) for _, s in index.taken_before(folder, 1 << 62)}
        else:
            names = _unknown_names(folder, index)
        for path in (folder / name for name in names):
            try:
                stat = path.stat()
                if not stat.st_size or (path, stat.st_size, stat.st_mtime_ns) in unchanged:
                    continue
                with path.open("rb") as file:
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            except FileNotFoundError:
                continue  # taken away since it was listed
            if index.holds(sha256):
                copies.append(path)
            elif sha256 not in taken:
                taken.add(sha256)
                new.append(Segment(path, stat.st_size, stat.st_mtime_ns, sha256))
    if not thorough:
        index.note_copies(copies)
    return new


@dataclass(slots=True)
class _Look:
    """What this process last saw in a folder."""

    stamp: int = -1
    """When the folder's list of names last changed, in ns; -1 where it must be read."""
    growing: list[str] = field(default_factory=list)
    """Names that are no closed segments: writers at work, or killed."""
    known: set[str] = field(default_factory=set)
    """Closed segments whose content had been taken."""
    unknown: list[str] = field(default_factory=list)


_looks: dict[tuple[Path, Path], _Look] = {}
_FRESH_NS = 100_000_000  # file systems stamp folders by the clock tick; one so recent may have changed again since


def _unknown_names(folder: Path, index: BatchIndex) -> list[str]:
    """Names of a folder's closed segments that are not in the index, sorted.

    100,000 names take 0.1 s to list and as long to compare: they are listed where the folder has changed, and compared
    once a process. What is known stays known; it is only ever put aside.
    """
    look = _looks.setdefault((folder, index.path), _Look())
    if look.known and not index.path.exists():  # somebody deleted it
        _looks[folder, index.path] = look = _Look()
    if look.growing:
        adopt_orphans(folder, look.growing)
    try:
        stamp = folder.stat().st_mtime_ns
        if stamp != look.stamp:
            listed = os.listdir(folder)
            names = _closed_names(folder, listed)
            look.stamp = -1 if time.time_ns() - stamp < _FRESH_NS else stamp
            look.growing = [name for name in listed if not name.endswith(CLOSED)]
            look.unknown = [name for name in names if name not in look.known]
            look.known.intersection_update(names)
    except FileNotFoundError:
        return []
    if len(look.unknown) > 100:
        look.known |= index.names_in(folder).intersection(look.unknown)
    else:
        look.known |= {name for name in look.unknown if index.knows(folder, name)}
    look.unknown = [name for name in look.unknown if name not in look.known]
    return look.unknown


def _closed_names(folder: Path, listed: Sequence[str]) -> list[str]:
    """Names of the closed segments of a folder, sorted; those of writers that died are closed first."""
    growing = [name for name in listed if not name.endswith(CLOSED)]
    if growing and adopt_orphans(folder, growing):
        listed = os.listdir(folder)
    return sorted(name for name in listed if name.endswith(CLOSED) and name[0] != ".")


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
    """Paths inside the home are written relative to the journal, so that the home can be moved."""
    root = batch.journal.resolve()
    segments = [asdict(s) | {"path": _relative(s.path, root)} for s in batch.segments]
    manifest = {"name": batch.name, "empty": batch.empty, "segments": segments}
    write_atomically(root / MANIFESTS / f"{batch.name}.json", json.dumps(manifest, indent=1))


def _read_manifest(path: Path) -> Batch:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        root = path.resolve().parent.parent
        segments = tuple(Segment(**s | {"path": Path(os.path.normpath(root / s["path"]))}) for s in content["segments"])
        # 0.1.0 called it barren.
        return Batch(content["name"], segments, root, content["empty"] if "empty" in content else content["barren"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a batch manifest ({error}). Remove it: its segments then form a new batch, and recordings "
            "that the lake holds already are not taken twice."
        ) from None


def _relative(path: Path, root: Path) -> str:
    return os.path.relpath(path, root) if path.is_relative_to(root.parent) else str(path)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time forms batches, so that no segment lands in two."""
    (folder / MANIFESTS).mkdir(parents=True, exist_ok=True)
    with file_lock(folder / MANIFESTS / ".lock"):
        yield
