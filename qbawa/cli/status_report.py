"""What the lake holds and what is missing, in a few plain values."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from qbawa.project import Project
from qbawa.replay.stage import wanted_cells
from qbawa.storage.tables import TABLES


@dataclass(frozen=True, slots=True)
class Status:
    """`rows` by table; `cells` one row per step (step, ok, failed, missing); `leaderboard` best first by step."""

    home: str
    rows: dict[str, int]
    cells: pl.DataFrame
    leaderboard: pl.DataFrame
    cost_usd: float

    def as_json(self) -> dict[str, Any]:
        """The same as values that JSON can hold."""
        return {
            "home": self.home,
            "rows": self.rows,
            "cells": self.cells.to_dicts(),
            "leaderboard": self.leaderboard.to_dicts(),
            "cost_usd": self.cost_usd,
        }


def read_status(project: Project) -> Status:
    """The present state of a project."""
    lake = project.lake
    union = " UNION ALL ".join(f"SELECT '{name}' AS name, count(*) AS n FROM {name}" for name in TABLES)
    rows = dict(lake.query(union).iter_rows())
    cells = (
        wanted_cells(lake)
        .group_by("step")
        .agg(
            *[
                (pl.col("state") == state).sum().cast(pl.Int64).alias(state)
                for state in ("ok", "failed", "refused", "missing")
            ]
        )
    )
    # Failed calls too: what was billed is paid, answer or not.
    paid = lake.query("SELECT coalesce(sum(cost_usd), 0.0) FROM calls").item()
    return Status(
        home=str(project.home.root),
        rows={name: int(rows[name]) for name in TABLES},
        cells=cells.sort("step"),
        leaderboard=leaderboard(project),
        cost_usd=float(paid),
    )


def leaderboard(project: Project) -> pl.DataFrame:
    """Ratings with the strategies' names, best first within a step, the reigning champion marked."""
    return project.lake.query(
        """
        SELECT r.step, r.rank, s.name, r.strategy_id, s.model, r.strength, r.low, r.high, r.win_rate, r.matches,
               r.separable_group, r.mean_cost_usd, r.mean_latency_s, c.strategy_id IS NOT NULL AS champion
        FROM ratings r
        JOIN strategies s USING (strategy_id)
        LEFT JOIN (
            SELECT step, arg_max(strategy_id, promoted_at) AS strategy_id FROM champions GROUP BY step
        ) c ON c.step = r.step AND c.strategy_id = r.strategy_id
        ORDER BY r.step, r.rank
        """
    )


def surest_close_pair(project: Project) -> dict[str, Any] | None:
    """A pair worth looking at: sure (P ≥ 0.9), judged directly, and of strategies that are close; with their names."""
    found = project.lake.query(
        """
        SELECT q.*, b.name AS best_name, w.name AS worse_name
        FROM qbawa q
        LEFT JOIN strategies b ON b.strategy_id = q.best_strategy
        LEFT JOIN strategies w ON w.strategy_id = q.worse_strategy
        ORDER BY p_best < 0.9, basis <> 'direct', abs(margin), pair_id LIMIT 1
        """
    )
    return found.row(0, named=True) if found.height else None
