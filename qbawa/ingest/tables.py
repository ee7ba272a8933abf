"""Tables of other evaluations, read and checked: CSV, JSON lines, a JSON list, Parquet, or a frame.

Everything is checked before anything is written; an InputError names the table, its columns, the first row at fault.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from qbawa.errors import InputError
from qbawa.ingest.formats.step_rows import BadRecordError, moment


@dataclass(frozen=True, slots=True)
class Field:
    """A column that an import understands. `names` are what else it may be called without a mapping."""

    name: str
    type: pl.DataType
    required: bool = False
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableReport:
    """What an import of a table did. `changed` is False where the lake held all of it before."""

    rows: int
    written: dict[str, int]
    """New or different rows, by table of the lake; in a dry run, what they would be."""
    skipped: dict[str, int]
    """Rows that say nothing that could be stored, by reason."""
    strategies: int
    requests: int
    changed: bool


def read_table(
    table: str | Path | pl.DataFrame, fields: tuple[Field, ...], columns: Mapping[str, str] | None = None
) -> tuple[pl.DataFrame, dict[str, str]]:
    """The table under our names and types, with `row` numbered from 1; and which of its columns each name came from.

    `columns` maps our name to the table's, where they differ. Columns that no field asks for are dropped.
    """
    name = "the table" if isinstance(table, pl.DataFrame) else str(table)
    raw = table if isinstance(table, pl.DataFrame) else load_table(Path(table))
    source = _match_columns(name, raw.columns, fields, columns or {})
    rows = raw.select(pl.col(theirs).alias(ours) for ours, theirs in source.items()).with_row_index("row", 1)
    for field in fields:
        if field.name in source:
            rows = _typed(name, rows, field)
            if field.required and field.type == pl.String:
                _refuse_where(
                    name, rows, pl.col(field.name).is_null() | (pl.col(field.name) == ""), field.name, "is empty"
                )
    return rows, source


def refuse_where(table: str | Path | pl.DataFrame, rows: pl.DataFrame, wrong: pl.Expr, column: str, why: str) -> None:
    """Raise InputError for the first row for which `wrong` holds."""
    _refuse_where("the table" if isinstance(table, pl.DataFrame) else str(table), rows, wrong, column, why)


def load_table(path: Path) -> pl.DataFrame:
    """The table in a file, all text where the format has no types. Raises InputError where it cannot be read."""
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    with path.open("rb") as file:
        head = file.read(4096)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    form = "Parquet" if head.startswith(b"PAR1") else "JSON" if start in (b"{", b"[") else "CSV"
    try:
        if form == "Parquet":
            return pl.read_parquet(path, glob=False)
        if start == b"{":
            return _from_objects([json.loads(line) for line in path.read_bytes().splitlines() if line.strip()])
        if start == b"[":
            return _from_objects(json.loads(path.read_bytes()))
        # All text: an id such as 0012 must not become the number 12.
        return pl.read_csv(path, infer_schema=False, separator="\t" if path.suffix == ".tsv" else ",", glob=False)
    except (pl.exceptions.PolarsError, ValueError, RecursionError, OSError) as error:
        reason = str(error).strip().splitlines()
        raise InputError(
            f"{path} is not a readable table in {form}"
            f"{', one object a line or one list of objects' if form == 'JSON' else ''}: {reason[0] if reason else error}"
        ) from None


def _from_objects(objects: Any) -> pl.DataFrame:
    """A frame of text columns, anything that is not text as JSON."""
    if not isinstance(objects, list) or not all(isinstance(item, dict) for item in objects):
        raise ValueError("not a list of objects")
    names = dict.fromkeys(name for item in objects for name in item)
    return pl.DataFrame({name: [_as_text(item.get(name)) for item in objects] for name in names})


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _match_columns(
    name: str, present: list[str], fields: tuple[Field, ...], columns: Mapping[str, str]
) -> dict[str, str]:
    """Our column names to the table's."""
    required = [field.name for field in fields if field.required]
    optional = [field.name for field in fields if not field.required]
    known = (
        f"Present: {', '.join(present) or 'none'}. Required: {', '.join(required)}; optional: {', '.join(optional)}."
    )
    strange = [ours for ours in columns if ours not in required + optional]
    if strange:
        raise InputError(f"{name}: nothing here is called {', '.join(strange)}. {known}")
    absent = [theirs for theirs in columns.values() if theirs not in present]
    if absent:
        raise InputError(f"{name} has no column {', '.join(absent)}. {known}")
    source = dict(columns)
    for field in fields:
        found = [n for n in (field.name, *field.names) if n in present and n not in columns.values()]
        if field.name not in source and found:
            source[field.name] = found[0]
    missing = [field for field in required if field not in source]
    if missing:
        raise InputError(
            f"{name} lacks the columns {', '.join(missing)}. {known} Where one is called otherwise, say "
            f"--map {missing[0]}=COLUMN (columns={{'{missing[0]}': 'COLUMN'}} in Python)."
        )
    return source


def _typed(name: str, rows: pl.DataFrame, field: Field) -> pl.DataFrame:
    column = rows[field.name]
    if isinstance(column.dtype, pl.Struct | pl.List | pl.Array):
        column = pl.Series(field.name, [_as_text(value) for value in column.to_list()], pl.String)
    if column.dtype == pl.Boolean and field.type == pl.String:
        column = column.cast(pl.String)
    if isinstance(field.type, pl.Datetime):
        cast = _times(column)
    elif field.type == pl.Int64 and column.dtype != pl.Int64:
        cast = column.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)
    else:
        cast = column.cast(field.type, strict=False)
    if field.type == pl.Float64:
        cast = cast.set(cast.is_nan() | cast.is_infinite(), None)
    rows = rows.with_columns(column.alias("_given"), cast.alias(field.name))
    # An empty cell of a CSV is null already; NaN stands for "no value" in frames that came from pandas.
    given = pl.col("_given").is_not_null() & ~pl.col("_given").cast(pl.String).is_in(["", "NaN"])
    _refuse_where(name, rows, given & pl.col(field.name).is_null(), "_given", f"is no {_NAMES[field.type]}", field.name)
    return rows.drop("_given")


def _times(column: pl.Series) -> pl.Series:
    """Times in UTC; numbers are seconds since 1970."""
    utc = pl.Datetime("us", "UTC")
    if column.dtype.is_numeric():
        return (column.cast(pl.Float64) * 1e6).cast(pl.Int64).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if isinstance(column.dtype, pl.Datetime):
        return column.cast(utc) if column.dtype.time_zone else column.dt.replace_time_zone("UTC").cast(utc)
    found = {text: _moment(text) for text in column.cast(pl.String).unique().drop_nulls()}
    return column.cast(pl.String).replace_strict(found, default=None, return_dtype=utc)


def _moment(text: str) -> datetime | None:
    try:
        return moment(text)
    except BadRecordError:
        return None


def _refuse_where(
    name: str, rows: pl.DataFrame, wrong: pl.Expr, column: str, why: str, called: str | None = None
) -> None:
    bad = rows.filter(wrong)
    if not bad.is_empty():
        more = f" ({bad.height:,} such rows)" if bad.height > 1 else ""
        raise InputError(f"{name}, row {bad['row'][0]}: `{called or column}` {why}: {bad[column][0]!r:.80}{more}.")


TEXT, FLOAT, INT, TIME = pl.String(), pl.Float64(), pl.Int64(), pl.Datetime("us", "UTC")
_NAMES: dict[Any, str] = {TEXT: "text", FLOAT: "number", INT: "whole number", TIME: "time"}
