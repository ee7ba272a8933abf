"""How many verdicts each tournament format needs, and whether a tournament that says 95 % is right.

    python benchmarks/tournaments.py --data ../shared/data/anchors --json [--quick]

Fields, truth and judge are simulated from real log-odds (`_anchors_sim.py` says how). What is counted:

- One verdict = one judge, one order. Every format asks in one random order first, and the other way round only
  where a pair has met on every request.
- A format is played without a stopping rule. After each round its answer is compared with the truth, so every
  number of verdicts has a share of simulations in which the answer is right (`best`: its mean win rate over the field
  and the field's 100 requests is within one percentage point of the top), a mean top-5 recall and a mean Kendall tau.
  Reported is the smallest number of verdicts from which on that is ≥ .95, after a monotone fit (isotonic
  regression), so that neither a lucky nor an unlucky budget decides. null: not within the verdicts played
  (`played` says how many that were).
- Two judges, since "a judge with 13 % position-driven verdicts" can be read in two ways. The decisive one names the
  answer that is preferred, position being its only noise; the plain keys are its. The wavering one draws every verdict
  with the preference as probability; `auto` is measured with it too, under keys that end in `_wavering`.
  `told_the_best_four` says why the decisive one is taken to be meant: somebody who was told the four best strategies
  beforehand, and lets only them meet, needs more verdicts of the wavering judge (null: more than the 1,200 that they
  can give) to name the best of them than halving needed in the measurements that the wanted figures come from (488,
  with 28 other strategies to rule out).
- `auto` is played once for each goal. `stop_right` is another set of runs with confidence 0.95 and the stopping rule
  on: of those that stopped because the goal was reached, the share that was right; the worse of wide and close.

Last line: one JSON object; strategies × field as `best_32_wide`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Two processes on two cores: threads inside of BLAS only get in each other's way. Before numpy is imported.
os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")

import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import Progress, TimeElapsedColumn  # noqa: E402

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from _anchors_sim import LogOdds, SimulatedJudge, draw_field, load_log_odds  # noqa: E402

from qbawa.tournaments.formats import FORMATS, Field, FormatName, GoalName, make_tournament  # noqa: E402
from qbawa.tournaments.formats.information_gain import place  # noqa: E402
from qbawa.tournaments.formats.posterior import fit_posterior  # noqa: E402
from qbawa.tournaments.formats.results_table import Results  # noqa: E402

SPREADS = {"wide": 1.0, "close": 0.25}
MARGIN = 0.01
TOP = 5
RIGHT = 0.95
# No new kind of run is begun after this long, so that a slow machine ends within 15 minutes; what is left out is named.
_ENOUGH_S = 750.0
# Numbers of verdicts at which answers are compared: 4 % apart.
_GRID_STEP = 1.04


@dataclass(frozen=True)
class Setting:
    """One kind of run; `confidence` None plays on until `budget`."""

    format: FormatName
    goal: GoalName
    strategies: int
    field: str
    budget: int
    simulations: int
    confidence: float | None = None
    decisive: bool = True


@dataclass(frozen=True)
class Run:
    """One simulated tournament, after each round: verdicts asked, is the best right, top-5 recall, tau."""

    verdicts: np.ndarray
    best: np.ndarray
    recall: np.ndarray
    tau: np.ndarray
    reason: str
    confidence: float


_log_odds: LogOdds


def _start(data: Path) -> None:
    global _log_odds
    _log_odds = load_log_odds(data)


def simulate(task: tuple[Setting, int]) -> Run:
    """Plays one tournament of the setting on the field and the judge that the seed gives."""
    setting, seed = task
    field = draw_field(_log_odds, setting.strategies, SPREADS[setting.field], seed)
    judge = SimulatedJudge(field, seed, setting.decisive)
    tournament = make_tournament(
        Field.full(field.names, field.requests),
        format=setting.format,
        goal=setting.goal,
        confidence=setting.confidence,
        verdict_budget=setting.budget,
        seed=seed,
    )
    rows, due = [], 0.0
    while tournament.done is None:
        tournament.record_batch(judge.verdicts(tournament.next_batch()))
        if tournament.verdicts >= due or tournament.done:
            rows.append((tournament.verdicts, *_score(field.win_rate, tournament.posterior.mean)))
            due = tournament.verdicts * _GRID_STEP
    return Run(*np.array(rows).T, tournament.done.reason, tournament.done.confidence)


def _score(truth: np.ndarray, strength: np.ndarray) -> tuple[bool, float, float]:
    order = np.argsort(-strength, kind="stable")
    top = np.argsort(-truth)[:TOP]
    above, below = np.triu_indices(len(truth), 1)
    concordant = np.sign(truth[order[above]] - truth[order[below]]).sum()
    return (
        bool(truth[order[0]] >= truth.max() - MARGIN),
        len(set(top) & set(order[:TOP])) / TOP,
        float(concordant / len(above)),
    )


def simulate_told(task: tuple[Setting, int]) -> Run:
    """The four strategies that truly are best meet each other evenly, nobody else does: what no format can know."""
    setting, seed = task
    field = draw_field(_log_odds, setting.strategies, SPREADS[setting.field], seed)
    judge = SimulatedJudge(field, seed, setting.decisive)
    table = Results(Field.full(field.names, field.requests))
    four = np.sort(np.argsort(-field.win_rate)[:4])
    each = np.zeros((setting.strategies, setting.strategies), dtype=np.int64)
    each[np.ix_(four, four)] = np.triu(np.full((4, 4), 5), 1)
    rows = []
    while table.verdicts < setting.budget:
        batch = place(table, each, orders=2)
        table.add(batch, judge.verdicts(batch), len(batch))
        strength = np.full(setting.strategies, -np.inf)
        strength[four] = fit_posterior(table).mean[four]
        rows.append((table.verdicts, *_score(field.win_rate, strength)))
    return Run(*np.array(rows).T, "told", np.nan)


def verdicts_until(runs: list[Run], measure: str, budget: int) -> int | None:
    """The smallest number of verdicts at which the mean of the measure is ≥ .95 for good; None within the budget."""
    first = min(run.verdicts[0] for run in runs)
    grid = first * _GRID_STEP ** np.arange(int(np.log(budget / first) / np.log(_GRID_STEP)) + 1)
    values = np.zeros((len(runs), len(grid)))
    for row, run in zip(values, runs, strict=True):
        at = np.searchsorted(run.verdicts, grid, side="right") - 1
        row[at >= 0] = getattr(run, measure)[at[at >= 0]]
    enough = np.flatnonzero(_isotonic(values.mean(axis=0)) >= RIGHT)
    return int(np.ceil(grid[enough[0]])) if len(enough) else None


def _isotonic(values: np.ndarray) -> np.ndarray:
    """The non-decreasing sequence nearest to the values: pool adjacent violators."""
    blocks: list[list[float]] = []
    for value in values:
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, m), (b, n) = blocks[-2:]
            blocks[-2:] = [[(a * m + b * n) / (m + n), m + n]]
    return np.concatenate([np.full(int(n), value) for value, n in blocks])


def settings(quick: bool) -> list[Setting]:
    """All runs, the most telling first."""
    stops, many, some, few = (16, 16, 8, 4) if quick else (330, 200, 80, 24)
    plan = [
        Setting("auto", "best", 32, "close", 30_000, stops, 0.95),
        Setting("auto", "best", 32, "wide", 30_000, stops * 2 // 3, 0.95),
        Setting("auto", "best", 32, "wide", 2_000, many),
        Setting("auto", "best", 32, "close", 25_000, some),
        Setting("auto", "order", 32, "wide", 6_000, some),
        Setting("auto", "best", 128, "wide", 3_000, some),
        Setting("auto", "top_k", 32, "wide", 3_000, some),
        Setting("auto", "best", 8, "wide", 1_000, some),
        Setting("auto", "best", 8, "close", 5_600, some),
    ]
    for name in FORMATS:
        if name != "auto":
            plan += [
                Setting(name, "best", 32, "wide", 40_000, few),
                Setting(name, "best", 32, "close", 99_200, few),
                Setting(name, "best", 8, "wide", 2_000, few),
                Setting(name, "best", 8, "close", 5_600, few),
                Setting(name, "best", 128, "wide", 12_000, few // 2),
            ]
    plan += [
        Setting("auto", "best", 32, "close", 30_000, stops, 0.95, decisive=False),
        Setting("auto", "best", 32, "wide", 30_000, stops // 2, 0.95, decisive=False),
        Setting("auto", "best", 32, "wide", 3_000, many, decisive=False),
        Setting("auto", "best", 32, "close", 25_000, some, decisive=False),
        Setting("auto", "order", 32, "wide", 8_000, some, decisive=False),
        Setting("auto", "best", 128, "wide", 5_000, some, decisive=False),
    ]
    return plan


def report(setting: Setting, runs: list[Run]) -> dict[str, Any]:
    """The setting's numbers under the issue's names."""
    wavering = "" if setting.decisive else "_wavering"
    suffix = f"{setting.strategies}_{setting.field}{wavering}"
    if setting.confidence is not None:
        reached = [run for run in runs if run.reason == "goal"]
        return {
            f"stop_right_{suffix}": _mean([run.best[-1] for run in reached]),
            f"stops_{suffix}": len(reached),
            f"stop_runs_{suffix}": len(runs),
            f"stop_verdicts_{suffix}": _mean([run.verdicts[-1] for run in reached], 0),
        }
    found: dict[str, Any] = {}
    if setting.goal == "best":
        found[f"best_{suffix}"] = verdicts_until(runs, "best", setting.budget)
    full = setting.strategies == 32 and setting.field == "wide"
    if full and (setting.goal == "order" or setting.format != "auto"):
        found[f"tau95_32{wavering}"] = verdicts_until(runs, "tau", setting.budget)
    if full and (setting.goal == "top_k" or setting.format != "auto"):
        found[f"top5_32{wavering}"] = verdicts_until(runs, "recall", setting.budget)
    return found


def _mean(values: list[Any], digits: int = 3) -> float | None:
    return round(float(np.mean(values)), digits) if values else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared/data/anchors")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    parser.add_argument("--quick", action="store_true", help="a minute: few simulations, rough numbers")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other fields and verdicts")
    parser.add_argument("--formats", nargs="*", default=list(FORMATS), choices=FORMATS)
    arguments = parser.parse_args()
    began = time.monotonic()
    results: dict[str, Any] = {name: {} for name in arguments.formats}
    plan = [setting for setting in settings(arguments.quick) if setting.format in results]
    skipped: list[str] = []
    shown = Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=Console(stderr=True))
    with multiprocessing.get_context("spawn").Pool(2, _start, (arguments.data,)) as pool, shown:
        simulations = shown.add_task("", total=sum(setting.simulations for setting in plan))

        def played(setting: Setting, simulate: Callable[[tuple[Setting, int]], Run]) -> dict[str, Any]:
            shown.update(simulations, description=f"{setting.format}, {_name(setting)}")
            # The runs that test the stopping rule see other fields than those that count verdicts.
            first = arguments.seed * 1_000_000 + (0 if setting.confidence is None else 100_000)
            runs = []
            for run in pool.imap(
                simulate, [(setting, first + seed) for seed in range(setting.simulations)], chunksize=2
            ):
                runs.append(run)
                shown.advance(simulations)
            found = report(setting, runs)
            if not arguments.json:
                print(f"{time.monotonic() - began:6.0f} s  {shown.tasks[0].description:36} {found}", flush=True)
            return found

        for setting in plan:
            if time.monotonic() - began > _ENOUGH_S:
                skipped.append(f"{setting.format} {_name(setting)}")
                continue
            results[setting.format] |= played(setting, simulate)
            results[setting.format].setdefault("played", {})[_name(setting)] = setting.budget
        if "auto" in results:
            told = results["told_the_best_four"] = {}
            for decisive in (True, False):
                setting = Setting("auto", "best", 32, "wide", 1_200, 40 if arguments.quick else 200, None, decisive)
                told |= played(setting, simulate_told)
    if "auto" in results:
        for judge in ("", "_wavering"):
            rates = [results["auto"].get(f"stop_right_32_{field}{judge}") for field in SPREADS]
            results["auto"][f"stop_right{judge}"] = min((rate for rate in rates if rate is not None), default=None)
    if skipped:
        results["skipped"] = skipped
    print(json.dumps(results | {"seconds": round(time.monotonic() - began, 1)}))


def _name(setting: Setting) -> str:
    stop, judge = "_stop" if setting.confidence else "", "" if setting.decisive else "_wavering"
    return f"{setting.goal}_{setting.strategies}_{setting.field}{stop}{judge}"


if __name__ == "__main__":
    main()
