"""Stages 1 and 2: which requests stand for all traffic, which strategies there are, and what their matrix looks like."""

from collections import Counter
from dataclasses import dataclass

import polars as pl

from qbawa.judges.prompt import check_rubric
from qbawa.project import Project
from qbawa.replay import plots
from qbawa.replay.cells import state_of, wanted_cells
from qbawa.replay.replay_set.choose import COLUMNS, choose, replayable_steps
from qbawa.replay.strategies.filter import select
from qbawa.replay.strategies.grid import expand
from qbawa.replay.strategies.repository import read_strategies, strategy_names, write_strategies
from qbawa.replay.strategies.strategy import recorded_strategy
from qbawa.text import shorten


@dataclass(frozen=True, slots=True)
class Chosen:
    """The replay set after a choice: its rows, why each was chosen, and a picture of the coverage by step."""

    rows: pl.DataFrame
    reasons: dict[str, int]
    pictures: dict[str, bytes]

    @property
    def request_ids(self) -> list[str]:
        return self.rows["request_id"].unique().sort().to_list()


def choose_requests(project: Project) -> Chosen:
    """Choose each step's replay set anew: what was chosen before stays."""
    lake = project.lake
    feedback, previous = lake.read("feedback"), lake.read("replay_set")
    steps = replayable_steps(lake)
    frames, drawn = [previous.clear()], {}
    for step in steps:
        here = pl.col("step") == step
        choice = choose(
            lake.read("recordings", COLUMNS, keep=here), feedback, project.config.replay_set, previous.filter(here)
        )
        frames.append(choice.rows.select(previous.columns))
        drawn[step] = plots.coverage_picture(choice)
    rows = pl.concat(frames)
    lake.replace("replay_set", sorted({*steps, *previous["step"]}), rows)
    project.publish()
    return Chosen(rows, dict(rows.group_by("reason").len().sort("reason").iter_rows()), drawn)


def declare_strategies(project: Project) -> pl.DataFrame:
    """All active strategies: those of qbawa.yaml, `recorded` for every step, and those that other stages made.

    A strategy that has left qbawa.yaml becomes inactive; its answers stay.
    """
    lake, config = project.lake, project.config
    for name, judge in config.judges.items():
        check_rubric(judge.rubric, f"judges.{name}.rubric")
    for name, step in config.steps.items():
        check_rubric(step.rubric or "", f"steps.{name}.rubric")
    steps = sorted({*lake.read("replay_set", ["step"])["step"], *(entry.step for entry in config.strategies)})
    write_strategies(lake, [*map(recorded_strategy, steps), *expand(config, project.home.root)])
    project.publish()
    return lake.read("strategies", where="active").sort("step", "name")


def matching_strategies(project: Project, pattern: str) -> list[str] | None:
    """Ids of the strategies that a pattern selects, None for all. Raises InputError where it selects none."""
    if pattern == "*":
        return None
    return [strategy.strategy_id for strategy in select(list(read_strategies(project.lake).values()), pattern)]


def failures_of_run(project: Project, run_id: str) -> pl.DataFrame:
    """Cells (request_id, strategy_id, error) that failed in a run and have not been answered since.

    Refused ones are not among them: nobody can mend them by running again.
    """
    columns = ["request_id", "strategy_id", "error"]
    cells = project.lake.read("replay_matrix", [*columns, "status"], keep=pl.col("run_id") == run_id)
    return cells.filter(state_of() == "failed").select(columns).sort(columns)


def describe_failures(failed: pl.DataFrame) -> str:
    """What failed, in three sentences: how many by reason, one of them in full, and what to do."""
    reasons = Counter(error.split(":", 1)[0] for error in failed["error"])
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    first = failed.row(0, named=True)
    return (
        f"{failed.height} cell{'s' * (failed.height > 1)} failed: {counted}. "
        f"Request '{first['request_id']}' with strategy '{first['strategy_id']}': {shorten(first['error'], 300).rstrip('.')}. "
        "All other answers are kept; once the cause is gone, `qbawa run replay_sweep` takes the failed cells again."
    )


def matrix_picture(project: Project) -> bytes | None:
    """Every cell's state, drawn."""
    cells = wanted_cells(project.lake)
    if cells.is_empty():
        return None
    named = cells.join(strategy_names(project.lake), on="strategy_id").with_columns(
        name=pl.col("step") + ": " + pl.col("name")
    )
    return plots.matrix_map(named, "Replay matrix")
