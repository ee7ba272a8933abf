"""Rows to JSONL and Parquet, a slice at a time, so that memory does not grow with the dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from qbawa.datasets.exports.check import arrow_type, arrow_value, compile_schema
from qbawa.datasets.exports.formats import FORMATS, Pair, Row, read_messages
from qbawa.errors import InputError
from qbawa.model_apis.meaning import meaning

Json = Any
SLICE = 10_000


def write_split(
    rows: pl.DataFrame,
    format_name: str,
    stem: Path,
    inputs: Mapping[str, Mapping[str, Json]] | None = None,
    tool_form: bool = False,
) -> int:
    """Write the rows of the split that `stem` is named after, as `stem`.jsonl and `stem`.parquet; returns their number.

    `rows` are those of `to_rows`, of all splits; `inputs` the step's inputs by request, for formats that name them;
    `tool_form`: whether the Parquet files have the columns of tools, calls and results.
    Every row is checked against the format's schema; InputError names the first that fails.
    """
    spec = FORMATS[format_name]
    check, names = compile_schema(spec.schema), _names(rows, inputs)
    places = (rows["split"] == stem.name).arg_true()
    schema = arrow_schema(format_name, names, tool_form)
    # In Parquet an object of unknown keys is JSON text.
    known = spec.schema["properties"]
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    textual = [name for name in texts if known.get(name, {}).get("type") != "string"]
    with (
        stem.with_suffix(".jsonl").open("wb") as lines,
        pq.ParquetWriter(stem.with_suffix(".parquet"), schema, compression="zstd", store_schema=True) as table,
    ):
        for start in range(0, len(places), SLICE):
            batch = list(_rows(rows[places[start : start + SLICE]], spec.row, inputs or {}))
            for k, row in enumerate(batch):
                if (wrong := check(row)) is not None:
                    raise InputError(f"Row {start + k} of {stem.name} is not {format_name}: {wrong}.")
            lines.write(b"".join([orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in batch]))
            if tool_form:
                batch = [
                    {field.name: arrow_value(row.get(field.name), field.type) for field in schema} for row in batch
                ]
            elif textual:
                batch = [{**row, **{n: _text(row.get(n)) for n in textual}} for row in batch]
            table.write_table(pa.Table.from_pylist(batch, schema=schema))
    return len(places)


def _said(answers: pl.Series) -> pl.Series:
    """What tells answers apart: their text, of those that call tools what they mean."""
    calling = answers.str.contains('"tool_calls"', literal=True)
    if not calling.any():
        return answers
    known = {text: meaning(text) for text in answers.filter(calling).unique()}
    return answers.replace(known)


def write_lineage(pairs: pl.DataFrame, path: Path) -> None:
    """Write what stands behind each pair, a slice at a time."""
    places = pl.int_range(pairs.height, eager=True)
    # Gathered, not sliced: a slice of a list column would be converted with all the lists around it.
    schema = pairs[places.head(0)].to_arrow().schema
    with pq.ParquetWriter(path, schema, compression="zstd", write_statistics=False) as table:
        for start in range(0, pairs.height, 5 * SLICE):
            table.write_table(pairs[places[start : start + 5 * SLICE]].to_arrow())


def to_rows(pairs: pl.DataFrame, format_name: str) -> tuple[pl.DataFrame, int]:
    """The pairs as the rows that a format holds, and how many answers it had to leave out.

    Columns: split, pair_id, request_id, question, parameters, best, worse, label. In formats of single answers an answer
    stands once: as good where more pairs call it best than worse, as bad in the opposite case, left out where it is even.
    In formats of best answers only those stand that no pair calls worse.
    """
    holds = FORMATS[format_name].holds
    if "parameters" not in pairs.columns:
        pairs = pairs.with_columns(parameters=pl.lit(None, pl.String))
    keep = ["split", "pair_id", "request_id", "step", "question", "parameters"]
    if holds == "pairs":
        return pairs.select(*keep, best="best_answer", worse="worse_answer", label=pl.lit(True)), 0
    by = ["step", "request_id", "question", "said"]
    sides = pl.concat(
        [
            pairs.select(*keep, best="best_answer", vote=pl.lit(1)),
            pairs.select(*keep, best="worse_answer", vote=pl.lit(-1)),
        ]
    )
    answers = (
        sides.with_columns(said=_said(sides["best"]))
        .group_by(by, maintain_order=True)
        .agg(
            pl.col("split", "pair_id", "parameters", "best").first(),
            votes=pl.col("vote").sum(),
            lost=(pl.col("vote") < 0).sum(),
        )
    )
    kept = answers.filter(pl.col("votes") != 0) if holds == "answers" else answers.filter(pl.col("lost") == 0)
    rows = kept.select(*keep, "best", worse=pl.lit(""), label=pl.col("votes") > 0).sort("step", "request_id", "best")
    unused = answers.height - kept.height if holds == "answers" else 0
    return rows, unused


def arrow_schema(format_name: str, names: list[str], tool_form: bool = False) -> pa.Schema:
    """The Parquet schema of a format; `names` are the step's inputs, for DSPy."""
    schema = FORMATS[format_name].schema
    if format_name == "dspy":
        more = ["tools", "tool_calls"] if tool_form else []
        asked = [*names, *(f"input_{name}" for name in more if name in names)] or ["question"]
        every = dict.fromkeys([*asked, *more, "answer"])
        return pa.schema([pa.field(name, pa.string()) for name in every])
    return pa.schema(list(arrow_type(schema, tool_form)))


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rows(rows: pl.DataFrame, make: Any, inputs: Mapping[str, Mapping[str, Json]]) -> Iterator[Row]:
    columns = [rows[name].to_list() for name in ("question", "best", "worse", "request_id", "label", "parameters")]
    for question, best, worse, request_id, label, asked in zip(*columns, strict=True):
        yield make(Pair(_messages(question), best, worse, inputs.get(request_id, {}), label, _asked(asked)))


@lru_cache(maxsize=4096)
def _messages(question: str) -> list[dict[str, Json]]:
    return read_messages(question)


@lru_cache(maxsize=4096)
def _asked(parameters: str | None) -> dict[str, Json]:
    return orjson.loads(parameters) if parameters else {}


def _names(rows: pl.DataFrame, inputs: Mapping[str, Mapping[str, Json]] | None) -> list[str]:
    asked = [inputs[r] for r in rows["request_id"].unique() if r in inputs] if inputs else []
    return sorted({f"input_{name}" if name == "answer" else name for some in asked for name in some})


def _text(value: Json) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()
