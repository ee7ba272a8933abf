"""Ratings at full size, the coverage of their intervals, and their agreement with another implementation.

python benchmarks/ratings.py --json
"""

import argparse
import json
import sys
import time
from typing import Any

import evalica
import numpy as np
import polars as pl

from qbawa.tournaments.ratings import bradley_terry, fit_ratings

SIDES = np.array(["a", "b"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 repetitions in place of 1,000")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    repetitions = 100 if args.quick else 1000
    full = full_size(rng)
    few = {f"coverage_{requests}_requests": coverage(rng, repetitions, requests) for requests in (5, 10, 30)}
    result = {
        "seconds": full["seconds"],
        "coverage": coverage(rng, repetitions, 100),
        "max_diff_evalica": full["max_diff_evalica"],
        **few,
        "coverage_not_clustered": coverage(rng, min(repetitions, 200), 100, clustered=False),
        "coverage_sparse": coverage(rng, repetitions, 100, share=0.1),
        **{name: value for name, value in full.items() if name not in ("seconds", "max_diff_evalica")},
        "repetitions": repetitions,
    }
    if not args.json:
        for name, value in result.items():
            print(f"{name:28} {value}")
    json.dump(result, sys.stdout)
    print()


def full_size(
    rng: np.random.Generator, strategies: int = 500, matches: int = 1_000_000, requests: int = 1000
) -> dict[str, Any]:
    """Best seconds of five from a frame of matches, ties and order included, to ratings; and the gap to evalica."""
    strength = rng.normal(0, 0.7, strategies)
    a = rng.integers(0, strategies, matches)
    b = (a + rng.integers(1, strategies, matches)) % strategies
    first = rng.integers(0, 2, matches)
    p = 1 / (1 + np.exp(strength[b] - strength[a] - 0.2 * (0.5 - first)))
    won = (rng.random(matches) < p).astype(float)
    won[rng.random(matches) < 0.05] = 0.5
    names = np.array([f"strategy-{k:03}" for k in range(strategies)])
    frame = pl.DataFrame(
        {
            "request_id": np.array([f"request-{k:04}" for k in range(requests)])[rng.integers(0, requests, matches)],
            "strategy_a": names[a],
            "strategy_b": names[b],
            "p_a": won,
            "shown_first": SIDES[first],
        }
    )
    walls, cpus = [], []
    for _ in range(5):
        wall, cpu = time.perf_counter(), time.process_time()
        fitted = fit_ratings(frame)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    wins = np.zeros((strategies, strategies))
    np.add.at(wins, (a, b), won)
    np.add.at(wins, (b, a), 1 - won)
    wall = time.perf_counter()
    ours = bradley_terry(wins)
    bare = time.perf_counter() - wall
    wall = time.perf_counter()
    theirs = by_evalica(names[a].tolist(), names[b].tolist(), won)
    oracle = time.perf_counter() - wall
    rated = fit_ratings(frame.drop("shown_first"))
    return {
        "seconds": round(min(walls), 3),
        "cpu_seconds": round(min(cpus), 3),
        "seconds_bradley_terry": round(bare, 3),
        "seconds_evalica": round(oracle, 3),
        "max_diff_evalica": float(np.abs(ours.strength - theirs).max()),
        "max_diff_evalica_rate": float(np.abs(rated.strength - theirs).max()),
        "order_effect_planted": 0.2,
        "order_effect": round(fitted.order_effect.logit, 4) if fitted.order_effect else None,
    }


def by_evalica(a: list[str], b: list[str], won: np.ndarray) -> np.ndarray:
    """evalica's log-strengths, mean 0, by name. Its scores are exponentials of strengths; a draw is ½ for both."""
    draw, left, right = evalica.Winner.Draw, evalica.Winner.X, evalica.Winner.Y
    winners = [draw if w == 0.5 else left if w > 0.5 else right for w in won.tolist()]
    scores = evalica.bradley_terry(a, b, winners, tie_weight=0.5, tolerance=1e-9, limit=10_000).scores.sort_index()
    logs = np.log(scores.to_numpy())
    return logs - logs.mean()


def coverage(
    rng: np.random.Generator, repetitions: int, requests: int, *, clustered: bool = True, share: float = 1.0
) -> float:
    """Share of 95 % intervals that hold the truth: 10 strategies, every answer better or worse than its strategy.

    The truth is the Bradley–Terry fit to the win rates over all requests there could be (200,000 of them), which is
    what more requests converge to. `share` of the possible matches of each request are played.
    """
    strategies, luck = 10, 1.0
    strength = np.linspace(-1, 1, strategies)
    i, j = np.triu_indices(strategies, 1)
    noise = rng.normal(0, luck * 2**0.5, 200_000)
    rate = np.array([(1 / (1 + np.exp(-(gap + noise)))).mean() for gap in strength[i] - strength[j]])
    wins = np.zeros((strategies, strategies))
    wins[i, j], wins[j, i] = rate, 1 - rate
    truth = bradley_terry(wins).strength
    held = []
    for _ in range(repetitions):
        quality = strength + rng.normal(0, luck, (requests, strategies))
        p = 1 / (1 + np.exp(quality[:, j] - quality[:, i]))
        won = (rng.random(p.shape) < p).astype(float)
        played = rng.random(p.shape) < share
        request, pair = np.nonzero(played)
        frame = pl.DataFrame(
            {
                "request_id": np.char.mod("r%d", request if clustered else np.arange(len(request))),
                "strategy_a": np.char.mod("s%d", i[pair]),
                "strategy_b": np.char.mod("s%d", j[pair]),
                "p_a": won[played],
            }
        )
        table = fit_ratings(frame).table.sort("strategy_id")
        if table.height == strategies:
            held.append((table["low"].to_numpy() <= truth) & (truth <= table["high"].to_numpy()))
    return round(float(np.mean(held)), 4)


if __name__ == "__main__":
    main()
