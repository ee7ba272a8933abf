"""`qbawa plan`: what answering and judging would cost, before anything is spent."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

    from qbawa.config import BudgetConfig
    from qbawa.tournaments.estimate import JudgePlan

COUNTS = ("verdicts_at_most", "asked_anew_at_most", "calls_at_most")


@click.command("plan")
@click.option("--requests", default="*", show_default=True, help="Glob over request ids.")
@click.option("--strategies", default="*", show_default=True, help="Names, ids or globs, several with commas.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(requests: str, strategies: str, as_json: bool) -> None:
    """Say how many cells are missing or failed, what answering them takes (calls, dollars, minutes), and what judging
    takes at most.

    Counts new recordings and what qbawa.yaml says now, as a run would find them; asks no model and changes nothing. Judging
    is a bound: every match that may still be asked, within the verdict budget. A tournament stops earlier where its goal
    is reached.

    \b
    Example:
      qbawa plan --strategies 'terse/*'
    """
    import json
    from dataclasses import asdict

    from qbawa.project import open_project
    from qbawa.replay import stage as replay_stage
    from qbawa.replay.cells import choose_cells
    from qbawa.tournaments.estimate import judging_minutes
    from qbawa.tournaments.stage import plan_judging

    project = replay_stage.foresee(open_project())
    chosen = replay_stage.matching_strategies(project, strategies)
    cells = choose_cells(replay_stage.wanted_cells(project.lake), requests=requests, strategies=chosen)
    estimate = replay_stage.plan(project, cells)
    judging = plan_judging(project, cells)
    judging_usd = sum(row.cost_usd_at_most for row in judging)
    total = {
        "calls": estimate.calls_to_pay + sum(row.calls_at_most for row in judging),
        "cost_usd": estimate.cost_usd + judging_usd,
        "minutes": estimate.minutes + judging_minutes(judging),
    }
    if as_json:
        rows = [asdict(row) for row in judging]
        click.echo(json.dumps(asdict(estimate) | {"judging": rows, "total_at_most": total}))
        return
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
