"""Pictures of the matrix, and of a step's traffic with the chosen requests on it. Every function returns a PNG."""

import io

import numpy as np
import polars as pl

from qbawa.plotting import BAD, FAINT, GOOD, MOST_ROWS, REFUSED, canvas, label, png
from qbawa.replay.replay_set.choose import Choice
from qbawa.text import shorten

_COLORS = {
    "pinned": "#7c3aed",
    "kept": "#64748b",
    "coverage": "#2563eb",
    "error": "#dc2626",
    "feedback": "#ea580c",
    "tag": "#0d9488",
}


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
    figure, axes = canvas(min(2.5 + 0.22 * len(names), 14), min(1.6 + 0.12 * len(requests), 12))
    if grid.size:
        colors = ListedColormap([FAINT, GOOD, BAD, REFUSED])
        axes.imshow(grid, aspect="auto", interpolation="nearest", vmin=0, vmax=3, cmap=colors)
    if len(names) <= MOST_ROWS:
        axes.set_xticks(range(len(names)), [label(name) for name in names], rotation=90, fontsize=7)
    if len(requests) <= MOST_ROWS:
        axes.set_yticks(range(len(requests)), [label(request) for request in requests], fontsize=6)
    axes.set_xlabel("strategy")
    axes.set_ylabel("request")
    return png(figure, axes, title, 1, 1)


def coverage_picture(choice: Choice) -> bytes:
    """PNG: a sample of the traffic in grey, the chosen requests in the colour of the reason why.

    The two axes are the principal components of the questions' text features; near on the map is alike in words.
    """
    # A CPU second that only those pay who want a picture.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    step = choice.rows["step"][0] if choice.rows.height else "no step"
    if len(choice.vectors):
        center = choice.vectors.mean(axis=0)
        # Both axes of the sample alone: choosing more must not move the map.
        _, _, directions = np.linalg.svd(choice.vectors - center, full_matrices=False)
        x, y = _project(choice.vectors - center, directions)
        axes.scatter(x, y, s=9, color="#cbd5e1", linewidths=0, label="traffic")
        x, y = _project(choice.chosen_vectors - center, directions)
        reasons = choice.rows["reason"].to_numpy()
        for reason, color in _COLORS.items():
            if (here := reasons == reason).any():
                label = f"{reason} ({here.sum()})"
                axes.scatter(x[here], y[here], s=26, color=color, edgecolors="white", linewidths=0.6, label=label)
        axes.legend(fontsize=8, frameon=False)
    title = f"{step}: {choice.rows.height} of {choice.requests:,} requests, {choice.clusters:,} different questions"
    axes.set_title(shorten(title, 90).replace("$", r"\$"), loc="left", fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _project(vectors: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Coordinates on the first two directions, shape (2, vectors); 0 where there is no second."""
    flat = vectors @ directions[:2].T
    return np.pad(flat, ((0, 0), (0, max(0, 2 - flat.shape[1])))).T
