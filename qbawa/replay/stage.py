"""Stages 1 and 2: which requests stand for all traffic, which strategies there are, and the matrix of their answers.

Door of the package to the lake. What is heavy (scipy, templates, the engine) is imported where it is used: `qbawa status`
counts cells, and must be quick.
"""

import asyncio
import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from qbawa.errors import InputError
from qbawa.project import Project
from qbawa.replay.cells import first_recordings, state_of, with_state, with_strategies
from qbawa.replay.strategies.filter import select
from qbawa.replay.strategies.repository import read_strategies, strategy_names, write_strategies
from qbawa.replay.strategies.strategy import recorded_strategy
from qbawa.storage.lake import DraftLake, Lake
from qbawa.text import shorten

if TYPE_CHECKING:
    from qbawa.engine.cost_estimate import Estimate, ModelHistory
    from qbawa.replay.baseline import Baseline
    from qbawa.replay.inputs import Material
    from qbawa.replay.report import ReplayReport

logger = logging.getLogger("qbawa.replay")

Log = Callable[[str], Any]
OnCells = Callable[[pl.DataFrame], None]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The replay set after a choice: its rows, why each was chosen, and a picture of the coverage by step.

    Of a step with many recordings only where there was something to choose: a full set stays as it was drawn before.
    """

    rows: pl.DataFrame
    reasons: dict[str, int]
    pictures: dict[str, bytes]

    @property
    def request_ids(self) -> list[str]:
        return self.rows["request_id"].unique().sort().to_list()


def choose_requests(project: Project, log: Log | None = None) -> Chosen:
    """Choose each step's replay set again: what was chosen before stays. Looks at what is new alone."""
    from qbawa.replay.replay_set.stage import choose_all

    choices = choose_all(project, log or logger.info)
    project.publish()
    rows = pl.concat([project.lake.read("replay_set").clear(), *(choice.rows for choice in choices.values())])
    drawn = {}
    if looked_for := {step: choice for step, choice in choices.items() if len(choice.vectors)}:
        from qbawa.replay import plots

        drawn = {step: plots.coverage_picture(choice) for step, choice in looked_for.items()}
    return Chosen(rows, dict(rows.group_by("reason").len().sort("reason").iter_rows()), drawn)


def declare_strategies(project: Project) -> pl.DataFrame:
    """All active strategies: those of qbawa.yaml, `recorded` for every step, and those that other stages made.

    A strategy that has left qbawa.yaml becomes inactive; its answers stay.
    """
    _declare(project)
    project.publish()
    return project.lake.read("strategies", keep=pl.col("active")).sort("step", "name")


def foresee(project: Project) -> Project:
    """The project as a run would find it: pending recordings taken in, requests chosen, strategies declared.

    What that changes lies in memory, and nothing in the home does. Its lake can be read and has no files.
    """
    from qbawa.ingest.stage import ingest_draft
    from qbawa.replay.replay_set.stage import choose_all

    draft = DraftLake(project.lake)
    foreseen = dataclasses.replace(project, lake=draft)
    ingest_draft(draft, project)
    choose_all(foreseen, logger.debug)
    _declare(foreseen)
    return foreseen


def replayable_steps(lake: Lake) -> list[str]:
    """Steps that are one model call, and so can be answered by another strategy, most recorded first."""
    asked = lake.scan("recordings").filter(pl.col("model").is_not_null() | pl.col("messages").is_not_null())
    counted = asked.group_by("step").len().collect(engine="streaming")
    return counted.sort(["len", "step"], descending=[True, False])["step"].to_list()


def matching_strategies(project: Project, pattern: str) -> list[str] | None:
    """Ids of the strategies that a pattern selects, None for all. Raises InputError where it selects none."""
    if pattern == "*":
        return None
    return [strategy.strategy_id for strategy in select(list(read_strategies(project.lake).values()), pattern)]


def wanted_cells(lake: Lake) -> pl.DataFrame:
    """One row per cell that should exist: every request of a step's replay set × every active strategy of that step.

    Columns: cell_id, request_id, step, strategy_id, origin, recording_id, state, answered_at. A request without the
    step has no such cell.
    """
    chosen = lake.read("replay_set", ["step", "request_id", "recording_id"])
    strategies = lake.read("strategies", ["step", "strategy_id", "origin"], keep=pl.col("active"))
    return _with_state(lake, chosen.join(strategies, on="step"))


def cells_that_new_ones_cause(lake: Lake) -> pl.DataFrame:
    """The wanted cells that are missing or failed, with `cause`: `request` where the request is the newer of the two, else
    `strategy`. So each belongs to one of them, and goes on belonging to it when a cap has cut its row or column in half."""
    due = wanted_cells(lake).filter(pl.col("state").is_in(["missing", "failed"]))
    chosen = lake.read("replay_set", ["step", "request_id", "chosen_at"])
    created = lake.read("strategies", ["strategy_id", "created_at"])
    by_request = pl.col("chosen_at") > pl.col("created_at")
    return (
        due.join(chosen, on=["step", "request_id"], how="left")
        .join(created, on="strategy_id", how="left")
        .with_columns(cause=pl.when(by_request).then(pl.lit("request")).otherwise(pl.lit("strategy")))
        .drop("chosen_at", "created_at")
    )


def named_cells(lake: Lake, pairs: Sequence[tuple[str, str]]) -> pl.DataFrame:
    """The cells of these (request, strategy) pairs, in the form of `wanted_cells`.

    A pair whose request never ran the strategy's step is left out: there is no such cell. Raises InputError for a
    strategy or a request that the lake does not know.
    """
    by = ["step", "request_id"]
    cells = with_strategies(pairs, lake.read("strategies", ["step", "strategy_id", "origin"]))
    known = lake.read("replay_set", [*by, "recording_id"])
    others = cells.join(known, on=by, how="anti")["request_id"].unique()
    if len(others):
        columns = [*by, "recording_id", "recorded_at"]
        recorded = lake.read("recordings", columns, keep=pl.col("request_id").is_in(others.implode()))
        first = first_recordings(others, recorded).join(known, on=by, how="anti")
        known = pl.concat([known, first.select(known.columns)])
    return _with_state(lake, cells.join(known, on=by))


def describe_unwanted(project: Project, pairs: Collection[tuple[str, str]]) -> str:
    """Why nobody wants these (request, strategy) cells: their request never ran the strategy's step, or gave no answer."""
    steps = dict(project.lake.read("strategies", ["strategy_id", "step"]).iter_rows())
    request, strategy = min(pairs)
    rest = f", and {len(pairs) - 1:,} more like it" if len(pairs) > 1 else ""
    return (
        f"Nobody wants the cell of request '{request}' and strategy '{strategy}'{rest}: the request has no step "
        f"'{steps.get(strategy)}' with anything to answer. Nothing was asked; the cell stays empty and nothing is missing."
    )


def plan(project: Project, cells: pl.DataFrame) -> "Estimate":
    """Calls, dollars and minutes for those of `cells` (as in `wanted_cells`) that are not answered yet. Pays nothing."""
    from qbawa.engine.session import LedgerReader
    from qbawa.replay.estimate import estimate_cells

    due = cells.filter(pl.col("state") != "ok")
    lake, models = project.lake, project.config.models
    return asyncio.run(estimate_cells(due, _material(lake, due), models, LedgerReader(project), _model_history(lake)))


def replay(
    project: Project,
    cells: pl.DataFrame,
    *,
    run_id: str,
    log: Log | None = None,
    on_cells: OnCells | None = None,
    usd: float | None = None,
    retry_refused: bool = False,
) -> "ReplayReport":
    """Answer the cells that are missing, failed or refused among `cells`, which are in the form of `wanted_cells`.

    `on_cells` is told of every finished cell (request_id, strategy_id, state, error, cost_usd, latency_s) once it is
    in the lake, those done before included. `usd` caps this run, besides the caps of qbawa.yaml. Cells that fail do
    not stop the others; a budget does, and leaves the rest missing. A call that was billed and refused is made again only
    with `retry_refused`; without it the cell is refused once more, for nothing.
    """
    return asyncio.run(_replay(project, cells, run_id, log, on_cells or (lambda _: None), usd, retry_refused))


async def _replay(
    project: Project,
    cells: pl.DataFrame,
    run_id: str,
    log: Log | None,
    on_cells: OnCells,
    usd: float | None,
    retry_refused: bool,
) -> "ReplayReport":
    from qbawa.replay.report import ReplayReport

    began = time.monotonic()
    lake, report = project.lake, ReplayReport(cells=cells.height)
    done, due = cells.filter(pl.col("state") == "ok"), cells.filter(pl.col("state") != "ok")
    report.ok = report.done_before = done.height
    say = log or logger.info
    if done.height:
        on_cells(_finished(lake, done))

    def store(rows: pl.DataFrame) -> None:
        lake.merge("replay_matrix", rows)
        on_cells(rows.select("request_id", "strategy_id", state_of().alias("state"), *_OUTCOME))

    if due.height:
        from qbawa.engine.progress import Progress
        from qbawa.engine.session import open_engine
        from qbawa.replay.estimate import estimate_cells
        from qbawa.replay.runner import answer_cells

        say(f"reading the questions of {due.height:,} cells")
        material, progress = _material(lake, due), Progress(due.height, log)
        async with open_engine(
            project, progress, run_id=run_id, usd=usd, retry_refused=retry_refused, log=say
        ) as engine:
            say(f"looking up which calls of {due.height:,} cells are paid already")
            ahead = await estimate_cells(due, material, project.config.models, engine.ledger, _model_history(lake))
            say(ahead.line())
            await answer_cells(engine, due, material, progress, report, store, run_id, say)
            report.count(engine.stats)
            if report.stopped and not report.capped:  # by a signal, say, after which nobody asks for the summary
                (log or logger.info)(report.kept())
    report.seconds = time.monotonic() - began
    return report


def check_baseline(
    project: Project,
    *,
    steps: Sequence[str] = (),
    requests: int = 5,
    samples: int = 2,
    model: str | None = None,
    usd: float | None = None,
    log: Log | None = None,
) -> "list[Baseline]":
    """Ask recorded requests of each step's replay set again, unchanged: how near do the answers come to the recorded ones?

    By the model that was recorded, found under `models`, or by `model`. Answers are in the ledger: the same check again
    pays nothing. Raises InputError for a step without a replay set, and BudgetError where `usd` does not suffice.
    """
    return asyncio.run(_check_baseline(project, steps, requests, samples, model, usd, log or logger.info))


async def _check_baseline(
    project: Project,
    steps: Sequence[str],
    requests: int,
    samples: int,
    model: str | None,
    usd: float | None,
    log: Log,
) -> "list[Baseline]":
    from qbawa.engine.progress import Progress
    from qbawa.engine.session import open_engine
    from qbawa.replay.baseline import Baseline, ask_again, model_for
    from qbawa.replay.inputs import COLUMNS, Material

    lake, models = project.lake, project.config.models
    chosen = lake.read("replay_set", ["step", "recording_id"]).sort("step", "recording_id")
    unknown = sorted(set(steps) - set(chosen["step"]))
    if unknown:
        known = ", ".join(chosen["step"].unique().sort()) or "none"
        raise InputError(f"There is no replay set of step '{unknown[0]}'. Steps: {known}.")
    wanted = chosen.filter(pl.col("step").is_in(list(steps)) if steps else pl.lit(True))
    recorded = lake.read(
        "recordings", [*COLUMNS, "model"], keep=pl.col("recording_id").is_in(wanted["recording_id"].implode())
    ).filter(pl.col("error").is_null() & pl.col("output").is_not_null() & pl.col("messages").is_not_null())
    material = Material.of(lake.read("strategies").clear(), recorded)
    found = []
    async with open_engine(
        project, Progress(0, None), run_id=f"baseline-{int(time.time())}", usd=usd, log=log
    ) as engine:
        for step, rows in sorted(recorded.sort("recording_id").partition_by("step", as_dict=True).items()):
            asked = rows.head(requests)
            name = str(asked["model"].drop_nulls().first() or "")
            used = model or model_for(name, models)
            if used is None:
                why = f"no model under `models` is '{name}', which was recorded; say --model NAME."
                found.append(Baseline(str(step[0]), name, 0, 0, None, None, None, (why,), 0.0))
                continue
            log(f"{step[0]}: asking {asked.height} requests again, {samples} times each, by {used}")
            found.append(await ask_again(engine, str(step[0]), used, asked, material, samples))
    return found


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


def model_uses(project: Project, cells: pl.DataFrame) -> dict[str, list[str]]:
    """Names of the strategies that would call each model for those of `cells` that are not answered, by model."""
    from qbawa.replay.silent_models import models_of

    due = set(cells.filter(pl.col("state") != "ok")["strategy_id"])
    uses: dict[str, list[str]] = {}
    for strategy in read_strategies(project.lake).values():
        if strategy.strategy_id in due and strategy.origin != "import":
            for model in sorted(models_of(strategy)):
                uses.setdefault(model, []).append(f"strategy '{strategy.name}'")
    return uses


@dataclass(frozen=True, slots=True)
class StrategyCard:
    """What a person wants to know of a strategy, beside its key."""

    name: str
    step: str
    model: str | None
    prompt: str
    """Its template as one text; what production does has none."""


def strategy_cards(project: Project) -> dict[str, StrategyCard]:
    """Name, step, model and prompt of every strategy, by id."""
    return {
        key: StrategyCard(strategy.name, strategy.step, strategy.model, strategy.template.text())
        for key, strategy in read_strategies(project.lake).items()
    }


def silent_models(project: Project, run_id: str | None = None) -> str:
    """Which models have failed as a whole in a run (default: in the run that asked each last), and how to go on; '' for none.

    Only cells of active strategies count.
    """
    from qbawa.replay.silent_models import describe, silent_models

    columns = ["run_id", "strategy_id", "status", "error", "answered_at"]
    cells = project.lake.read("replay_matrix", columns, keep=None if run_id is None else pl.col("run_id") == run_id)
    if cells.filter(pl.col("status") == "failed").is_empty():
        return ""
    asked = pl.col("active") & (pl.col("origin") != "import")
    active = set(project.lake.read("strategies", ["strategy_id"], keep=asked)["strategy_id"])
    strategies = {key: strategy for key, strategy in read_strategies(project.lake).items() if key in active}
    silent = silent_models(cells, strategies)
    return describe(silent) if silent else ""


def matrix_picture(project: Project) -> bytes | None:
    """Every cell's state, drawn."""
    from qbawa.replay import plots

    cells = wanted_cells(project.lake)
    if cells.is_empty():
        return None
    named = cells.join(strategy_names(project.lake), on="strategy_id").with_columns(
        name=pl.col("step") + ": " + pl.col("name")
    )
    return plots.matrix_map(named, "Replay matrix")


_OUTCOME = ("error", "cost_usd", "latency_s")


def _declare(project: Project) -> None:
    """Bring the table `strategies` up to qbawa.yaml and the steps of the replay set."""
    from qbawa.judges.prompt import check_rubric
    from qbawa.replay.strategies.grid import expand

    lake, config = project.lake, project.config
    for name, judge in config.judges.items():
        check_rubric(judge.rubric, f"judges.{name}.rubric")
    for name, step in config.steps.items():
        check_rubric(step.rubric or "", f"steps.{name}.rubric")
    steps = sorted({*lake.read("replay_set", ["step"])["step"], *(entry.step for entry in config.strategies)})
    write_strategies(lake, [*map(recorded_strategy, steps), *expand(config, project.home.root)])


def _with_state(lake: Lake, cells: pl.DataFrame) -> pl.DataFrame:
    unanswered = pl.col("error").is_not_null() | pl.col("output").is_null()
    return with_state(
        cells,
        lake.read("replay_matrix", ["cell_id", "status", "error", "answered_at"]),
        lake.read("recordings", ["recording_id"], keep=unanswered)["recording_id"],
    )


def _finished(lake: Lake, cells: pl.DataFrame) -> pl.DataFrame:
    """Cost and duration of cells that are done, in the form that `on_cells` takes."""
    blocks = cells["request_id"].unique().to_list()
    stored = lake.read("replay_matrix", ["cell_id", "cost_usd", "latency_s"], blocks=blocks).unique("cell_id")
    no_error = pl.lit(None, pl.String).alias("error")
    return (
        cells.join(stored, on="cell_id").with_columns(no_error).select("request_id", "strategy_id", "state", *_OUTCOME)
    )


def _material(lake: Lake, cells: pl.DataFrame) -> "Material":
    """The strategies and recordings of these cells."""
    from qbawa.replay.inputs import COLUMNS, Material

    strategies = pl.col("strategy_id").is_in(cells["strategy_id"].unique().implode())
    recordings = pl.col("recording_id").is_in(cells["recording_id"].unique().implode())
    return Material.of(lake.read("strategies", keep=strategies), lake.read("recordings", COLUMNS, keep=recordings))


def _model_history(lake: Lake) -> Mapping[str, "ModelHistory"]:
    from qbawa.replay.estimate import model_history

    columns = ["model", "input_tokens", "output_tokens", "latency_s"]
    return model_history(lake.read("calls", columns, keep=pl.col("error").is_null()))
