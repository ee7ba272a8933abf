"""catalog.duckdb: a disposable file of views over the lake, for users to open read-only.

It pins the Parquet files of one version of every table. A new one replaces it atomically; who has the old one open
keeps a consistent picture.
"""

import json
from pathlib import Path

import duckdb

from qbawa.storage.files import atomic_swap
from qbawa.storage.lake import Lake, view_sql
from qbawa.storage.sql import sql_literal, sql_name
from qbawa.storage.tables import TABLES


def publish(lake: Lake, path: Path) -> bool:
    """Write the catalog again if the lake has moved on since, or to another place; False where it is up to date."""
    versions, home = lake.versions(), path.absolute().parent
    if path.exists() and pinned_versions(path) == versions and _places(path) == (lake.uri, str(home)):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_swap(path) as draft, duckdb.connect(str(draft)) as connection:
        for name, table in TABLES.items():
            connection.execute(view_sql(name, lake.files(name), home))
            connection.execute(f"COMMENT ON VIEW {name} IS {sql_literal(table.rows)}")
            for column in table.columns:
                connection.execute(
                    f"COMMENT ON COLUMN {name}.{sql_name(column.name)} IS {sql_literal(column.description)}"
                )
        connection.execute(
            f"CREATE VIEW lake_versions AS SELECT {sql_literal(json.dumps(versions))} AS versions, "
            f"{sql_literal(lake.uri)} AS lake, {sql_literal(str(home))} AS home"
        )
    return True


def pinned_versions(path: Path) -> dict[str, int] | None:
    """Versions of the lake's tables that a catalog shows; None where the file cannot be read as a catalog."""
    row = _first_row(path, "SELECT versions FROM lake_versions")
    return json.loads(row[0]) if row else None


def _places(path: Path) -> tuple[str, ...] | None:
    """Lake and home whose files a catalog names; None where it is 0.1.0's, which did not write them down."""
    return _first_row(path, "SELECT lake, home FROM lake_versions")


def _first_row(path: Path, sql: str) -> tuple[str, ...] | None:
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            return connection.execute(sql).fetchone()
    except duckdb.Error:
        return None
