"""catalog.duckdb: a disposable file of views over the lake, for users to open read-only.

It pins the Parquet files of one version of every table. A new one replaces it atomically; who has the old one open
keeps a consistent picture.
"""

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from qbawa.storage.files import atomic_swap
from qbawa.storage.sql import sql_literal, sql_name
from qbawa.storage.tables import TABLES
from qbawa.storage.versions import versions_on_disk
from qbawa.storage.views import view_sql

if TYPE_CHECKING:
    from qbawa.storage.lake import Lake


def publish(lake: "Lake", path: Path) -> bool:
    """Write the catalog again if the lake has moved on since, or to another place; False where it is up to date.

    Views over tables that have not changed are taken over from the catalog before.
    """
    home = path.absolute().parent
    before = _pinned(path)
    if before is not None and before.is_of(lake.uri, home) and before.versions == lake.versions():
        return False
    # Read before the files: what is written meanwhile is published by the next call, never missed.
    now = Pinned({name: lake.state(name) for name in TABLES}, lake.uri, str(home), _LAYOUT)
    path.parent.mkdir(parents=True, exist_ok=True)
    stays: set[str] = set()
    with atomic_swap(path) as draft:
        if before is not None and before.is_of(lake.uri, home):
            stays = {name for name, state in now.tables.items() if before.tables.get(name) == state}
            shutil.copyfile(path, draft)
        with duckdb.connect(str(draft)) as connection:
            _write_views(connection, lake, home, TABLES.keys() - stays)
            _pin(connection, now)
    return True


def is_current(path: Path, lake: str) -> bool:
    """Whether a catalog surely shows what the lake of this address holds. Opens no table, and does not know of remote ones."""
    before = _pinned(path)
    return (
        before is not None
        and before.is_of(lake, path.absolute().parent)
        and before.versions == versions_on_disk(lake, TABLES)
    )


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a catalog shows: which tables (`Lake.state`) of which lake, for which home, in which layout."""

    tables: Mapping[str, tuple[str, int]]
    lake: str
    home: str
    layout: str

    @property
    def versions(self) -> dict[str, int]:
        return {name: version for name, (_, version) in self.tables.items()}

    def is_of(self, lake: str, home: Path) -> bool:
        """Whether it may differ in nothing but tables from what would be written now."""
        return (self.lake, self.home, self.layout) == (lake, str(home), _LAYOUT)


_LAYOUT = hashlib.sha256(
    repr([(table, view_sql(name, ["a file"], Path("/home"))) for name, table in TABLES.items()]).encode()
).hexdigest()
"""Changes with what a newer qbawa makes of the same files."""


def _write_views(connection: duckdb.DuckDBPyConnection, lake: "Lake", home: Path, names: Collection[str]) -> None:
    for name in names:
        connection.execute(f"DROP VIEW IF EXISTS {name}")
        connection.execute(view_sql(name, lake.files(name), home, alike=lake.files_alike(name)))
        connection.execute(f"COMMENT ON VIEW {name} IS {sql_literal(TABLES[name].rows)}")
        for column in TABLES[name].columns:
            connection.execute(f"COMMENT ON COLUMN {name}.{sql_name(column.name)} IS {sql_literal(column.description)}")


def _pin(connection: duckdb.DuckDBPyConnection, now: Pinned) -> None:
    connection.execute(
        f"CREATE OR REPLACE VIEW lake_versions AS SELECT {sql_literal(json.dumps(now.versions))} AS versions, "
        f"{sql_literal(json.dumps(dict(now.tables)))} AS tables, {sql_literal(now.lake)} AS lake, "
        f"{sql_literal(now.home)} AS home, {sql_literal(now.layout)} AS layout"
    )


_known: dict[Path, tuple[tuple[int, ...], Pinned]] = {}
"""What this process has found in a catalog, by path, as long as the file is the same: opening one takes DuckDB 10 ms."""


def _pinned(path: Path) -> Pinned | None:
    """What a catalog shows; None where there is none, or one of another version's making."""
    try:
        file = path.stat()
    except OSError:
        return None
    identity = (file.st_ino, file.st_size, file.st_mtime_ns)
    if path in _known and _known[path][0] == identity:
        return _known[path][1]
    row = _first_row(path, "SELECT tables, lake, home, layout FROM lake_versions")
    if row is None:
        return None
    tables = {name: (str(table), int(version)) for name, (table, version) in json.loads(row[0]).items()}
    found = Pinned(tables, *row[1:])
    _known[path] = identity, found
    return found


def pinned_versions(path: Path) -> dict[str, int] | None:
    """Versions of the lake's tables that a catalog shows; None where the file cannot be read as a catalog."""
    row = _first_row(path, "SELECT versions FROM lake_versions")
    return json.loads(row[0]) if row else None


def _first_row(path: Path, sql: str) -> tuple[str, ...] | None:
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            return connection.execute(sql).fetchone()
    except duckdb.Error:
        return None
