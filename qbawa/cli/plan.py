"""`qbawa plan`: what answering and judging would cost, before anything is spent."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

    from qbawa.config import BudgetConfig
    from qbawa.tournaments.estimate import JudgePlan
    from qbawa.tournaments.step_state import StepState

COUNTS = ("verdicts_at_most", "asked_anew_at_most", "calls_at_most")


@click.command("plan")
@click.option("--requests", default="*", show_default=True, help="Glob over request ids.")
@click.option("--strategies", default="*", show_default=True, help="Names, ids or globs, several with commas.")
@click.option("--offline", is_flag=True, help="Do not ask the models' servers whether they are there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(requests: str, strategies: str, offline: bool, as_json: bool) -> None:
    """Say how many cells are missing or failed, what answering them takes (calls, dollars, minutes), what judging
    takes at most, and what is wrong with keys, prices, limits and servers of the models that would be called.

    Counts new recordings and what qbawa.yaml says now, as a run would find them; asks no model and changes nothing. Judging
    is a bound: every match that may still be asked, within the verdict budget. A tournament stops earlier where its goal
    is reached. Each server is sent one free request, GET /models, unless --offline. Exit code 1 where a model cannot be used.

    \b
    Example:
      qbawa plan --strategies 'terse/*'
    """
    import asyncio
    import json
    import sys
    from dataclasses import asdict

    from qbawa.engine.caps import cap_notes
    from qbawa.engine.preflight import examine
    from qbawa.engine.spending import spent_today_usd
    from qbawa.project import open_project
    from qbawa.replay import stage as replay_stage
    from qbawa.replay.cells import choose_cells
    from qbawa.text import printable
    from qbawa.tournaments.estimate import judging_minutes
    from qbawa.tournaments.stage import plan_judging, step_budgets

    project = replay_stage.foresee(open_project())
    chosen = replay_stage.matching_strategies(project, strategies)
    cells = choose_cells(replay_stage.wanted_cells(project.lake), requests=requests, strategies=chosen)
    estimate = replay_stage.plan(project, cells)
    states: dict[str, StepState] = {}
    judging = plan_judging(project, cells, states)
    judging_usd = sum(row.cost_usd_at_most for row in judging)
    total = {
        "calls": estimate.calls_to_pay + sum(row.calls_at_most for row in judging),
        "cost_usd": estimate.cost_usd + judging_usd,
        "minutes": estimate.minutes + judging_minutes(judging),
    }
    uses = replay_stage.model_uses(project, cells)
    for row in judging:
        if row.verdicts_at_most:
            uses.setdefault(row.model, []).append(f"judge '{row.judge}' of step '{row.step}'")
    problems = asyncio.run(examine(uses, project.config.models, reach=not offline))
    budgets = step_budgets(project, states)
    unusable = any(problem.certain for problem in problems)
    if as_json:
        rows = [asdict(row) for row in judging]
        checked = {
            "problems": [asdict(each) for each in problems],
            "verdict_budgets": [asdict(each) for each in budgets],
        }
        click.echo(json.dumps(asdict(estimate) | {"judging": rows, "total_at_most": total} | checked))
        sys.exit(1 if unusable else 0)
    click.echo(estimate.line())
    for model, calls in sorted(estimate.by_model.items()):
        click.echo(f"  {model}: {calls:,} calls to pay")
    if judging:
        from rich.console import Console

        Console(highlight=False).print(_table(judging))
        for note in _notes(judging):
            click.echo(note)
    else:
        click.echo("No judging: there are no judges in qbawa.yaml." if not project.config.judges else "No judging.")
    click.echo(
        f"Cells and judging together, at most: {total['calls']:,} calls to pay, ${total['cost_usd']:.4f}, "
        f"{total['minutes']:.1f} minutes"
    )
    budget = project.config.budget
    caps = {"run": budget.usd_per_run, "day": budget.usd_per_day, "step": budget.usd_per_step}
    said = ", ".join(f"${cap:g} a {name}" for name, cap in caps.items() if cap is not None)
    click.echo(f"Caps: {said or 'none'}." + _stopped(budget, estimate.cost_usd, judging))
    spent = 0.0 if budget.usd_per_day is None else spent_today_usd(project.lake)
    for line in (*cap_notes(budget, None, spent), *(line for each in budgets for line in each.lines())):
        click.echo(printable(line))
    for problem in problems:
        click.echo(f"{'✗' if problem.certain else '?'} {printable(problem.line())}")
    if unusable:
        sys.exit(1)


def _table(judging: Sequence["JudgePlan"]) -> "Table":
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    from qbawa.text import shorten
    from qbawa.tournaments.estimate import judging_minutes

    table = Table(title="Judging, at most", title_justify="left", box=SIMPLE, pad_edge=False)
    for heading in ("step", "judge", "verdicts", "asked anew", "calls to pay", "$", "minutes"):
        table.add_column(heading, justify="left" if heading in ("step", "judge") else "right")
    for row in judging:
        table.add_row(
            Text(shorten(row.step, 20)),
            Text(shorten(row.judge, 16)),
            *(f"{getattr(row, name):,}" for name in COUNTS),
            f"{row.cost_usd_at_most:.4f}",
            f"{row.minutes_at_most:.1f}",
        )
    if len(judging) > 1:
        table.add_section()
        sums = [sum(getattr(row, name) for row in judging) for name in COUNTS]
        usd = sum(row.cost_usd_at_most for row in judging)
        table.add_row("all", "", *(f"{count:,}" for count in sums), f"{usd:.4f}", f"{judging_minutes(judging):.1f}")
    return table


def _notes(judging: Sequence["JudgePlan"]) -> Iterable[str]:
    from qbawa.text import printable
    from qbawa.tournaments.estimate import VERDICT_OUTPUT

    if any(row.asked_anew_at_most for row in judging):
        yield "Asked anew: judged before, but with another rubric, model or answer; such a verdict no longer counts."
    if guessed := sorted({row.judge for row in judging if row.guessed}):
        yield f"Never asked before, so {VERDICT_OUTPUT:g} output tokens a call at most are guessed: {', '.join(guessed)}."
    for row in judging:
        if row.problem:
            yield printable(f"Judge '{row.judge}' cannot be asked on step '{row.step}': {row.problem}")


def _stopped(budget: "BudgetConfig", cells_usd: float, judging: Sequence["JudgePlan"]) -> str:
    """Which cap is below the bound, if one is."""
    judging_usd = sum(row.cost_usd_at_most for row in judging)
    by_step = [
        sum(row.cost_usd_at_most for row in judging if row.step == step) for step in {row.step for row in judging}
    ]
    bounds = {
        "run": (budget.usd_per_run, cells_usd + judging_usd),
        "day": (budget.usd_per_day, cells_usd + judging_usd),
        "step": (budget.usd_per_step, max(by_step, default=0.0)),
    }
    low = [f"${cap:g} a {name}" for name, (cap, usd) in bounds.items() if cap is not None and usd > cap]
    if not low:
        return ""
    return f" Below the bound: {', '.join(low)}. What would exceed it is not asked, and the next run goes on there."
