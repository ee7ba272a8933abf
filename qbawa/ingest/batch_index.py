"""Batches that the lake holds: thousands a year, so they stand in one SQLite file and not in a manifest each.

A tick of the sensor asks it which files of a folder are known, and nothing else of what has ever been ingested.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

NAME = "done.sqlite"
Stamp = tuple[int, int, int]
"""When a folder was changed, by its content and at all, in ns, and its number."""
NEVER: Stamp = (-1, -1, -1)
_TABLES = """
CREATE TABLE IF NOT EXISTS batch (name TEXT PRIMARY KEY, empty INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segment (
    batch TEXT NOT NULL, position INTEGER NOT NULL, folder TEXT NOT NULL, name TEXT NOT NULL, bytes INTEGER NOT NULL,
    changed_ns INTEGER NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (batch, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS segment_by_place ON segment (folder, name);
CREATE INDEX IF NOT EXISTS segment_by_content ON segment (sha256);
CREATE TABLE IF NOT EXISTS copy (folder TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (folder, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS look (
    folder TEXT PRIMARY KEY, written_ns INTEGER NOT NULL, changed_ns INTEGER NOT NULL, number INTEGER NOT NULL,
    growing TEXT NOT NULL, unknown TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lake (name TEXT PRIMARY KEY, id TEXT NOT NULL, version INTEGER NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Segment:
    """A closed segment as it was when its batch was formed. A copy of it under any name has the same sha256."""

    path: Path
    bytes: int
    changed_ns: int
    sha256: str


class BatchIndex:
    """The file `done.sqlite` in a folder of manifests. Folders are written relative to `home`, where they lie in it.

    Any number of processes may use it at once; a kill at any moment leaves it as it was before or after.
    """

    def __init__(self, manifests: Path, home: Path) -> None:
        self.path, self._home = manifests / NAME, home

    def add(self, batches: Iterable[tuple[str, Sequence[Segment], bool]]) -> None:
        """The lake holds these batches (name, segments), or has nothing of one because it is empty (True)."""
        named, rows = [], []
        for batch, segments, empty in batches:
            named.append((batch, empty))
            for at, s in enumerate(segments):
                place = (self._folder(s.path.parent), s.path.name)
                rows.append((batch, at, *place, s.bytes, s.changed_ns, s.sha256))
        with self._writing() as index:
            index.executemany("INSERT OR REPLACE INTO batch VALUES (?, ?)", named)
            index.executemany("INSERT OR REPLACE INTO segment VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def remove(self, name: str) -> None:
        """The lake does not hold this batch any more."""
        with self._writing() as index:
            index.execute("DELETE FROM batch WHERE name = ?", (name,))
            index.execute("DELETE FROM segment WHERE batch = ?", (name,))

    def names(self, *, empty: bool) -> list[str]:
        """Names of all batches that are or are not empty, sorted."""
        return [name for (name,) in self._rows("SELECT name FROM batch WHERE empty = ? ORDER BY name", (empty,))]

    def get(self, name: str) -> tuple[tuple[Segment, ...], bool] | None:
        """A batch's segments, and whether it is empty; None where it is not here."""
        found = self._rows("SELECT empty FROM batch WHERE name = ?", (name,))
        if not found:
            return None
        rows = self._rows(
            "SELECT folder, name, bytes, changed_ns, sha256 FROM segment WHERE batch = ? ORDER BY position", (name,)
        )
        return tuple(Segment(self._home / f / n, b, c, s) for f, n, b, c, s in rows), bool(found[0][0])

    def names_in(self, folder: Path) -> set[str]:
        """Names of the files in a folder whose content has been taken."""
        found: set[str] = set()
        for table in ("segment", "copy"):
            # As one text: 100,000 rows of one name each take three times as long. No name holds a slash.
            sql = f"SELECT group_concat(name, '/') FROM {table} WHERE folder = ?"
            ((names,),) = self._rows(sql, (self._folder(folder),)) or [(None,)]
            found.update((names or "").split("/"))
        return found - {""}

    def knows(self, folder: Path, name: str) -> bool:
        """Whether the file of this name in a folder is one of `names_in`."""
        sql = "SELECT 1 FROM segment WHERE folder = ?1 AND name = ?2 UNION ALL SELECT 1 FROM copy WHERE folder = ?1 AND name = ?2"
        return bool(self._rows(sql, (self._folder(folder), name)))

    def holds(self, sha256: str) -> bool:
        """Whether a segment of this content is in one of the batches."""
        return bool(self._rows("SELECT 1 FROM segment WHERE sha256 = ? LIMIT 1", (sha256,)))

    def note_copies(self, paths: Iterable[Path]) -> None:
        """These files hold what was taken under another name: they need not be read again."""
        rows = [(self._folder(path.parent), path.name) for path in paths]
        if rows:
            with self._writing() as index:
                index.executemany("INSERT OR IGNORE INTO copy VALUES (?, ?)", rows)

    def look(self, folder: Path) -> tuple[Stamp, list[str], list[str]] | None:
        """What a process has seen in a folder with this stamp: names that grow, and closed segments that are not here.

        None where nobody has noted it.
        """
        sql = "SELECT written_ns, changed_ns, number, growing, unknown FROM look WHERE folder = ?"
        try:
            found = self._rows(sql, (self._folder(folder),))
        except sqlite3.OperationalError:  # an index of before there was this table
            return None
        if not found:
            return None
        written, changed, number, growing, unknown = found[0]
        return (written, changed, number), json.loads(growing), json.loads(unknown)

    def note_look(self, folder: Path, stamp: Stamp, growing: Sequence[str], unknown: Sequence[str]) -> None:
        """With this stamp the folder has these names that grow, and these closed segments that are not here."""
        row = (self._folder(folder), *stamp, json.dumps(growing), json.dumps(unknown))
        with self._writing() as index:
            index.execute("INSERT OR REPLACE INTO look VALUES (?, ?, ?, ?, ?, ?)", row)

    def taken_before(self, folder: Path, changed_ns: int) -> Iterator[tuple[str, Segment]]:
        """Batch and segment of every file in a folder that was last written before this moment."""
        sql = "SELECT batch, folder, name, bytes, changed_ns, sha256 FROM segment WHERE folder = ? AND changed_ns < ?"
        for batch, place, name, size, changed, sha256 in self._rows(sql, (self._folder(folder), changed_ns)):
            yield batch, Segment(self._home / place / name, size, changed, sha256)

    def moved(self, places: Mapping[Path, Path]) -> None:
        """Segments that lie elsewhere now."""
        rows = [(self._folder(new.parent), new.name, self._folder(old.parent), old.name) for old, new in places.items()]
        with self._writing() as index:
            index.executemany("UPDATE segment SET folder = ?, name = ? WHERE folder = ? AND name = ?", rows)

    def rewritten(self, contents: Mapping[Path, Segment]) -> None:
        """Segments of which lines were cut out, by where they lie."""
        rows = [
            (new.bytes, new.changed_ns, new.sha256, self._folder(path.parent), path.name)
            for path, new in contents.items()
        ]
        with self._writing() as index:
            index.executemany(
                "UPDATE segment SET bytes = ?, changed_ns = ?, sha256 = ? WHERE folder = ? AND name = ?", rows
            )

    def lake(self) -> dict[str, tuple[str, int]]:
        """Id and version of each table of the lake for which this index is right; empty where that is not known."""
        return {name: (id, version) for name, id, version in self._rows("SELECT name, id, version FROM lake")}

    def note_lake(self, tables: Mapping[str, tuple[str, int]]) -> None:
        """This index is right for these tables, and for their later versions."""
        if tables != self.lake():
            with self._writing() as index:
                index.executemany("INSERT OR REPLACE INTO lake VALUES (?, ?, ?)", [(n, *t) for n, t in tables.items()])

    def _folder(self, folder: Path) -> str:
        return str(folder.relative_to(self._home)) if folder.is_relative_to(self._home) else str(folder)

    def _rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple]:
        if not self.path.exists():
            return []
        try:
            return self._read("ro", sql, values)
        except sqlite3.OperationalError as error:
            if "readonly" not in str(error):
                raise
            # Whoever wrote last was killed, and what it began must be taken back before anybody can read.
            return self._read("rw", sql, values)

    def _read(self, mode: str, sql: str, values: Sequence[object]) -> list[tuple]:
        with closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, timeout=60)) as index:
            try:
                return index.execute(sql, values).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):  # whoever began the file was killed: it says nothing yet
                    return []
                raise

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        os.makedirs(self.path.parent, exist_ok=True)
        with closing(sqlite3.connect(self.path, timeout=60)) as index:
            index.executescript(_TABLES)
            with index:
                yield index
