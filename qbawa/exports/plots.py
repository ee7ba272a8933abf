"""The card's pictures. The same pairs give the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl


def write_plots(folder: Path, pairs: pl.DataFrame) -> None:
    """p_best.png: how sure the pairs are. length.png: how often the longer answer is best, by size of the gap."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)

    def save(figure: Figure, name: str) -> None:
        FigureCanvasAgg(figure)
        # Without the library's name and version, which would change the bytes.
        figure.savefig(folder / name, dpi=110, metadata={"Software": None})

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(0.5, 1, 26)
    sides = [(b, pairs["p_best"].filter(pairs["basis"] == b).to_numpy()) for b in ("direct", "inferred")]
    axes.hist(
        [p for _, p in sides],
        bins=bins.tolist(),
        stacked=True,
        label=[b for b, _ in sides],
        color=["#2b6cb0", "#a0bfe0"],
    )
    axes.set(xlabel="p_best", ylabel="pairs", title="How sure the pairs are")
    axes.legend()
    save(figure, "p_best.png")

    gap = pairs.select(
        pl.col("best_answer").str.len_chars().cast(pl.Int64) - pl.col("worse_answer").str.len_chars().cast(pl.Int64)
    ).to_series()
    gaps = gap.filter(gap != 0).to_numpy()
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    edges = np.array([1, 10, 30, 100, 300, 1000, 3000, np.inf])
    place = np.digitize(np.abs(gaps), edges) - 1
    share = [float((gaps[place == k] > 0).mean()) if (place == k).any() else np.nan for k in range(len(edges) - 1)]
    axes.bar(range(len(share)), share, color="#2b6cb0")
    axes.axhline(0.5, color="black", linewidth=1)
    names = [
        f"{int(a)}–{int(b) - 1}" if np.isfinite(b) else f"{int(a)}+" for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]
    axes.set_xticks(range(len(share)), names, fontsize=8)
    axes.set(
        ylim=(0, 1),
        xlabel="characters between the two answers",
        ylabel="longer is best",
        title="Does longer predict best?",
    )
    save(figure, "length.png")
