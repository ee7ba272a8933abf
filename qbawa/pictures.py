"""Pictures for people who would rather look than read. Every function returns a PNG.

Names come from users and models, so they are shown as plain text: never as TeX, never longer than fits.
"""

import io
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from qbawa.text import shorten

# matplotlib takes a CPU second to import, and every Dagster process imports this module: only who draws pays for it.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1f2933"
ACCENT = "#2563eb"
GOOD = "#16a34a"
BAD = "#dc2626"
FAINT = "#d5dbe3"
MOST_ROWS = 60


def forest(ratings: pl.DataFrame, title: str) -> bytes:
    """Strengths with their 95 % intervals, best on top. Columns: name, strength, low, high, separable_group."""
    rows = ratings.sort("strength", descending=True).head(MOST_ROWS)
    figure, axes = _canvas(7.5, 1.2 + 0.28 * rows.height)
    y = np.arange(rows.height)[::-1]
    strength, low, high = (rows[name].fill_null(float("nan")).to_numpy() for name in ("strength", "low", "high"))
    best_group = rows["separable_group"].min()
    colors = [ACCENT if group == best_group else INK for group in rows["separable_group"]]
    axes.hlines(y, low, high, colors=colors, linewidth=2)
    axes.scatter(strength, y, c=colors, s=22, zorder=3)
    axes.axvline(0, color=FAINT, linewidth=1, zorder=0)
    axes.set_yticks(y, [_label(name) for name in rows["name"]], fontsize=8)
    axes.set_xlabel("Bradley–Terry log-strength, 95 % interval (blue: not separable from the best)")
    return _png(figure, axes, title, rows.height, ratings.height)


def cost_against_strength(ratings: pl.DataFrame, title: str) -> bytes:
    """Mean cost of an answer against strength; the line joins those that nothing beats in both."""
    rows = ratings.drop_nulls(["mean_cost_usd", "strength"]).sort("mean_cost_usd", -pl.col("strength"))
    figure, axes = _canvas(7.5, 4.5)
    cost, strength = rows["mean_cost_usd"].to_numpy(), rows["strength"].to_numpy()
    axes.scatter(cost, strength, color=INK, s=24)
    # Cheapest first: a strategy is on the front if it is stronger than everything cheaper.
    front = [i for i in range(len(cost)) if i == 0 or strength[i] > strength[:i].max()]
    axes.step(cost[front], strength[front], where="post", color=ACCENT, linewidth=1.5, zorder=0)
    for i in front:
        axes.annotate(
            _label(rows["name"][i]), (cost[i], strength[i]), fontsize=8, xytext=(4, 4), textcoords="offset points"
        )
    if (cost > 0).any():
        axes.set_xscale("symlog", linthresh=float(cost[cost > 0].min()))
    axes.set_xlabel("mean cost of an answer, USD")
    axes.set_ylabel("log-strength")
    return _png(figure, axes, title, rows.height, rows.height)


def matrix_map(cells: pl.DataFrame, title: str) -> bytes:
    """State of every cell: green answered, red failed, grey missing. Columns: request_id, name, state."""
    from matplotlib.colors import ListedColormap

    states = {"missing": 0, "ok": 1, "failed": 2}
    requests = cells["request_id"].unique().sort().to_list()
    names = cells["name"].unique().sort().to_list()
    row, column = ({key: i for i, key in enumerate(keys)} for keys in (requests, names))
    grid = np.full((len(requests), len(names)), np.nan)
    for request, name, state in cells.select("request_id", "name", "state").iter_rows():
        grid[row[request], column[name]] = states[state]
    figure, axes = _canvas(min(2.5 + 0.22 * len(names), 14), min(1.6 + 0.12 * len(requests), 12))
    if grid.size:
        colors = ListedColormap([FAINT, GOOD, BAD])
        axes.imshow(grid, aspect="auto", interpolation="nearest", vmin=0, vmax=2, cmap=colors)
    if len(names) <= MOST_ROWS:
        axes.set_xticks(range(len(names)), [_label(name) for name in names], rotation=90, fontsize=7)
    if len(requests) <= MOST_ROWS:
        axes.set_yticks(range(len(requests)), [_label(request) for request in requests], fontsize=6)
    axes.set_xlabel("strategy")
    axes.set_ylabel("request")
    return _png(figure, axes, title, 1, 1)


def bracket(matches: pl.DataFrame, names: dict[str, str], title: str) -> bytes:
    """The matches of one request from left to right, a line between the two strategies, a dot at the winner.

    Columns: round, slot, strategy_a, strategy_b, winner. Works for every tournament format.
    """
    rows = matches.sort("round", "slot", nulls_last=True)
    won: dict[str, float] = {}
    for a, b, winner in rows.select("strategy_a", "strategy_b", "winner").iter_rows():
        won[a] = won.get(a, 0) + (winner == "a") + 0.5 * (winner == "tie")
        won[b] = won.get(b, 0) + (winner == "b") + 0.5 * (winner == "tie")
    order = sorted(won, key=lambda strategy: won[strategy])[-MOST_ROWS:]
    place = {strategy: i for i, strategy in enumerate(order)}
    figure, axes = _canvas(min(3.5 + 0.16 * rows.height, 14), 1.4 + 0.26 * len(order))
    for x, (a, b, winner) in enumerate(rows.select("strategy_a", "strategy_b", "winner").iter_rows()):
        if a not in place or b not in place:
            continue
        axes.vlines(x, *sorted((place[a], place[b])), color=FAINT, linewidth=2, zorder=0)
        for strategy, side in ((a, "a"), (b, "b")):
            beaten = winner is not None and winner not in (side, "tie")
            color = INK if winner in ("tie", None) else BAD if beaten else GOOD
            axes.scatter(x, place[strategy], s=16 if beaten else 34, color=color)
    axes.set_yticks(range(len(order)), [f"{_label(names.get(s, s))}  ({won[s]:g})" for s in order], fontsize=8)
    axes.set_xlabel("matches in the order asked (green won, red lost, black tie or unscored; points in brackets)")
    return _png(figure, axes, title, 1, 1)


def _canvas(width: float, height: float):  # type: ignore[no-untyped-def]
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, max(height, 2.0)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: "Figure", axes, title: str, shown: int, total: int) -> bytes:  # type: ignore[no-untyped-def]
    rest = f" (best {shown} of {total})" if shown < total else ""
    axes.set_title(_label(title, 90) + rest, loc="left", fontsize=10)
    buffer = io.BytesIO()
    # Without the software's version in it, equal data give equal bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _label(text: str, length: int = 42) -> str:
    return shorten(text, length).replace("$", r"\$")
