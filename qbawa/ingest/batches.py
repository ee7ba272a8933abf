"""Batches: groups of journal segments that are ingested together and are one partition of `recordings`.

Which segments a batch holds stands in a small manifest, `<journal>/batches/<name>.json`, written once and atomically, until
the lake holds it; then in `<journal>/batches/done.sqlite` with all others (`qbawa.ingest.batch_index`). The lake alone knows
what is ingested: what stands there is compared with it (`qbawa.ingest.stage.pending_batches`).
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qbawa.errors import InputError
from qbawa.ingest.batch_index import NEVER, BatchIndex, Segment, Stamp
from qbawa.storage.files import file_lock, write_atomically
from qbawa.storage.journal import CLOSED, adopt_orphans, closed_segments, orphans

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


def form_batches(folders: Sequence[Path], *, batch_bytes: int = BATCH_BYTES, thorough: bool = True) -> list[Batch]:
    """Batches that are not settled yet, oldest first, once closed segments that are in none have formed new ones.

    Segments of writers that died are closed first. A late segment forms a batch of its own; a segment dropped twice,
    under whatever name, is taken once. `folders[0]` keeps the manifests and must be writable. Only a `thorough` look
    notices a segment whose content has changed under its name.
    """
    with _locked(folders[0]):
        batches = _open_batches(folders)
        for batch in _form(_new_segments(batches, folders, thorough=thorough), folders[0], batch_bytes):
            _write_manifest(batch)
            batches.append(batch)
    return batches


def foreseen_batches(folders: Sequence[Path], *, batch_bytes: int = BATCH_BYTES) -> list[Batch]:
    """The batches that `form_batches` would return; nothing is written. The same segments may land in others yet.

    Segments of writers that died still have their own names there, and maybe a torn last line.
    """
    batches, index = _open_batches(folders), index_of(folders)
    taken = {segment.sha256 for batch in batches for segment in batch.segments}
    unchanged = {(s.path, s.bytes, s.changed_ns) for batch in batches for s in batch.segments}
    paths: list[Path] = []
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        paths += sorted((*closed_segments(folder), *orphans(folder)))
        unchanged |= _as_taken(index, folder)
    new = [segment for segment in _hashed(paths, taken, unchanged) if not index.holds(segment.sha256)]
    return [*batches, *_form(new, folders[0], batch_bytes)]


def load_batch(name: str, folders: Sequence[Path]) -> Batch:
    """The batch of that name. Raises InputError where none was formed."""
    path = folders[0] / MANIFESTS / f"{name}.json"
    if Path(name).name == name:
        with contextlib.suppress(FileNotFoundError):
            return _found(_read_manifest(path), folders)
    if settled := index_of(folders).get(name):
        return _found(Batch(name, settled[0], folders[0].resolve(), settled[1]), folders)
    raise InputError(f"There is no recording batch '{name}': {path} does not exist. `qbawa import` lists new batches.")


def all_batches(folders: Sequence[Path]) -> list[Batch]:
    """Every batch that was ever formed, oldest first."""
    index, batches = index_of(folders), {batch.name: batch for batch in _open_batches(folders)}
    names = {*batches, *index.names(empty=False), *index.names(empty=True)}
    return [load_batch(name, folders) for name in sorted(names)]


def settle(batches: Sequence[Batch]) -> None:
    """Remember that the lake holds these batches or that one makes no row, which the lake, having nothing of it, cannot know."""
    if not batches:
        return
    journal = batches[0].journal
    # In this order: killed in between, a batch is in both places and is settled once more.
    index_of([journal]).add((batch.name, batch.segments, batch.empty) for batch in batches)
    for batch in batches:
        (journal / MANIFESTS / f"{batch.name}.json").unlink(missing_ok=True)


def reopen(names: Iterable[str], folders: Sequence[Path]) -> None:
    """Batches that the lake held and holds no more have a manifest again."""
    for name in names:
        _write_manifest(load_batch(name, folders))
        index_of(folders).remove(name)


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
    batches = []
    for path in sorted((folders[0] / MANIFESTS).glob("b_*.json")):
        with contextlib.suppress(FileNotFoundError):  # another process has settled it just now
            batches.append(_read_manifest(path))
    return batches


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
    paths: list[Path] = []
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        if thorough:
            names = sorted(_closed_names(folder, os.listdir(folder) if folder.is_dir() else []))
            unchanged |= _as_taken(index, folder)
        else:
            names = _unknown_names(folder, index)
        paths += [folder / name for name in names]
    new = list(_hashed(paths, taken, unchanged))
    copies = [segment for segment in new if index.holds(segment.sha256)]
    if copies and not thorough:
        index.note_copies(segment.path for segment in copies)
    return [segment for segment in new if segment not in copies]


def _as_taken(index: BatchIndex, folder: Path) -> set[tuple[Path, int, int]]:
    """Path, size and time of a folder's segments as they were when their batch was formed."""
    return {(s.path, s.bytes, s.changed_ns) for _, s in index.taken_before(folder, 1 << 62)}


def _hashed(
    paths: Iterable[Path], taken: Collection[str], unchanged: Collection[tuple[Path, int, int]]
) -> Iterator[Segment]:
    """The segments at these paths whose content is not among `taken`, each content once."""
    seen = set(taken)
    for path in paths:
        try:
            stat = path.stat()
            if not stat.st_size or (path, stat.st_size, stat.st_mtime_ns) in unchanged:
                continue
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            continue  # taken away since it was listed
        if sha256 not in seen:
            seen.add(sha256)
            yield Segment(path, stat.st_size, stat.st_mtime_ns, sha256)


@dataclass(slots=True)
class _Look:
    """What this process last saw in a folder, or an earlier one has noted."""

    stamp: Stamp = NEVER
    """What tells this list of the folder's names from a later one; NEVER where it must be read."""
    growing: list[str] = field(default_factory=list)
    """Names that are no closed segments: writers at work, or killed."""
    known: set[str] = field(default_factory=set)
    """Closed segments whose content had been taken."""
    unknown: list[str] = field(default_factory=list)


_looks: dict[tuple[Path, Path], _Look] = {}
# File systems stamp folders by the clock tick, some by the second; one so recent may have changed again since.
_FRESH_NS, _FRESH_WHOLE_SECONDS_NS = 100_000_000, 2_100_000_000
_MANY = 1_000
"""Names that take longer to list and compare than it takes to note which ones are left."""


def _unknown_names(folder: Path, index: BatchIndex) -> list[str]:
    """Names of a folder's closed segments that are not in the index, sorted.

    100,000 names take 0.1 s to list and as long to compare: that is done where the folder has changed since this process
    looked, or an earlier one. What is known stays known; it is only ever put aside.
    """
    look = _looks.get((folder, index.path))
    if look is None or (look.stamp != NEVER and not index.path.exists()):  # somebody deleted it
        look = _looks[folder, index.path] = _Look()
        if (noted := index.look(folder)) is not None:
            look.stamp, look.growing, look.unknown = noted
            # Now, though only a folder that changes needs it: the tick that finds a new segment has to list it as well.
            look.known = index.names_in(folder)
    if look.growing:
        adopt_orphans(folder, look.growing)
    listed, compared = 0, False
    try:
        stamp = _stamp(folder)
        if stamp != look.stamp:
            listed, compared = _list(folder, look, index)
            look.stamp = NEVER if _is_fresh(stamp) else stamp
    except FileNotFoundError:
        return []
    if len(look.unknown) > 100:
        known = set() if compared else index.names_in(folder).intersection(look.unknown)
    else:
        known = {name for name in look.unknown if index.knows(folder, name)}
    look.known |= known
    look.unknown = [name for name in look.unknown if name not in known]
    if listed > _MANY > len(look.growing) + len(look.unknown) and look.stamp != NEVER:
        index.note_look(folder, look.stamp, look.growing, look.unknown)
    return look.unknown


def _list(folder: Path, look: _Look, index: BatchIndex) -> tuple[int, bool]:
    """See which names of the folder grow and which are unknown; how many there are, and whether the index was asked."""
    names = os.listdir(folder)
    rest = [name for name in names if name not in look.known]
    if compared := len(rest) > 100:
        look.known = index.names_in(folder)
        rest = [name for name in names if name not in look.known]
    look.growing = [name for name in rest if not name.endswith(CLOSED)]
    look.unknown = sorted(_closed_names(folder, rest))
    if len(look.known) > 2 * len(names) + _MANY:  # put aside since
        look.known.intersection_update(names)
    return len(names), compared


def _stamp(folder: Path) -> Stamp:
    """Changes with the folder's list of names: the latest change also where somebody sets the time, as a back-up does."""
    found = folder.stat()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino & (1 << 63) - 1  # as SQLite takes them


def _is_fresh(stamp: Stamp) -> bool:
    """Whether the folder may have changed again, and may yet, without another stamp."""
    latest = max(stamp[:2])
    return time.time_ns() - latest < (_FRESH_NS if latest % 1_000_000_000 else _FRESH_WHOLE_SECONDS_NS)


def _closed_names(folder: Path, listed: Sequence[str]) -> list[str]:
    """Those of a folder's names that are closed segments; those of writers that died are closed first."""
    growing = [name for name in listed if not name.endswith(CLOSED)]
    adopted = [path.name for path in adopt_orphans(folder, growing)] if growing else []
    return [name for name in [*listed, *adopted] if name.endswith(CLOSED) and name[0] != "."]


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
    except FileNotFoundError:
        raise
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
