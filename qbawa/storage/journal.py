"""Append-only JSONL segments that lose nothing they acknowledged. Standard library only.

A segment is born as `<time>-<pid>-<random>.open`, held by an flock while its writer lives, and becomes `….jsonl` by
one atomic rename. Readers may trust every line of a `.jsonl` file to be whole; the last line of an `.open` file may be
torn. Any number of processes share a folder, since each writes segments of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

OPEN, CLOSED, UNBORN = ".open", ".jsonl", ".new"
_UNBORN_GRACE_S = 60.0
_sync_data = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class JournalWriter:
    """One process's open segment of the journal in `folder`; a new segment begins where size or age closes the last.

    `append` only buffers; what `sync` returned for is on disk and survives kill -9 and power loss. Nothing touches the
    disk before the first `sync`. `append` may be called from any thread, at any time; `sync` and `close` take turns.
    After a fork the child's copy starts empty: buffered lines stay the parent's, and the child writes its own segment.
    """

    def __init__(self, folder: str | os.PathLike[str], *, max_bytes: int = 64 << 20, max_age_s: float = 60.0) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self.max_age_s = max_age_s
        self.segment: Path | None = None
        self._start_empty()
        _writers.add(self)

    def append(self, line: bytes) -> None:
        """Buffer one line, given without its newline. Raises ValueError for a line that contains one."""
        if b"\n" in line:
            raise ValueError("A journal line must not contain a newline; encode it as one line of JSON.")
        self._buffer.append(line)

    def sync(self) -> int:
        """Number of lines put on disk for good; also closes a segment that is full or old enough.

        Raises OSError where the disk refuses. The lines then stay buffered and the segment ends where it ended before,
        so a later `sync` can try again.
        """
        with self._turn:
            count = len(self._buffer)
            if count:
                self._write(b"\n".join(self._buffer[:count]) + b"\n")
                del self._buffer[:count]  # not a new list: other threads append to this one meanwhile
            if self.segment and (self._size >= self.max_bytes or time.monotonic() - self._born >= self.max_age_s):
                self._close_segment()
            return count

    def close(self) -> None:
        """Sync, then close the segment even where syncing failed. The writer may be used again."""
        try:
            self.sync()
        finally:
            with self._turn:
                self._close_segment()

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start_empty(self) -> None:
        self._buffer: list[bytes] = []
        self._turn = threading.Lock()
        self._file = -1
        self._size = 0
        self._born = 0.0
        self.segment = None

    def _write(self, data: bytes) -> None:
        if self.segment and os.fstat(self._file).st_nlink == 0:
            self._forget_segment()  # someone deleted it under us; writing on would go nowhere
        if not self.segment:
            self._open_segment()
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
            _sync_data(self._file)
        except OSError:
            # Half a batch must not stay: the retry would append to a torn line.
            os.ftruncate(self._file, self._size)
            os.lseek(self._file, self._size, os.SEEK_SET)
            raise
        self._size += len(data)

    def _open_segment(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        unborn = self.folder / f"{stamp}-{os.getpid()}-{os.urandom(4).hex()}{UNBORN}"
        self._file = os.open(unborn, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        # Locked before it gets a name that `adopt_orphans` looks at, so it can never be taken from a living writer.
        _lock(self._file)
        segment = unborn.with_suffix(OPEN)
        try:
            os.rename(unborn, segment)
            _sync_folder(self.folder)
        except OSError:
            os.close(self._file)
            raise
        self._size, self._born, self.segment = 0, time.monotonic(), segment

    def _close_segment(self) -> None:
        if not self.segment:
            return
        segment = self.segment
        try:
            if self._size:
                os.rename(segment, segment.with_suffix(CLOSED))
                _sync_folder(self.folder)
            else:
                segment.unlink(missing_ok=True)
        finally:
            self._forget_segment()

    def _forget_segment(self) -> None:
        os.close(self._file)
        self._file, self._size, self.segment = -1, 0, None

    def _let_go_after_fork(self) -> None:
        # Closing the inherited descriptor leaves the parent's lock in place, and lets it end with the parent.
        if self._file >= 0:
            os.close(self._file)
        self._start_empty()


def closed_segments(folder: str | os.PathLike[str]) -> list[Path]:
    """Finished segments, in the order in which they were begun; empty where there is no such folder."""
    return _named(Path(folder), CLOSED)


def all_segments(folder: str | os.PathLike[str]) -> list[Path]:
    """Finished and growing segments, each once, in the order in which they were begun."""
    # Open ones first: a segment that is renamed meanwhile is then seen twice rather than never.
    found = {path.stem: path for path in (*_named(Path(folder), OPEN), *_named(Path(folder), CLOSED))}
    return [found[stem] for stem in sorted(found)]


def orphans(folder: str | os.PathLike[str]) -> list[Path]:
    """Segments whose writers died, as `adopt_orphans` would find them; nothing is changed. A last line may be torn."""
    found = []
    for path in _named(Path(folder), OPEN):
        with contextlib.suppress(OSError), _held(path):
            found.append(path)
    return found


def adopt_orphans(folder: str | os.PathLike[str], names: Sequence[str] | None = None) -> list[Path]:
    """Segments closed on behalf of writers that died: a torn last line is cut, an empty segment removed.

    Safe to run at any time and by several processes at once. A file system without flock yields no orphans.
    `names` are those of the folder's files, where the caller has just listed them.
    """
    adopted = []
    for path in _named(Path(folder), OPEN, names):
        with contextlib.suppress(OSError), _held(path) as file:
            size = _whole_lines(file)
            if size:
                os.ftruncate(file, size)
                os.fsync(file)
                os.rename(path, path.with_suffix(CLOSED))
                adopted.append(path.with_suffix(CLOSED))
            else:
                path.unlink()
    for path in _named(Path(folder), UNBORN, names):
        with contextlib.suppress(OSError):
            # Not even locked while young: its writer, about to lock it, would find it taken and go on without a lock.
            if time.time() - path.stat().st_mtime > _UNBORN_GRACE_S:
                with _held(path):
                    path.unlink()
    if adopted:
        _sync_folder(Path(folder))
    return adopted


def read_lines(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """Lines of a segment without their newlines, finished or still growing; a torn last line is left out.

    An `.open` segment that was closed since it was listed is read under its final name.
    """
    path = Path(path)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        if path.suffix != OPEN:
            raise
        file = path.with_suffix(CLOSED).open("rb")
    with file:
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1]


def _named(folder: Path, suffix: str, names: Sequence[str] | None = None) -> list[Path]:
    try:
        listed = os.listdir(folder) if names is None else names
        return sorted(folder / name for name in listed if name.endswith(suffix) and name[0] != ".")
    except FileNotFoundError:
        return []


def _lock(file: int) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # No flock on this file system: orphans cannot be told from living segments there, so none is ever adopted.
        return


@contextlib.contextmanager
def _held(path: Path) -> Iterator[int]:
    """Descriptor of `path` under its lock; OSError where its writer lives or someone else just dealt with it."""
    file = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_ino != os.stat(path).st_ino:
            raise FileNotFoundError(path)
        yield file
    finally:
        os.close(file)


def _whole_lines(file: int) -> int:
    """Bytes up to and with the last newline."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - (1 << 16))
        cut = os.pread(file, end - start, start).rfind(b"\n")
        if cut >= 0:
            return start + cut + 1
        end = start
    return 0


def _sync_folder(folder: Path) -> None:
    """Make names durable, not only contents."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


_writers: weakref.WeakSet[JournalWriter] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for writer in list(_writers):
        writer._let_go_after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
