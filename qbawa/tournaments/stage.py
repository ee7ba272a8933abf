"""Stage 3: tournaments played, people asked, strategies rated, judges held against people.

Door of the package to the lake. What is heavy (scipy, the engine) is imported where it is used: every Dagster process and
`qbawa status` import this module.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from qbawa.errors import InputError
from qbawa.ids import content_id
from qbawa.project import Project
from qbawa.replay.strategies.repository import strategy_names
from qbawa.storage.lake import Lake
from qbawa.storage.tables import TABLES
from qbawa.tournaments.budgets import StepBudget

if TYPE_CHECKING:
    from qbawa.engine.session import Log
    from qbawa.tournaments.agreement.position_bias import PositionBias
    from qbawa.tournaments.estimate import JudgePlan
    from qbawa.tournaments.humans import HumanTask, VerdictFile
    from qbawa.tournaments.play import PlayReport
    from qbawa.tournaments.ratings import Effect, RatingFit
    from qbawa.tournaments.step_state import StepState


def play(
    project: Project,
    *,
    run_id: str,
    log: "Log" = lambda message: None,
    steps: Sequence[str] | None = None,
    requests: Sequence[str] | None = None,
    verdict_budget: int | None = None,
    usd: float | None = None,
) -> "PlayReport":
    """Play every step's tournament as far as its goal and budget go; a rerun goes on where the verdicts stop.

    `steps` and `requests` restrict what is played; results elsewhere still inform. `verdict_budget` counts the
    verdicts of a step that count now, earlier ones included (default: qbawa.yaml's). `usd` caps this run.
    Raises InputError for a step that has no strategies.
    """
    from qbawa.tournaments.repository import steps_with_answers

    known = steps_with_answers(project.lake)
    for step in steps or ():
        if step not in known:
            raise InputError(
                f"Step '{step}' has no answers to judge. Steps with answers: {', '.join(known) or 'none'}."
            )
    return asyncio.run(_play(project, run_id, log, steps or known, requests, verdict_budget, usd))


async def _play(
    project: Project,
    run_id: str,
    log: "Log",
    steps: Sequence[str],
    requests: Sequence[str] | None,
    verdict_budget: int | None,
    usd: float | None,
) -> "PlayReport":
    from qbawa.engine.progress import Progress
    from qbawa.engine.session import open_engine
    from qbawa.tournaments.play import PlayReport, StepReport, play_step
    from qbawa.tournaments.repository import write_decided

    began = time.monotonic()
    report = PlayReport()
    config = project.config.tournament
    if verdict_budget is not None:
        config = config.model_copy(update={"verdict_budget": verdict_budget})
    store = partial(write_decided, project.lake)
    async with open_engine(project, Progress(0, log), run_id=run_id, usd=usd, log=log) as engine:
        for step in steps:
            if not project.config.jury(step):
                report.steps[step] = StepReport(reason="no judges: name some under `judges` in qbawa.yaml")
                log(f"Step '{step}' has {report.steps[step].reason}.")
                continue
            log(f"Step '{step}': reading its answers, and the verdicts so far.")
            state = _read_step(project, step)
            report.steps[step] = await play_step(engine, state, config, store, report, log, requests)
        report.count(engine.stats)
    report.seconds = time.monotonic() - began
    return report


def is_played_out(project: Project) -> bool:
    """Whether another `play` over all steps would find no match to ask about and no tie to keep. Asks nobody."""
    from qbawa.tournaments.repository import steps_with_answers

    config = project.config.tournament
    for step in steps_with_answers(project.lake):
        if not project.config.jury(step):
            continue
        state = _read_step(project, step)
        if len(state.field.strategies) < 2:
            continue
        tournament = state.tournament(config)
        if tournament.next_matches(1) or any(state.add(match, []) for match in tournament.take_ties()):
            return False
    return True


def judge_uses(project: Project, steps: Iterable[str]) -> dict[str, list[str]]:
    """Names of the judges that call each model for these steps, by model."""
    uses: dict[str, list[str]] = {}
    for name, judge in sorted(
        {name: judge for step in steps for name, judge in project.config.jury(step).items()}.items()
    ):
        if f"judge '{name}'" not in uses.setdefault(judge.model, []):
            uses[judge.model].append(f"judge '{name}'")
    return uses


def step_budgets(project: Project, states: "dict[str, StepState] | None" = None) -> list[StepBudget]:
    """How the verdict budgets of all steps that were judged stand. Reads every verdict and asks nobody.

    `states` are steps that were read already, by name.
    """
    from qbawa.tournaments.repository import steps_with_answers

    lake, budget = project.lake, project.config.tournament.verdict_budget
    names = dict(strategy_names(lake).iter_rows())
    found = []
    for step in steps_with_answers(lake):
        if not project.config.jury(step) or not lake.read("verdicts", ["step"], keep=pl.col("step") == step).height:
            continue
        state = (states or {}).get(step) or _read_step(project, step)
        given, extra = sum(result.verdicts for result in state.past_results), state.newcomers(budget).verdicts
        unjudged = tuple(names.get(strategy, strategy) for strategy in state.unjudged)
        used_up = budget + extra - given < state.verdicts_per_match
        found.append(StepBudget(step, given, budget, extra, used_up, unjudged))
    return found


def plan_judging(
    project: Project, planned: pl.DataFrame, states: "dict[str, StepState] | None" = None
) -> "list[JudgePlan]":
    """What playing all tournaments would take at most, by step and judge, once `planned` is answered. Pays nothing.

    `planned` are cells in the form of `wanted_cells`. `states` grows by the steps that are read.
    """
    from qbawa.tournaments.estimate import plan_step
    from qbawa.tournaments.repository import answered_calls, judge_history, recorded_outputs, steps_with_answers

    lake = project.lake
    history = judge_history(lake)
    plans: list[JudgePlan] = []
    for step in sorted({*steps_with_answers(lake), *planned["step"]}):
        if project.config.jury(step):
            state = _read_step(project, step)
            if states is not None:
                states[step] = state
            plans += plan_step(
                state,
                project.config,
                planned,
                history,
                answered_calls=partial(answered_calls, lake),
                recorded_outputs=partial(recorded_outputs, lake),
            )
    return plans


def open_tasks(project: Project, step: str, judge: str) -> "Iterator[HumanTask]":
    """Matches of a step that this person has not judged, in the order in which people are asked.

    Raises InputError for a step without matches.
    """
    from qbawa.tournaments import humans

    lake, here = project.lake, pl.col("step") == step
    matches = lake.read("matches", keep=here & (pl.col("origin") != "identical"))
    if matches.is_empty():
        steps = sorted(lake.read("matches", ["step"])["step"].unique())
        raise InputError(f"Step '{step}' has no matches to judge. Steps with matches: {', '.join(steps) or 'none'}.")
    return humans.open_tasks(
        _read_step(project, step),
        matches,
        lake.read("verdicts", ["match_id", "judge", "judge_kind", "verdict", "preference"], keep=here),
        lake.read("judge_reliability", ["judge", "gate"], keep=here),
        judge,
        audit_share=project.config.tournament.audit_share,
    )


def verdict_file(project: Project, step: str, judge: str | None = None) -> "VerdictFile":
    """Where this person's verdicts go until they are taken in; by default the one whom the computer knows."""
    from qbawa.tournaments.humans import VerdictFile

    return VerdictFile(_human_verdicts(project), step, judge)


def _read_step(project: Project, step: str) -> "StepState":
    from qbawa.tournaments.repository import read_step

    return read_step(project.lake, step, project.config.jury(step), project.config.tournament.seed)


def _redecide(project: Project, steps: Sequence[str] | pl.Series) -> None:
    if not len(steps):
        return
    from qbawa.tournaments.repository import write_decided

    for step in steps:
        write_decided(project.lake, _read_step(project, step).redecide())


def _human_verdicts(project: Project) -> Path:
    return project.home.root / "human_verdicts"


def bracket_picture(project: Project, request_id: str) -> bytes | None:
    """The matches of one request, drawn."""
    from qbawa.tournaments import plots

    matches = project.lake.read("matches", blocks=[request_id])
    if matches.is_empty():
        return None
    return plots.bracket(matches, dict(strategy_names(project.lake).iter_rows()), f"Bracket of request {request_id}")


def bracket_counts(project: Project) -> dict[str, dict[str, float]]:
    """Matches, verdicts, unscored and cost_usd of each request's bracket."""
    matches = project.lake.read("matches", ["request_id", "verdicts", "unscored", "cost_usd"])
    sums = matches.group_by("request_id").agg(
        pl.len().alias("matches"), pl.col("verdicts", "unscored", "cost_usd").sum()
    )
    return {row.pop("request_id"): row for row in sums.iter_rows(named=True)}


@dataclass(frozen=True, slots=True)
class HumanReport:
    verdicts: int
    """Human verdicts that the lake holds now."""
    by_file: dict[str, int]
    """Verdicts taken in, by file that was new."""
    refused: dict[str, str]
    """Why a file could not be taken in, by file."""
    content: str
    """What tells these verdicts from others."""


def human_verdict_files(project: Project) -> list[Path]:
    """Tables of verdicts that people have left in the home."""
    return sorted(path for path in _human_verdicts(project).rglob("*") if path.suffix in (".csv", ".jsonl", ".parquet"))


def take_human_verdicts(project: Project) -> HumanReport:
    """Take in the tables of verdicts that people have left in `human_verdicts/`; what was taken changes nothing.

    A row's column `step` says its step, else the file's name does: `summarise.anna.csv`. Where people have judged, all of
    a step's matches are re-decided. A file that is wrong is refused whole; the others are taken.
    """
    taken: dict[str, int] = {}
    refused: dict[str, str] = {}
    steps = set(project.lake.read("strategies", ["step"])["step"]) | set(project.lake.read("matches", ["step"])["step"])
    for path in human_verdict_files(project):
        from qbawa.tournaments.import_verdicts import import_verdicts

        name = path.relative_to(_human_verdicts(project)).as_posix()
        try:
            tables = _by_step(path, name, steps)
            for dry_run in (True, False) if len(tables) > 1 else (False,):
                reports = [
                    import_verdicts(project.lake, table, step, kind="human", dry_run=dry_run)
                    for step, table in tables.items()
                ]
        except InputError as error:
            refused[name] = str(error).replace("the table", str(path), 1)
            continue
        if any(report.changed for report in reports):
            taken[name] = sum(report.written.get("verdicts", 0) for report in reports)
    held = project.lake.read("verdicts", ["step", "verdict_id", "verdict"], keep=pl.col("judge_kind") == "human")
    _redecide(project, held["step"].unique().sort())
    project.publish()
    content = content_id("verdicts", *sorted("|".join(map(str, row)) for row in held.iter_rows()))
    return HumanReport(held.height, taken, refused, content)


def _by_step(path: Path, name: str, steps: set[str]) -> dict[str, pl.DataFrame]:
    """The rows of a person's table by the step that they are about."""
    from qbawa.ingest.tables import load_table
    from qbawa.tournaments import humans

    table = load_table(path)
    judges = set(table["judge"].cast(pl.String).drop_nulls()) if "judge" in table.columns else set()
    of_file = humans.step_of_file(name, steps, judges)
    if "step" not in table.columns:
        return {of_file: table}
    named = table.with_columns(pl.col("step").cast(pl.String).replace("", None).fill_null(of_file))
    return {str(step): rows.drop("step") for (step,), rows in named.group_by("step", maintain_order=True)}


def reread_verdicts(project: Project) -> int:
    """Re-read every raw reply of a judge by the present parser and re-decide the steps that change; how many verdicts did."""
    from qbawa.tournaments.repository import reread

    lake = project.lake
    changed = reread(lake, lake.read("verdicts"))
    lake.merge("verdicts", changed)
    _redecide(project, changed["step"].unique().sort())
    project.publish()
    return changed.height


@dataclass(frozen=True)
class Rated:
    """Ratings of all steps with the strategies' names, what the checks look at, and pictures by step."""

    rows: pl.DataFrame
    fits: "dict[str, RatingFit]" = field(default_factory=dict)
    order_effects: "dict[str, Effect | None]" = field(default_factory=dict)
    cancelled: dict[str, int] = field(default_factory=dict)
    """Matches in which place cancels, since judges saw both orders alike."""
    position_biases: "dict[str, list[PositionBias]]" = field(default_factory=dict)
    """Of the judges that saw answers in an order, most biased first."""
    judging_usd: dict[str, float] = field(default_factory=dict)
    """What the verdicts of each step have cost so far."""
    unscored_shares: dict[str, float] = field(default_factory=dict)
    """Share of the verdicts that count which could not be read; steps without verdicts are left out."""
    separable: dict[str, bool] = field(default_factory=dict)
    """Whether the best strategy is surely better than the next."""
    forests: dict[str, bytes] = field(default_factory=dict)
    fronts: dict[str, bytes] = field(default_factory=dict)


def rate_strategies(project: Project) -> Rated:
    """Rate every step's strategies from its matches."""
    from qbawa.tournaments import plots
    from qbawa.tournaments.agreement.position_bias import order_of_matches, position_biases

    lake = project.lake
    fits = fit_steps(project)
    costs = (
        lake.read("replay_matrix", ["step", "strategy_id", "cost_usd", "latency_s"], keep=pl.col("status") == "ok")
        .group_by("step", "strategy_id")
        .agg(mean_cost_usd=pl.col("cost_usd").mean(), mean_latency_s=pl.col("latency_s").mean())
    )
    tables = [fit.table.with_columns(step=pl.lit(step), block_id=pl.lit(step)) for step, fit in fits.items()]
    rows = pl.concat(tables) if tables else lake.read("ratings").clear().drop("mean_cost_usd", "mean_latency_s")
    rows = rows.join(costs, on=["step", "strategy_id"], how="left")
    lake.replace("ratings", sorted({*rows["step"], *lake.blocks("ratings")}), rows)
    project.publish()
    named = rows.join(strategy_names(project.lake), on="strategy_id", how="left").with_columns(
        pl.col("name").fill_null(pl.col("strategy_id"))
    )
    by_step = {str(step): table for (step,), table in named.group_by("step", maintain_order=True)}
    jury, columns = project.config.jury, ["match_id", "judge", "judge_kind", "shown_first", "verdict", "preference"]
    verdicts = {step: lake.read("verdicts", columns, keep=pl.col("step") == step) for step in fits}
    counted = lake.read("matches", ["step", "verdicts", "unscored", "cost_usd"]).group_by("step").sum().sort("step")
    return Rated(
        rows=named,
        fits=fits,
        order_effects={step: fit.order_effect for step, fit in fits.items()},
        cancelled={s: order_of_matches(v, jury(s)).filter(pl.col("order") == 0).height for s, v in verdicts.items()},
        position_biases={s: position_biases(v, jury(s)) for s, v in verdicts.items()},
        judging_usd=dict(counted.select("step", "cost_usd").iter_rows()),
        unscored_shares={step: lost / (read + lost) for step, read, lost, _ in counted.iter_rows() if read + lost},
        separable={s: t.filter(pl.col("separable_group") == 1).height == 1 for s, t in by_step.items()},
        forests={s: plots.forest(t, f"Strategies of step '{s}'") for s, t in by_step.items()},
        fronts={s: plots.cost_against_strength(t, f"Cost against strength, step '{s}'") for s, t in by_step.items()},
    )


def rate_judges(project: Project) -> pl.DataFrame:
    """How far each judge of each step can be trusted."""
    from qbawa.tournaments.agreement.reliability import judge_reliability

    lake, config = project.lake, project.config
    models = dict(lake.read("strategies", ["strategy_id", "model"]).drop_nulls().iter_rows())
    rows = judge_reliability(
        rows_in_order(lake, "verdicts"),
        rated_matches(project),
        strategy_families={strategy: config.family(model) for strategy, model in models.items()},
        judge_families={name: config.family(judge.model) for name, judge in config.judges.items()},
        threshold=config.tournament.gate,
    )
    lake.replace(
        "judge_reliability",
        sorted({*rows["step"], *lake.blocks("judge_reliability")}),
        rows.with_columns(block_id="step"),
    )
    project.publish()
    return rows


def rated_matches(project: Project) -> pl.DataFrame:
    """Matches with what the ratings fit beside strength: the order in which judges saw the answers (1 where all saw a
    first, −1 where all saw b), and the lengths of both answers."""
    from qbawa.tournaments.agreement.position_bias import order_of_matches

    lake = project.lake
    verdicts = lake.read("verdicts", ["step", "match_id", "judge", "judge_kind", "shown_first", "verdict"])
    steps = verdicts.partition_by("step", as_dict=True).items()
    orders = [order_of_matches(of_step, project.config.jury(str(step))) for (step,), of_step in steps]
    order = pl.concat(orders or [order_of_matches(verdicts, ())])
    lengths = lake.read("replay_matrix", ["cell_id", "answer"], keep=pl.col("sample") == 0).select(
        "cell_id", length=pl.col("answer").str.len_chars().cast(pl.Int64)
    )
    matches = rows_in_order(lake, "matches").join(order, on="match_id", how="left", maintain_order="left")
    for side in ("a", "b"):
        renamed = lengths.rename({"cell_id": f"cell_{side}", "length": f"length_{side}"})
        matches = matches.join(renamed, on=f"cell_{side}", how="left", maintain_order="left")
    return matches


def fit_steps(project: Project) -> "dict[str, RatingFit]":
    """The fit of every step that has matches."""
    from qbawa.tournaments.ratings import fit_ratings

    matches, length = rated_matches(project), project.config.tournament.length_effect
    return {str(s): fit_ratings(m, length_effect=length) for (s,), m in matches.group_by("step", maintain_order=True)}


def rows_in_order(lake: Lake, table: str) -> pl.DataFrame:
    """The table's rows by key. Sums of floats depend on their order, which in the lake is that of writing."""
    return lake.read(table).sort(TABLES[table].key)
