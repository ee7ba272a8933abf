"""Which of a request's pairs are kept: the policies."""

from __future__ import annotations

from typing import Literal

import polars as pl

Policy = Literal["best_vs_all", "adjacent", "hardest", "all"]


def choose(
    pairs: pl.DataFrame, policy: Policy, max_per_request: int | None = None, request: str | list[str] = "request_id"
) -> pl.DataFrame:
    """The pairs that a policy keeps, in their given order; at most `max_per_request` of each request.

    - all: every pair; under a limit the judged ones first, then the surest.
    - best_vs_all: the request's best answer against each other one.
    - adjacent: each answer against the nearest one that is surely worse.
    - hardest: like all, but the closest pairs (by margin) come first.

    Under a limit strategies take turns: a pair waits until the others' strategies have had as many.
    Columns needed: those of `request`, best_strategy, worse_strategy, best_cell, worse_cell, p_best, margin, basis.
    """
    by = [request] if isinstance(request, str) else request
    rows = pairs.lazy().with_row_index("place")
    if policy == "best_vs_all":
        per_cell = [*by, "best_cell"]
        rows = rows.with_columns(wins=pl.len().over(per_cell), lead=pl.col("margin").sum().over(per_cell)).filter(
            pl.col("best_cell")
            == pl.col("best_cell").sort_by("wins", "lead", "best_cell", descending=[True, True, False]).first().over(by)
        )
    elif policy == "adjacent":
        rows = rows.sort("margin", "place").unique([*by, "best_cell"], keep="first", maintain_order=True)
    if max_per_request is not None:
        urgency = ["margin", "place"] if policy == "hardest" else ["inferred", "doubt", "place"]
        best = pl.int_range(pl.len()).over([*by, "best_strategy"])
        worse = pl.int_range(pl.len()).over([*by, "worse_strategy"])
        rows = (
            rows.with_columns(inferred=pl.col("basis") != "direct", doubt=1 - pl.col("p_best"))
            .sort(urgency)
            .with_columns(turn=pl.max_horizontal(best, worse))
            .sort("turn", maintain_order=True)
            .filter(pl.int_range(pl.len()).over(by) < max_per_request)
        )
    kept = rows.select("place").sort("place").collect()["place"]
    return pairs if len(kept) == pairs.height else pairs[kept]
