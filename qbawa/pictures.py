"""Pictures for people who would rather look than read. Every function returns a PNG.

Names come from users and models, so they are shown as plain text: never as TeX, never longer than fits.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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
REFUSED = "#eab308"
MOST_ROWS = 60
MOST_PANELS = 8
# So many points have all their names beside them; of more, those on the front alone.
MOST_LABELS = 16
LABEL_POINTS = 8


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
    """Mean cost of an answer against strength; the line is the strength that each cost can buy."""
    rows = ratings.drop_nulls(["mean_cost_usd", "strength"]).sort("mean_cost_usd", -pl.col("strength"))
    figure, axes = _canvas(7.5, 4.5)
    cost, strength = rows["mean_cost_usd"].to_numpy(), rows["strength"].to_numpy()
    # Cheapest first: a strategy is on the front if it is stronger than everything cheaper.
    front = [i for i in range(len(cost)) if i == 0 or strength[i] > strength[:i].max()]
    axes.scatter(cost, strength, color=INK, s=24)
    axes.scatter(cost[front], strength[front], color=ACCENT, s=40, zorder=3)
    if (cost > 0).any():
        axes.set_xscale("symlog", linthresh=float(cost[cost > 0].min()))
    elif len(cost):
        axes.set_xticks([0], ["0"])
    axes.set_xlabel("mean cost of an answer, USD (blue: nothing is both cheaper and stronger)")
    axes.set_ylabel("log-strength")
    if front:
        left, right = axes.get_xlim()
        steps = [*cost[front], right], [*strength[front], strength[front[-1]]]
        axes.step(*steps, where="post", color=ACCENT, linewidth=2, alpha=0.6, zorder=1)
        axes.set_xlim(left, right)
    _name_points(
        axes, rows["name"].to_list(), cost, strength, list(range(len(cost))) if len(cost) <= MOST_LABELS else front
    )
    return _png(figure, axes, title, rows.height, rows.height)


def judges(reliability: pl.DataFrame, title: str) -> bytes:
    """How far each judge of each step agrees with people, and how far place sways it.

    Columns: step, judge, agreement_human, agreement_low, agreement_high, human_human, agreement_jury, position_bias.
    """
    rows = reliability.sort("step", "judge").head(MOST_ROWS)
    figure, (agreement, place) = _panels(9.5, 1.6 + 0.3 * rows.height, columns=(2, 1))
    y = np.arange(rows.height)[::-1]
    values = {
        name: rows[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        for name in rows.columns[2:]
        if rows[name].dtype.is_numeric() or rows[name].dtype == pl.Null
    }
    agreement.axvline(0.5, color=FAINT, linewidth=1, zorder=0)
    agreement.hlines(y, values["agreement_low"], values["agreement_high"], color=ACCENT, linewidth=2)
    agreement.scatter(values["agreement_human"], y, color=ACCENT, s=30, zorder=3, label="with people, 95 % interval")
    agreement.scatter(values["human_human"], y, color=GOOD, s=90, marker="|", zorder=4, label="people with each other")
    agreement.scatter(
        values["agreement_jury"],
        y,
        s=30,
        zorder=2,
        facecolors="none",
        edgecolors=INK,
        label="with the rest of the jury",
    )
    agreement.set_xlim(0, 1.02)
    agreement.set_yticks(
        y, [f"{_label(step, 20)}: {_label(judge, 24)}" for step, judge in rows.select("step", "judge").iter_rows()]
    )
    agreement.set_xlabel("agreement on matches that both decided")
    place.axvline(0, color=FAINT, linewidth=1, zorder=0)
    place.hlines(y, 0, values["position_bias"], color=BAD, linewidth=3)
    place.scatter(values["position_bias"], y, color=BAD, s=20)
    place.set_xlim(-0.52, 0.52)
    place.set_yticks(y, [])
    place.set_xlabel("position bias (+ to the first shown)")
    for axes in (agreement, place):
        axes.set_ylim(-0.6, max(rows.height, 1) - 0.4)
        axes.tick_params(labelsize=8)
    figure.legend(
        *agreement.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False
    )
    return _png(figure, agreement, title, rows.height, reliability.height)


def matrix_map(cells: pl.DataFrame, title: str) -> bytes:
    """State of every cell: green answered, red failed, yellow refused, grey missing. Columns: request_id, name, state."""
    from matplotlib.colors import ListedColormap

    states = {"missing": 0, "ok": 1, "failed": 2, "refused": 3}
    requests = cells["request_id"].unique().sort().to_list()
    names = cells["name"].unique().sort().to_list()
    row, column = ({key: i for i, key in enumerate(keys)} for keys in (requests, names))
    grid = np.full((len(requests), len(names)), np.nan)
    for request, name, state in cells.select("request_id", "name", "state").iter_rows():
        grid[row[request], column[name]] = states[state]
    figure, axes = _canvas(min(2.5 + 0.22 * len(names), 14), min(1.6 + 0.12 * len(requests), 12))
    if grid.size:
        colors = ListedColormap([FAINT, GOOD, BAD, REFUSED])
        axes.imshow(grid, aspect="auto", interpolation="nearest", vmin=0, vmax=3, cmap=colors)
    if len(names) <= MOST_ROWS:
        axes.set_xticks(range(len(names)), [_label(name) for name in names], rotation=90, fontsize=7)
    if len(requests) <= MOST_ROWS:
        axes.set_yticks(range(len(requests)), [_label(request) for request in requests], fontsize=6)
    axes.set_xlabel("strategy")
    axes.set_ylabel("request")
    return _png(figure, axes, title, 1, 1)


def bracket(matches: pl.DataFrame, names: dict[str, str], title: str) -> bytes:
    """The matches of one request, a panel for each step, from left to right, a line between the two strategies.

    Columns: step, round, slot, strategy_a, strategy_b, winner. Works for every tournament format.
    """
    steps = matches.sort("step", "round", "slot", nulls_last=True).partition_by("step", maintain_order=True)
    shown = steps[:MOST_PANELS] or [matches]
    most = max(MOST_ROWS // len(shown), 4)
    points = [_points(rows) for rows in shown]
    heights = [0.7 + 0.26 * min(len(won), most) for won in points]
    widest = max(rows.height for rows in shown)
    figure, panels = _panels(min(3.5 + 0.16 * widest, 14), 1.0 + sum(heights), rows=heights)
    for axes, rows, won in zip(panels, shown, points, strict=True):
        order = sorted(won, key=lambda strategy: won[strategy])[-most:]
        _draw_matches(axes, rows, order)
        axes.set_yticks(range(len(order)), [f"{_label(names.get(s, s))}  ({won[s]:g})" for s in order], fontsize=8)
        axes.set_ylim(-0.6, max(len(order), 1) - 0.4)
        if rows.height:
            rest = f", best {len(order)} of {len(won)} strategies" if len(order) < len(won) else ""
            axes.set_title(f"step {_label(rows['step'][0])}: {rows.height} matches{rest}", loc="left", fontsize=9)
    panels[-1].set_xlabel(
        "matches in the order asked: green won, red lost, black tie or unscored; points in brackets", fontsize=8
    )
    figure.suptitle(_title(title, len(shown), max(len(steps), 1), "first", "steps"), x=0.01, ha="left", fontsize=10)
    return _bytes(figure)


def _points(matches: pl.DataFrame) -> dict[str, float]:
    """Points of each strategy: 1 for a win, ½ for a tie."""
    won: dict[str, float] = {}
    for a, b, winner in matches.select("strategy_a", "strategy_b", "winner").iter_rows():
        won[a] = won.get(a, 0) + (winner == "a") + 0.5 * (winner == "tie")
        won[b] = won.get(b, 0) + (winner == "b") + 0.5 * (winner == "tie")
    return won


def _draw_matches(axes: Any, matches: pl.DataFrame, order: Sequence[str]) -> None:
    place = {strategy: i for i, strategy in enumerate(order)}
    lines, dots = [], []
    for x, (a, b, winner) in enumerate(matches.select("strategy_a", "strategy_b", "winner").iter_rows()):
        if a not in place or b not in place:
            continue
        lines.append((x, place[a], place[b]))
        for strategy, side in ((a, "a"), (b, "b")):
            beaten = winner is not None and winner not in (side, "tie")
            color = INK if winner in ("tie", None) else BAD if beaten else GOOD
            dots.append((x, place[strategy], 16 if beaten else 34, color))
    if lines:
        axes.vlines(*zip(*lines, strict=True), color=FAINT, linewidth=2, zorder=0)
        across, up, sizes, colors = zip(*dots, strict=True)
        axes.scatter(across, up, s=sizes, color=colors)


def _name_points(axes: Any, names: Sequence[str], x: np.ndarray, y: np.ndarray, which: Sequence[int]) -> None:
    """Names beside points, pushed up where they would cover one another; a thin line leads back to the point."""
    to_points = 72 / axes.figure.dpi
    placed: list[tuple[float, float, float]] = []  # left, right, height in points
    for i in sorted(which, key=lambda i: (y[i], x[i])):
        name = _label(names[i])
        left, at = axes.transData.transform((x[i], y[i])) * to_points
        right, top = left + 0.6 * LABEL_POINTS * len(name) + 24, at
        for other_left, other_right, other in placed:
            if other_left < right and left < other_right and other > top - 1.15 * LABEL_POINTS:
                top = other + 1.15 * LABEL_POINTS
        placed.append((left, right, top))
        moved = top > at + 2
        axes.annotate(
            name,
            (x[i], y[i]),
            fontsize=LABEL_POINTS,
            xytext=(24 if moved else 6, top - at),
            textcoords="offset points",
            va="center",
            zorder=2,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.5},
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.4, "relpos": (0, 0.5)} if moved else None,
        )


def _canvas(width: float, height: float) -> "tuple[Figure, Any]":
    figure, [axes] = _panels(width, height)
    return figure, axes


def _panels(
    width: float, height: float, *, rows: Sequence[float] = (1,), columns: Sequence[float] = (1,)
) -> "tuple[Figure, list[Any]]":
    """A figure, sizes in inches, and its axes row by row; `rows` and `columns` are their relative sizes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, max(height, 2.0)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), len(columns), squeeze=False, height_ratios=rows, width_ratios=columns)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(grid.flat)


def _png(figure: "Figure", axes: Any, title: str, shown: int, total: int) -> bytes:
    axes.set_title(_title(title, shown, total, "best", ""), loc="left", fontsize=10)
    return _bytes(figure)


def _title(title: str, shown: int, total: int, which: str, what: str) -> str:
    rest = f" ({which} {shown} of {total} {what}".rstrip() + ")" if shown < total else ""
    return _label(title, 90) + rest


def _bytes(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    # Without the software's version in it, equal data give equal bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _label(text: str, length: int = 42) -> str:
    return shorten(text, length).replace("$", r"\$")
