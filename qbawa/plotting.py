"""What pictures are made with, for people who would rather look than read; each stage draws its own in `plots.py`.

Names come from users and models, so they are shown as plain text: never as TeX, never longer than fits.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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


def canvas(width: float, height: float) -> "tuple[Figure, Any]":
    """A figure, size in inches, and its axes."""
    figure, [axes] = panels(width, height)
    return figure, axes


def panels(
    width: float, height: float, *, rows: Sequence[float] = (1,), columns: Sequence[float] = (1,)
) -> "tuple[Figure, list[Any]]":
    """A figure, sizes in inches, and its axes row by row; `rows` and `columns` are their relative sizes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, max(height, 2.0)), dpi=110, layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False, height_ratios=rows, width_ratios=columns)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(grid.flat)


def png(figure: "Figure", axes: Any, title: str, shown: int, total: int) -> bytes:
    """The figure as a PNG under a title that says how many of all rows are shown."""
    axes.set_title(title_of(title, shown, total, "best", ""), loc="left", fontsize=10)
    return png_bytes(figure)


def title_of(title: str, shown: int, total: int, which: str, what: str) -> str:
    """The title, shortened, with what is shown of a whole."""
    rest = f" ({which} {shown} of {total} {what}".rstrip() + ")" if shown < total else ""
    return label(title, 90) + rest


def png_bytes(figure: "Figure") -> bytes:
    """The figure as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    # Without the software's version in it, equal data give equal bytes. `savefig` would draw it all twice.
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def label(text: str, length: int = 42) -> str:
    """A name as plain text: never TeX, never longer than fits."""
    return shorten(text, length).replace("$", r"\$")
