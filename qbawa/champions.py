"""Which strategy should go to production: the one that is surely better than the champion before."""

import json
from collections.abc import Iterator
from math import sqrt
from typing import Any

import polars as pl
from scipy.stats import norm

from qbawa.config import ChampionConfig
from qbawa.lake.delta import now
from qbawa.strategies.ids import recorded_id

# Width of a 95 % interval of a normal distribution, in standard deviations.
_WIDTH = 2 * float(norm.ppf(0.975))


def promotions(ratings: pl.DataFrame, champions: pl.DataFrame, config: ChampionConfig) -> Iterator[dict[str, Any]]:
    """New rows of the table `champions`: at most one a step.

    `ratings` and `champions` are the tables of those names. A step's first champion is `recorded`, what production
    does now. The best strategy that is not too dear replaces it if the probability that it is better, from the two
    strengths and intervals, reaches `config.p_better`; a champion that was never rated is replaced by none.
    """
    reigning = dict(champions.sort("promoted_at").select("step", "strategy_id").iter_rows())
    for (step,), rows in ratings.group_by("step", maintain_order=True):
        rated = {row["strategy_id"]: row for row in rows.iter_rows(named=True)}
        champion = rated.get(reigning.get(str(step), recorded_id(str(step))))
        if champion is None:
            continue
        for challenger in sorted(rated.values(), key=lambda row: row["rank"]):
            if challenger is champion:
                break
            if _too_dear(challenger, champion, config) or challenger["component"] != champion["component"]:
                continue
            p_better = probability_better(challenger, champion)
            if p_better >= config.p_better:
                yield {
                    "step": step,
                    "strategy_id": challenger["strategy_id"],
                    "promoted_at": now(),
                    "beat_strategy_id": champion["strategy_id"],
                    "p_better": p_better,
                    "evidence": json.dumps({"new": _evidence(challenger), "before": _evidence(champion)}, sort_keys=True),
                    "block_id": step,
                }
            # A lower-ranked one can be surer only by having an interval that says less; the best decides.
            break


def probability_better(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Probability that the first of two rated strategies is the stronger, from their strengths and 95 % intervals.

    The two errors count as independent, which errs on the side of doubt where the two have met.
    """
    spread = sqrt(_deviation(one) ** 2 + _deviation(other) ** 2)
    gap = one["strength"] - other["strength"]
    return float(norm.cdf(gap / spread)) if spread > 0 else 0.5 + 0.5 * ((gap > 0) - (gap < 0))


def _deviation(row: dict[str, Any]) -> float:
    return float(row["high"] - row["low"]) / _WIDTH


def _too_dear(challenger: dict[str, Any], champion: dict[str, Any], config: ChampionConfig) -> bool:
    if config.max_cost_ratio is None:
        return False
    before, new = champion["mean_cost_usd"] or 0.0, challenger["mean_cost_usd"] or 0.0
    return bool(new > before * config.max_cost_ratio)


def _evidence(row: dict[str, Any]) -> dict[str, Any]:
    names = ("strategy_id", "strength", "low", "high", "win_rate", "matches", "mean_cost_usd", "mean_latency_s")
    return {name: row[name] for name in names}
