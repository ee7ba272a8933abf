"""Which strategy should go to production: the one that is surely better than the champion before."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from qbawa.config import ChampionConfig
from qbawa.ids import recorded_id
from qbawa.storage.frames import now
from qbawa.tournaments.ratings import RatingFit


def promotions(
    fits: Mapping[str, RatingFit], ratings: pl.DataFrame, champions: pl.DataFrame, config: ChampionConfig
) -> Iterator[dict[str, Any]]:
    """New rows of the table `champions`: at most one a step.

    `fits` by step; `ratings` and `champions` are the tables of those names. A step's first champion is `recorded`, what
    production does now. The best strategy that is not too expensive replaces it if the probability that it is better
    reaches `config.p_better`; a champion that was never rated is replaced by none.
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
            if _too_expensive(challenger, champion, config) or challenger["component"] != champion["component"]:
                continue
            p_better = fits[str(step)].p_better(challenger["strategy_id"], champion["strategy_id"])
            if p_better >= config.p_better:
                yield {
                    "step": step,
                    "strategy_id": challenger["strategy_id"],
                    "promoted_at": now(),
                    "beat_strategy_id": champion["strategy_id"],
                    "p_better": p_better,
                    "evidence": json.dumps(
                        {"new": _evidence(challenger), "before": _evidence(champion)}, sort_keys=True
                    ),
                    "block_id": step,
                }
            # One that ranks lower may be surer only by having been judged more; the best decides.
            break


def _too_expensive(challenger: dict[str, Any], champion: dict[str, Any], config: ChampionConfig) -> bool:
    if config.max_cost_ratio is None:
        return False
    before, new = champion["mean_cost_usd"], challenger["mean_cost_usd"]
    # An unknown cost is not 0: one that nobody knows cannot be called cheap, and against one there is nothing to compare.
    if before is None:
        return False
    return new is None or bool(new > before * config.max_cost_ratio)


def _evidence(row: dict[str, Any]) -> dict[str, Any]:
    names = ("strategy_id", "strength", "low", "high", "win_rate", "matches", "mean_cost_usd", "mean_latency_s")
    return {name: row[name] for name in names}
