"""Pictures: whatever the names and numbers are, a PNG; the same picture for the same data."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Sequence

import polars as pl
import pytest

from qbawa.plotting import MOST_ROWS
from qbawa.replay.plots import matrix_map
from qbawa.tournaments.plots import bracket, cost_against_strength, forest, judges

HOSTILE = (
    "$\\frac{1}{0",
    "$",
    "\\$x$ $$",
    "<script>alert(1)</script>&amp;",
    "[bold red]x[/]",
    "x" * 10_000,
    "\x1b[2J\x00\x07\r\n",
    "\u202egnp\u200b",
    "汉字 🙂 متن",
    "",
    "_private^{",
    "%s {0} \\n",
)


def ratings(names: Sequence[str], costs: Sequence[float | None] = ()) -> pl.DataFrame:
    count = len(names)
    return pl.DataFrame(
        {
            "name": pl.Series(names, dtype=pl.String),
            "strength": pl.Series([1.0 - k / 3 for k in range(count)], dtype=pl.Float64),
            "low": pl.Series([None if k % 3 == 2 else 0.5 - k / 3 for k in range(count)], dtype=pl.Float64),
            "high": pl.Series([None if k % 3 == 2 else 1.5 - k / 3 for k in range(count)], dtype=pl.Float64),
            "separable_group": pl.Series([1 + k // 3 for k in range(count)], dtype=pl.Int64),
            "mean_cost_usd": pl.Series(costs or [0.001 * k for k in range(count)], dtype=pl.Float64),
        }
    )


def cells(names: Sequence[str], requests: Sequence[str]) -> pl.DataFrame:
    states = ("ok", "failed", "missing")
    rows = [(r, n, states[(i + j) % 3]) for i, r in enumerate(requests) for j, n in enumerate(names) if (i + j) % 5]
    return pl.DataFrame(rows, schema={"request_id": pl.String, "name": pl.String, "state": pl.String}, orient="row")


def matches(strategies: Sequence[str], steps: int = 3) -> pl.DataFrame:
    winners = ("a", "b", "tie", None)
    rows = [
        (strategies[k % steps], k if k % 7 else None, k, a, b, winners[k % 4])
        for k, (a, b) in enumerate(zip(strategies, strategies[1:], strict=False))
    ]
    schema = {
        "step": pl.String,
        "round": pl.Int64,
        "slot": pl.Int64,
        "strategy_a": pl.String,
        "strategy_b": pl.String,
        "winner": pl.String,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def reliability(names: Sequence[str]) -> pl.DataFrame:
    columns = ("agreement_human", "agreement_low", "agreement_high", "human_human", "agreement_jury", "position_bias")
    rows = [
        {"step": f"step {k % 3} {name}", "judge": name}
        | {column: None if (k + i) % 4 == 0 else (k + i) / 10 % 1 for i, column in enumerate(columns)}
        for k, name in enumerate(names)
    ]
    schema = dict.fromkeys(("step", "judge"), pl.String) | dict.fromkeys(columns, pl.Float64)
    return pl.DataFrame(rows, schema=schema)


Draw = Callable[[Sequence[str]], bytes]
PICTURES: dict[str, Draw] = {
    "forest": lambda names: forest(ratings(names), names[0] if names else ""),
    "cost": lambda names: cost_against_strength(ratings(names), names[0] if names else ""),
    "matrix": lambda names: matrix_map(cells(names, [f"r{name}" for name in names]), names[0] if names else ""),
    "bracket": lambda names: bracket(matches(names), {name: name for name in names}, names[0] if names else ""),
    "judges": lambda names: judges(reliability(names), names[0] if names else ""),
}
every_picture = pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)


def size(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG, of which every chunk's checksum is right and the pixels can be unpacked."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    place, chunks = 8, dict[bytes, bytes]()
    while place < len(png):
        length, kind = struct.unpack(">I4s", png[place : place + 8])
        body = png[place + 8 : place + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack(">I", png[place + 8 + length : place + 12 + length])[0]
        chunks[kind] = chunks.get(kind, b"") + body
        place += 12 + length
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    assert len(zlib.decompress(chunks[b"IDAT"])) == height * (1 + 4 * width) and b"IEND" in chunks
    return width, height


@pytest.mark.slow
@every_picture
def test_hostile_names_are_drawn_as_they_are(draw: Draw) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        width, height = size(draw(HOSTILE))
    assert 200 < width <= 1_600 and 200 < height <= 1_600, "no name blows the picture up"


@pytest.mark.slow
@every_picture
@pytest.mark.parametrize("count", [0, 1, 2, 3 * MOST_ROWS])
def test_any_number_of_rows_is_drawn(draw: Draw, count: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        size(draw([f"strategy-{n}" for n in range(count)]))


@pytest.mark.slow
@every_picture
def test_equal_data_give_equal_bytes(draw: Draw) -> None:
    names = ["plain", "terse/gpt", "best-of-5"]
    assert draw(names) == draw(names)
    assert draw(names) != draw([*names, "one more"])


@pytest.mark.parametrize("costs", [[None, None, None], [0.0, 0.0, 0.0], [0.0, 1e-9, 1e6], [None, 0.5, None]])
def test_costs_of_any_kind_are_drawn(costs: list[float | None]) -> None:
    size(cost_against_strength(ratings(["a", "b", "c"], costs), "costs"))


@pytest.mark.slow
def test_a_bracket_has_a_panel_for_each_step() -> None:
    names = [f"strategy-{n}" for n in range(12)]
    heights = [size(bracket(matches(names, steps), {}, "bracket"))[1] for steps in (1, 2, 3, 12)]
    assert heights == sorted(heights) and heights[0] < heights[-1] <= 1_600


@pytest.mark.parametrize("count", [5, 12, 40])
def test_points_in_one_place_are_drawn(count: int) -> None:
    """Names that would cover one another move apart, and the picture stays a picture."""
    same = ratings([f"strategy-{n}" for n in range(count)], [0.0] * count).with_columns(strength=pl.lit(0.5))
    width, height = size(cost_against_strength(same, "all alike"))
    assert width <= 1_600 and height <= 1_600


def test_a_judge_without_any_measure_is_drawn() -> None:
    """As where nobody has judged yet: the columns hold nothing and may have no type."""
    size(
        judges(
            reliability(["a", "b"]).with_columns(pl.lit(None).alias(c) for c in reliability([]).columns[2:]), "judges"
        )
    )
