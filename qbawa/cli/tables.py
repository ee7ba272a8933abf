"""Tables that several commands print."""

from collections.abc import Iterator, Mapping

import polars as pl
from rich.table import Table
from rich.text import Text

from qbawa.text import shorten

BAR = 24


def rows_table(rows: Mapping[str, int]) -> Table:
    """Rows by table of the lake."""
    table = Table("table", "rows", title="Lake", title_justify="left")
    for name, count in rows.items():
        table.add_row(name, f"{count:,}")
    return table


def cells_table(cells: pl.DataFrame) -> Table:
    """State of the replay matrix by step."""
    table = Table("step", "ok", "failed", "missing", title="Replay matrix", title_justify="left")
    for step, ok, failed, missing in cells.select("step", "ok", "failed", "missing").iter_rows():
        table.add_row(Text(shorten(step, 40)), f"{ok:,}", f"{failed:,}", f"{missing:,}")
    return table


def leaderboard_tables(board: pl.DataFrame) -> Iterator[Table]:
    """One table a step: rank, name, strength with its 95 % interval as a bar, cost and latency."""
    for (step,), rows in board.group_by("step", maintain_order=True):
        table = Table(title=f"Leaderboard of step '{shorten(str(step), 40)}'", title_justify="left")
        for heading in ("#", "strategy", "strength", "95 % interval", "wins", "matches", "$ a cell", "s a cell"):
            table.add_column(heading, justify="left" if heading in ("strategy", "95 % interval") else "right")
        low, high = _number(rows["low"].min()), _number(rows["high"].max())
        for row in rows.iter_rows(named=True):
            table.add_row(
                str(row["rank"]),
                Text(shorten(row["name"], 40) + (" ★" if row["champion"] else "")),
                f"{row['strength']:+.2f}",
                Text(_interval(row["low"], row["strength"], row["high"], low, high)),
                "" if row["win_rate"] is None else f"{row['win_rate']:.0%}",
                f"{row['matches']:,}",
                "" if row["mean_cost_usd"] is None else f"{row['mean_cost_usd']:.5f}",
                "" if row["mean_latency_s"] is None else f"{row['mean_latency_s']:.3f}",
            )
        yield table


def _interval(low: float | None, middle: float, high: float | None, start: float, end: float) -> str:
    if low is None or high is None or end <= start:
        return ""
    left, point, right = (round((value - start) / (end - start) * (BAR - 1)) for value in (low, middle, high))
    bar = ["─" if left <= i <= right else " " for i in range(BAR)]
    bar[point] = "●"
    return f"{low:+.2f} {''.join(bar)} {high:+.2f}"


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
