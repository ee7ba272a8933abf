"""What a materialisation shows its owner: rows, dollars, a preview, a picture; and the columns of every table."""

import base64
from collections.abc import Mapping
from typing import Any

import polars as pl
from dagster import MetadataValue, TableColumn, TableSchema

from qbawa.storage.tables import TABLES
from qbawa.text import shorten


def columns_of(table: str) -> dict[str, Any]:
    """Definition metadata of an asset: its table's columns, as described in `qbawa.storage.tables`."""
    columns = [TableColumn(c.name, c.type, description=c.description) for c in TABLES[table].columns]
    return {"dagster/column_schema": TableSchema(columns), "dagster/table_name": table}


def picture(png: bytes | None) -> MetadataValue:
    """A PNG as metadata that the UI draws."""
    if png is None:
        return MetadataValue.text("nothing to draw yet")
    return MetadataValue.md(f"![picture](data:image/png;base64,{base64.b64encode(png).decode()})")


def preview(rows: pl.DataFrame, columns: list[str] | None = None, count: int = 10) -> MetadataValue:
    """The first rows as a table; texts are cut, and whatever could be read as markup is shown as it stands."""
    shown = rows.select(columns) if columns else rows
    head = shown.head(count)
    lines = ["| " + " | ".join(head.columns) + " |", "|" + " --- |" * len(head.columns)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in head.iter_rows()]
    return MetadataValue.md("\n".join(lines))


def counts(values: Mapping[str, int]) -> MetadataValue:
    """Counted reasons."""
    return MetadataValue.json(dict(values))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = shorten("" if value is None else str(value), 80)
    # Backslash escapes are Markdown's own way of taking a character literally; & < > would start HTML.
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join("\\" + c if c in r"\`*_{}[]()#+!|~" else c for c in text)
