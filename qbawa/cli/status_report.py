"""What the lake holds and what is missing, in a few plain values."""

from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl

from qbawa.project import Project
from qbawa.replay.stage import wanted_cells
from qbawa.storage.tables import TABLES
from qbawa.tournaments.budgets import StepBudget, verdicts_per_match


@dataclass(frozen=True, slots=True)
class Status:
    """`rows` by table; `cells` one row per step (step, ok, failed, missing); `leaderboard` best first by step."""

    home: str
    rows: dict[str, int]
    cells: pl.DataFrame
    leaderboard: pl.DataFrame
    cost_usd: float
    verdict_budgets: list[StepBudget] = field(default_factory=list)
    """By step that was judged."""

    def as_json(self) -> dict[str, Any]:
        """The same as values that JSON can hold."""
        return {
            "home": self.home,
            "rows": self.rows,
            "cells": self.cells.to_dicts(),
            "leaderboard": self.leaderboard.to_dicts(),
            "cost_usd": self.cost_usd,
            "verdict_budgets": [asdict(each) for each in self.verdict_budgets],
        }


def read_status(project: Project) -> Status:
    """The present state of a project."""
    lake = project.lake
    union = " UNION ALL ".join(f"SELECT '{name}' AS name, count(*) AS n FROM {name}" for name in TABLES)
    # Failed calls too: what was billed is paid, answer or not.
    paid = "SELECT 'paid', coalesce(sum(cost_usd), 0.0) FROM calls"
    rows = dict(lake.ask(f"{union} UNION ALL {paid}")[1])
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
    return Status(
        home=str(project.home.root),
        rows={name: int(rows[name]) for name in TABLES},
        cells=cells.sort("step"),
        leaderboard=leaderboard(project),
        cost_usd=float(rows["paid"]),
        verdict_budgets=verdict_budgets(project),
    )


def verdict_budgets(project: Project) -> list[StepBudget]:
    """How the verdict budget of each judged step stands by what tournaments have left in the lake.

    `qbawa plan` looks closer: at what would count under the rubrics and models of now, and at newcomers' shares.
    """
    _, steps = project.lake.ask(
        """
        WITH field AS (
            SELECT step, strategy_id, any_value(s.name) AS name
            FROM strategies s JOIN replay_matrix c USING (step, strategy_id)
            WHERE s.active AND c.status = 'ok' GROUP BY step, strategy_id
        ), asked AS (
            SELECT match_id, count(*) AS n FROM verdicts WHERE judge_kind = 'llm' GROUP BY match_id
        ), played AS (
            SELECT m.step, m.strategy_a, m.strategy_b, least(coalesce(n, 0), m.verdicts + m.unscored) AS given,
                   m.verdicts + m.unscored AS counted
            FROM matches m LEFT JOIN asked USING (match_id)
            JOIN field a ON a.step = m.step AND a.strategy_id = m.strategy_a
            JOIN field b ON b.step = m.step AND b.strategy_id = m.strategy_b
        ), judged AS (
            SELECT step, strategy_a AS strategy_id FROM played WHERE counted > 0
            UNION SELECT step, strategy_b FROM played WHERE counted > 0
        )
        SELECT step, (SELECT sum(given) FROM played p WHERE p.step = f.step) AS given,
               coalesce(list(name ORDER BY name) FILTER (judged.strategy_id IS NULL), []) AS unjudged
        FROM field f LEFT JOIN judged USING (step, strategy_id)
        WHERE step IN (SELECT step FROM played) GROUP BY step ORDER BY step
        """
    )
    budget, found = project.config.tournament.verdict_budget, []
    for step, given, unjudged in steps:
        if jury := project.config.jury(step):
            used_up = budget - given < verdicts_per_match(jury.values())
            found.append(StepBudget(step, int(given), budget, 0, used_up, tuple(unjudged)))
    return found


def leaderboard(project: Project) -> pl.DataFrame:
    """Ratings with the strategies' names, best first within a step, the reigning champion marked."""
    names, rows = project.lake.ask(
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
    return pl.DataFrame(rows, names, orient="row", infer_schema_length=None)


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
