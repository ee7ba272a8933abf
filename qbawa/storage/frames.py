"""The lake's tables as frames: what a row looks like, without a lake.

Modules that compute on rows import this one; only the doors of a stage know the lake itself.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import polars as pl

from qbawa.storage.tables import ColumnType, table_named

BLOCK = "block_id"
_POLARS: dict[ColumnType, pl.DataType] = {
    "text": pl.String(),
    "int": pl.Int64(),
    "float": pl.Float64(),
    "bool": pl.Boolean(),
    "time": pl.Datetime("us", "UTC"),
    "texts": pl.List(pl.String()),
    "bytes": pl.Binary(),
}


def schema_of(table: str) -> pl.Schema:
    """Columns and types of a table, `block_id` last."""
    return pl.Schema({c.name: _POLARS[c.type] for c in table_named(table).columns} | {BLOCK: pl.String()})


def frame(table: str, rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """Rows as a frame of the table's schema; a key that is absent becomes null."""
    return pl.DataFrame(rows, schema=schema_of(table), orient="row")


def now() -> datetime:
    """The present, in UTC and microseconds: the lake's unit of time."""
    return datetime.now(UTC)
