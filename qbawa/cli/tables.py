"""Tables that several commands print."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl
from rich.box import SIMPLE
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from qbawa.text import printable, shorten

BAR = 12


def rows_table(rows: Mapping[str, int]) -> Table:
    """Rows by table of the lake."""
    table = Table("table", "rows", title="Lake", title_justify="left", box=SIMPLE, pad_edge=False)
    for name, count in rows.items():
        table.add_row(name, f"{count:,}")
    return table


def cells_table(cells: pl.DataFrame) -> Table:
    """State of the replay matrix by step."""
    table = Table(
        "step", "ok", "failed", "refused", "missing",
        title="Replay matrix", title_justify="left", box=SIMPLE, pad_edge=False,
    )  # fmt: skip
    for step, *counts in cells.select("step", "ok", "failed", "refused", "missing").iter_rows():
        table.add_row(Text(shorten(step, 40)), *(f"{count:,}" for count in counts))
    return table


def leaderboard_tables(board: pl.DataFrame) -> Iterator[Table]:
    """One table a step: rank, name, strength with its 95 % interval as a bar, wins, matches and, if any, cost."""
    for (step,), rows in board.group_by("step", maintain_order=True):
        table = Table(
            title=Text(f"Leaderboard of step '{shorten(str(step), 40)}'"),
            title_justify="left",
            box=None,
            padding=(0, 1, 0, 0),
        )
        paid = (rows["mean_cost_usd"].fill_null(0) > 0).any()
        for heading in (
            "#",
            "strategy",
            "strength",
            "95 % interval",
            "",
            "wins",
            "matches",
            *(["$/cell"] if paid else []),
        ):
            table.add_column(heading, justify="left" if heading in ("strategy", "") else "right", no_wrap=True)
        low, high = _number(rows["low"].min()), _number(rows["high"].max())
        for row in rows.iter_rows(named=True):
            cells: list[str | Text] = [
                str(row["rank"]),
                Text(shorten(row["name"], 22) + (" ★" if row["champion"] else "")),
                f"{row['strength']:+.2f}",
                "" if row["low"] is None else f"{row['low']:+.2f} … {row['high']:+.2f}",
                Text(_bar(row["low"], row["strength"], row["high"], low, high)),
                "" if row["win_rate"] is None else f"{row['win_rate']:.0%}",
                f"{row['matches']:,}",
            ]
            table.add_row(
                *cells, *(["–" if row["mean_cost_usd"] is None else f"{row['mean_cost_usd']:.5f}"] if paid else [])
            )
        yield table


def pair_panel(pair: Mapping[str, Any]) -> Panel:
    """One QBaWa pair in full."""
    text = Text()
    for message in json.loads(pair["question"]):
        text.append(f"question, {message.get('role')}\n", style="bold")
        text.append(printable(str(message.get("content"))).strip() + "\n\n")
    text.append(f"best answer, {printable(pair['best_name'] or pair['best_strategy'])}\n", style="bold green")
    text.append(printable(pair["best_answer"]).strip() + "\n\n")
    text.append(f"worse answer, {printable(pair['worse_name'] or pair['worse_strategy'])}\n", style="bold red")
    text.append(printable(pair["worse_answer"]).strip())
    where = f"P(best is better) = {pair['p_best']:.2f}, {pair['basis']}, {pair['split']}"
    return Panel(text, title=f"QBaWa {pair['pair_id']}", subtitle=where, title_align="left", subtitle_align="left")


def _bar(low: float | None, middle: float, high: float | None, start: float, end: float) -> str:
    if low is None or high is None or end <= start:
        return ""
    left, point, right = (round((value - start) / (end - start) * (BAR - 1)) for value in (low, middle, high))
    bar = ["─" if left <= i <= right else " " for i in range(BAR)]
    bar[point] = "●"
    return "".join(bar)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
