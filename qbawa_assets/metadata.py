"""What a materialisation shows its owner: rows, dollars, a table, a picture; and the columns of every table."""

import base64
from collections.abc import Mapping
from typing import Any

import polars as pl
from dagster import DataVersion, MetadataValue, TableColumn, TableRecord, TableSchema

from qbawa.storage.tables import TABLES
from qbawa.text import shorten
from qbawa_assets.column_lineage import lineage_of


def columns_of(table: str) -> dict[str, Any]:
    """Definition metadata of an asset: its table's columns, as described in `qbawa.storage.tables`, and where they come from."""
    columns = [TableColumn(c.name, c.type, description=c.description) for c in TABLES[table].columns]
    return {
        "dagster/column_schema": TableSchema(columns),
        "dagster/column_lineage": lineage_of(table),
        "dagster/table_name": table,
    }


def picture(png: bytes | None) -> MetadataValue:
    """A PNG as metadata that the UI draws."""
    if png is None:
        return MetadataValue.text("nothing to draw yet")
    return MetadataValue.md(f"![picture](data:image/png;base64,{base64.b64encode(png).decode()})")


def preview(rows: pl.DataFrame, columns: list[str] | None = None, count: int = 10) -> MetadataValue:
    """The first rows as a table. Texts are cut and shown as they stand; the UI reads no markup in them."""
    shown = rows.select(columns) if columns else rows
    kinds = {name: _kind(kind) for name, kind in shown.schema.items()}
    records = [
        TableRecord({name: _cell(value, kinds[name]) for name, value in row.items()})
        for row in shown.head(count).iter_rows(named=True)
    ]
    return MetadataValue.table(records, TableSchema([TableColumn(name, kind) for name, kind in kinds.items()]))


def counts(values: Mapping[str, int]) -> MetadataValue:
    """Counted reasons."""
    return MetadataValue.json(dict(values))


def mean_of(rows: pl.DataFrame, *columns: str) -> dict[str, float]:
    """Means of columns as numbers that the UI plots over time; what nobody knows is left out."""
    means = {f"mean_{name}": rows[name].mean() for name in columns}
    return {name: value for name, value in means.items() if isinstance(value, float)}


def version_of(rows: pl.DataFrame) -> DataVersion:
    """What tells these rows from others, in whatever order: assets made from equal rows are in step with them."""
    return DataVersion(f"{rows.height}-{rows.hash_rows().sum() if rows.height else 0:x}")


def _kind(kind: pl.DataType) -> str:
    return "float" if kind.is_float() else "int" if kind.is_integer() else "bool" if kind == pl.Boolean else "string"


def _cell(value: object, kind: str) -> str | float | bool | None:
    if value is None or kind == "bool":
        return value if isinstance(value, bool) else None
    if kind == "float" and isinstance(value, float):
        return float(f"{value:.4g}") if value == value and abs(value) != float("inf") else str(value)
    return value if isinstance(value, int) else shorten(str(value), 80)
