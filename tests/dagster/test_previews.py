"""Previews are tables that Dagster shows cell by cell: whatever stands in one is text there."""

import math
from typing import Any

import polars as pl
import pytest

from qbawa_assets.metadata import mean_of, preview, version_of

HOSTILE = [
    "![](http://127.0.0.1/1)", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "</td></table><script>a()</script>",
    "a | b\n\n![](http://127.0.0.1/2)", "`x` ``![](y)``", "&lt;img src=x&gt;", "x\u202e\x1b[31m",
]  # fmt: skip


def cells(rows: pl.DataFrame) -> list[dict[str, Any]]:
    return [dict(record.data) for record in preview(rows).records]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_is_one_printable_cell(text: str) -> None:
    first, second = cells(pl.DataFrame({"a": [text, "last"], "b": [1, 2]}))
    assert second == {"a": "last", "b": 2}
    assert first["b"] == 1 and first["a"].isprintable()
    assert text[0] == first["a"][0] and len(first["a"]) <= 80


def test_numbers_stay_numbers_and_what_is_unknown_stays_empty() -> None:
    rows = pl.DataFrame(
        {"f": [0.123456789, None, math.inf], "i": [1, None, 3], "b": [True, None, False], "t": ["x" * 200, None, ""]}
    )
    first, second, third = cells(rows)
    assert first == {"f": 0.1235, "i": 1, "b": True, "t": "x" * 79 + "…"}
    assert set(second.values()) == {None}
    assert third == {"f": "inf", "i": 3, "b": False, "t": ""}
    schema = preview(rows).schema
    assert {column.name: column.type for column in schema.columns} == {
        "f": "float",
        "i": "int",
        "b": "bool",
        "t": "string",
    }


def test_equal_rows_have_one_version_in_whatever_order() -> None:
    rows = pl.DataFrame({"a": ["x", "y"], "b": [1, 2]})
    assert version_of(rows) == version_of(rows.reverse())
    assert version_of(rows) != version_of(rows.with_columns(b=pl.lit(1)))
    assert version_of(rows.clear()) == version_of(rows.clear())


def test_a_mean_that_nobody_knows_is_left_out() -> None:
    rows = pl.DataFrame({"a": [1.0, None], "b": [None, None]}, schema={"a": pl.Float64, "b": pl.Float64})
    assert mean_of(rows, "a", "b") == {"mean_a": 1.0}
