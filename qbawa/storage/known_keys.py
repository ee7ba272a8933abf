"""Which keys a table may hold, without reading them all again: a hash of 8 bytes for each, in a few sorted files.

A Parquet file never changes, so its keys are read once, when it is first seen. Of rows that went the hashes stay: what is
found here is looked for in the table itself; what is not found here is not there. All of it may be lost at any time, and is
made again from the table's files.
"""

import json
import os
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from qbawa.storage.files import file_lock, write_atomically

_MANIFEST = "known.json"
_LOCK = ".lock"
_HASH = "hash"
_FILES_AT_ONCE = 16
_UNSAVED_FILES, _UNSAVED_ROWS = 8, 50_000
"""From which on it is cheaper to write down what was read than to let the next process read it again."""


@dataclass(slots=True)
class _Run:
    hashes: pl.Series
    """Sorted, each once."""
    file: str | None = None
    """Its name, once it is saved."""


class KnownKeys:
    """Hashes of the keys (values of some columns) of all files that a table had, kept in `folder` where there is one.

    Any number of threads and processes may use one folder. A kill at any moment leaves what was saved before, or after.
    """

    def __init__(self, folder: Path | None, columns: Sequence[str]) -> None:
        self._folder, self._columns = folder, list(columns)
        self._lock = threading.Lock()
        self._reset()

    def among(
        self, keys: pl.DataFrame, files: Collection[str], read: Callable[[Sequence[str]], pl.DataFrame]
    ) -> pl.DataFrame:
        """Those of these keys that one of the files, addresses of Parquet files, may hold; in no particular order.

        `read` gives the keys that some of the files hold, and is asked for those alone that are new since the last time.
        """
        with self._lock:
            if self._manifest is None:
                self._load()
            self._learn(files, read)
            hashed = keys.with_columns(keys.select(self._columns).hash_rows().alias(_HASH)).sort(_HASH)
            return hashed.filter(self._holds(hashed[_HASH])).drop(_HASH)

    def _reset(self) -> None:
        self._runs: list[_Run] = []
        self._files: set[str] = set()
        self._manifest: bytes | None = None
        self._unsaved_files = self._unsaved_rows = 0

    def _learn(self, files: Collection[str], read: Callable[[Sequence[str]], pl.DataFrame]) -> None:
        self._read_new(files, read)
        if self._unsaved_files < _UNSAVED_FILES and self._unsaved_rows < _UNSAVED_ROWS:
            return
        saved = True
        # Saving spares the next process some reading, no more: a full or read-only disk must not end what is done here.
        with suppress(OSError):
            saved = self._save({_name(file) for file in files})
        if not saved:
            self._load()
            self._read_new(files, read)

    def _read_new(self, files: Collection[str], read: Callable[[Sequence[str]], pl.DataFrame]) -> None:
        new = [file for file in files if _name(file) not in self._files]
        for start in range(0, len(new), _FILES_AT_ONCE):
            some = new[start : start + _FILES_AT_ONCE]
            keys = read(some).select(self._columns)
            self._add(keys.hash_rows().unique().sort())
            self._files.update(map(_name, some))
            self._unsaved_files += len(some)
            self._unsaved_rows += keys.height

    def _holds(self, hashes: pl.Series) -> pl.Series:
        """Which of these sorted hashes are in one of the runs."""
        held = hashes != hashes
        for run in self._runs:
            at = run.hashes.search_sorted(hashes)
            # Those after its end are compared with the one before them.
            held |= run.hashes.gather(at - (at == len(run.hashes)).cast(at.dtype)) == hashes
        return held

    def _add(self, hashes: pl.Series) -> None:
        """Few runs, each at least twice as long as the next: a hash is merged as often as the number doubles."""
        if hashes.is_empty():
            return
        self._runs.append(_Run(hashes))
        while len(self._runs) > 1 and len(self._runs[-2].hashes) < 2 * len(self._runs[-1].hashes):
            short, long = (run.hashes.alias(_HASH).to_frame() for run in (self._runs.pop(), self._runs.pop()))
            both = long.merge_sorted(short, key=_HASH)[_HASH]
            # Files that were joined bring again what is there.
            self._runs.append(_Run(both.filter((both != both.shift(1)).fill_null(True))))

    def _load(self) -> None:
        self._reset()
        self._manifest = b""
        with suppress(OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError), self._alone():
            if manifest := self._saved():
                # Noted first: where a run cannot be read, the next to save replaces them all.
                self._manifest, content = manifest, json.loads(manifest)
                runs = [self._read_run(**run) for run in content["runs"]]
                self._runs, self._files = runs, set(content["files"])

    def _saved(self) -> bytes:
        """The manifest on disk; empty where there is none, or none that we can use."""
        if self._folder is not None:
            with suppress(OSError, ValueError, KeyError, TypeError):
                manifest = (self._folder / _MANIFEST).read_bytes()
                if json.loads(manifest)["made_by"] == self._made_by():
                    return manifest
        return b""

    def _read_run(self, file: str, bytes: int) -> _Run:
        assert self._folder is not None
        path = self._folder / file
        if path.stat().st_size != bytes:
            raise ValueError(f"{path} is not whole")
        return _Run(pl.read_ipc(path)[_HASH], file)

    def _save(self, live: set[str]) -> bool:
        """Write down what is known of the live files. False where another process has done so since we read it."""
        if self._folder is None:
            return True
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            if self._saved() != self._manifest:
                return False
            for run in self._runs:
                run.file = run.file or self._write_run(run.hashes)
            self._files &= live
            runs = [{"file": run.file, "bytes": (self._folder / str(run.file)).stat().st_size} for run in self._runs]
            content = {"made_by": self._made_by(), "runs": runs, "files": sorted(self._files)}
            manifest = json.dumps(content).encode()
            write_atomically(self._folder / _MANIFEST, manifest)
            self._manifest, self._unsaved_files, self._unsaved_rows = manifest, 0, 0
            # Of runs that were merged, and of processes that were killed here.
            kept = {_MANIFEST, *(run.file for run in self._runs)}
            for stale in self._saved_files():
                if stale.name not in kept:
                    stale.unlink(missing_ok=True)
        return True

    def _write_run(self, hashes: pl.Series) -> str:
        assert self._folder is not None
        name = f"{uuid.uuid4().hex}.arrow"
        with (self._folder / name).open("wb") as file:
            hashes.alias(_HASH).to_frame().write_ipc(file, record_batch_size=len(hashes))
            file.flush()
            os.fsync(file.fileno())
        return name

    def _saved_files(self) -> Iterator[Path]:
        if self._folder is not None and self._folder.is_dir():
            yield from (path for path in list(self._folder.iterdir()) if path.name != _LOCK and path.is_file())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time reads or writes what is saved, so that no run goes while it is read."""
        if self._folder is None or not self._folder.is_dir():
            yield
            return
        with file_lock(self._folder / _LOCK):
            yield

    def _made_by(self) -> str:
        """Changes where the same key may have another hash: Polars promises equal ones only of the same version."""
        probe = pl.DataFrame(
            {"text": ["", "a", "0123456789abcdef" * 9, None], "float": [0.0, 0.1, None, 2.0]},
            schema={"text": pl.String, "float": pl.Float64},
        ).with_columns(time=pl.lit(datetime(2026, 1, 1, tzinfo=UTC)).cast(pl.Datetime("us", "UTC")))
        hashes = [*probe["text"].hash(), *probe.hash_rows()]
        return f"{pl.__version__} {' '.join(self._columns)} {' '.join(f'{value:x}' for value in hashes)}"


def _name(file: str) -> str:
    return file.rsplit("/", 1)[-1]
