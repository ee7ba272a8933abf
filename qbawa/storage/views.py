"""Tables as DuckDB sees them: views over Parquet files. Text alone; nothing is opened."""

from collections.abc import Sequence
from pathlib import Path

from qbawa.storage.sql import sql_literal, sql_name
from qbawa.storage.tables import ColumnType, table_named


def view_sql(table: str, files: Sequence[str], home: Path | None = None, *, alike: bool = False) -> str:
    """SQL that makes a DuckDB view of a table over exactly these Parquet files.

    With `home` its paths, which are relative to the home, are shown whole. Where the files are `alike` in their columns,
    DuckDB opens one of them to know what they are, otherwise all.
    """
    columns = table_named(table).columns
    empty = f"SELECT {', '.join(f'NULL::{_DUCKDB[c.type]} AS {sql_name(c.name)}' for c in columns)} WHERE false"
    if not files:
        return f"CREATE VIEW {sql_name(table)} AS {empty}"
    names, paths = (
        ", ".join(
            _whole_path(column.name, home) if column.is_path and home else sql_name(column.name) for column in columns
        ),
        ", ".join(sql_literal(path) for path in files),
    )
    # The empty part has the columns that a newer qbawa added and none of these files holds yet.
    return (
        f"CREATE VIEW {sql_name(table)} AS SELECT {names} FROM "
        f"({empty} UNION ALL BY NAME SELECT * FROM read_parquet([{paths}], union_by_name = {'false' if alike else 'true'}))"
    )


_DUCKDB: dict[ColumnType, str] = {
    "text": "VARCHAR",
    "int": "BIGINT",
    "float": "DOUBLE",
    "bool": "BOOLEAN",
    "time": "TIMESTAMPTZ",
    "texts": "VARCHAR[]",
    "bytes": "BLOB",
}


def _whole_path(column: str, home: Path) -> str:
    name = sql_name(column)
    return f"CASE WHEN starts_with({name}, '/') THEN {name} ELSE {sql_literal(f'{home}/')} || {name} END AS {name}"
