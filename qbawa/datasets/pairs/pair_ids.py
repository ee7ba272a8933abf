"""Ids and comparable texts of many pairs at once. A text stands in many pairs, so each is looked at once."""

from __future__ import annotations

import hashlib
import json

import polars as pl

from qbawa.datasets.near_duplicates import normalised_texts
from qbawa.model_apis.meaning import meaning


def distinct(texts: pl.Series) -> tuple[pl.Series, pl.DataFrame]:
    """Each text's key, and a table with one row per key: key, text. Keys hold within one process only.

    Grouping by a 64-bit hash instead of by the text keeps Polars from copying a text for every row that has it.
    """
    key = texts.hash(0).alias("key")
    table = pl.DataFrame({"key": key, "text": texts}).unique("key", keep="first", maintain_order=True)
    return key, table


def codes(texts: pl.Series) -> pl.Series:
    """A number for each text; texts that are equal after normalisation have the same. Within one process only."""
    key, table = distinct(texts)
    code = table.select("key", code=normalised_texts(table["text"]).hash(0))
    return key.to_frame().join(code, on="key", how="left", maintain_order="left")["code"]


def whole_questions(rows: pl.DataFrame) -> pl.Series:
    """All that was asked as one text: the messages, and below them what was asked besides, if anything."""
    if "parameters" not in rows.columns or rows["parameters"].null_count() == rows.height:
        return rows["question"]
    return rows.select(pl.concat_str("question", "parameters", separator="\n", ignore_nulls=True)).to_series()


def answer_codes(answers: pl.Series) -> pl.Series:
    """As `codes`, but objects and tool calls have the same number where they mean the same."""
    key, table = distinct(answers)
    structured = pl.col("text").str.contains(r"^\s*[{\[]").fill_null(False)
    said = table.with_columns(words=normalised_texts(table["text"])).with_columns(
        words=pl.when(structured).then(pl.col("text").map_elements(meaning, pl.String)).otherwise("words")
    )
    code = said.select("key", code=pl.col("words").hash(0))
    return key.to_frame().join(code, on="key", how="left", maintain_order="left")["code"]


def pair_ids(pairs: pl.DataFrame, best: str = "best_answer", worse: str = "worse_answer") -> pl.Series:
    """`qbawa.ids.pair_id` of every row; columns needed: request_id, step and those named."""
    encoded: dict[int, bytes] = {}
    keys = []
    for name in ("request_id", "step", best, worse):
        key, table = distinct(pairs[name])
        encoded.update((k, json.dumps(text).encode()) for k, text in table.iter_rows() if k not in encoded)
        keys.append(key)
    found = []
    for request, step, good, bad in zip(*keys, strict=True):
        content = b'["pair",%b,%b,%b,%b]' % (encoded[request], encoded[step], encoded[good], encoded[bad])
        found.append(hashlib.sha256(content).hexdigest()[:24])
    return pl.Series("pair_id", found, dtype=pl.String)
