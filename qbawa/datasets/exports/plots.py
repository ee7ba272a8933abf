"""The card's picture. The same pairs give the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

NAME = "pairs.png"


def write_plots(folder: Path, pairs: pl.DataFrame) -> None:
    """pairs.png: how sure the pairs are; how often the longer answer is best, by the size of the gap."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(10, 3.2))
    FigureCanvasAgg(figure)
    sure, longer = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.07, right=0.99, bottom=0.17, top=0.9, wspace=0.22)

    sides = [(basis, pairs["p_best"].filter(pairs["basis"] == basis).to_numpy()) for basis in ("direct", "inferred")]
    heights = [np.histogram(p, bins=25, range=(0.5, 1))[0] for _, p in sides]
    middles = 0.51 + 0.02 * np.arange(25)
    sure.bar(middles, heights[0], width=0.02, color="#2b6cb0", label="direct")
    sure.bar(middles, heights[1], width=0.02, bottom=heights[0], color="#a0bfe0", label="inferred")
    sure.set(xlabel="p_best", ylabel="pairs", title="How sure the pairs are")
    sure.legend(loc="upper left")

    best, worse = (pairs[f"{side}_answer"].str.len_chars().cast(pl.Int64) for side in ("best", "worse"))
    gap = (best - worse).to_numpy()
    edges = [1, 10, 30, 100, 300, 1000, 3000]
    place = np.searchsorted(edges, np.abs(gap), side="right") - 1
    share = [float((gap[place == k] > 0).mean()) if (place == k).any() else 0.0 for k in range(len(edges))]
    longer.bar(range(len(share)), share, color="#2b6cb0")
    longer.axhline(0.5, color="black", linewidth=1)
    ends = [f"–{edge - 1}" for edge in edges[1:]] + ["+"]
    longer.set_xticks(range(len(share)), [f"{a}{b}" for a, b in zip(edges, ends, strict=True)], fontsize=8)
    longer.set(ylim=(0, 1), xlabel="characters between the two", title="How often the longer answer is best")
    # Without the library's name and version, which would change the bytes.
    figure.savefig(folder / NAME, dpi=100, metadata={"Software": None})
