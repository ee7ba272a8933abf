"""`qbawa plan`: what answering would cost, before anything is spent."""

import click


@click.command("plan")
@click.option("--requests", default="*", show_default=True, help="Glob over request ids.")
@click.option("--strategies", default="*", show_default=True, help="Names, ids or globs, several with commas.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(requests: str, strategies: str, as_json: bool) -> None:
    """Say how many cells are missing or failed, and what answering them takes: calls, dollars, minutes.

    Takes new recordings in and expands qbawa.yaml first, as a run would; asks no model. Judging comes on top: at most
    the verdict budget a step.

    \b
    Example:
      qbawa plan --strategies 'terse/*'
    """
    import json
    from dataclasses import asdict

    from qbawa import flywheel
    from qbawa.project import open_project
    from qbawa.replay.cells import choose_cells, wanted_cells
    from qbawa.replay.plan import plan

    project = open_project()
    flywheel.ingest(project, flywheel.new_batches(project))
    flywheel.choose_requests(project)
    flywheel.declare_strategies(project)
    chosen = flywheel.matching_strategies(project, strategies)
    cells = choose_cells(wanted_cells(project.lake), requests=requests, strategies=chosen)
    estimate = plan(project, cells)
    if as_json:
        click.echo(json.dumps(asdict(estimate)))
        return
    click.echo(estimate.line())
    for model, calls in sorted(estimate.by_model.items()):
        click.echo(f"  {model}: {calls:,} calls to pay")
    budget, judging = project.config.budget, project.config.tournament
    caps = {"run": budget.usd_per_run, "day": budget.usd_per_day, "step": budget.usd_per_step}
    said = ", ".join(f"${cap:g} a {name}" for name, cap in caps.items() if cap is not None)
    click.echo(f"Caps: {said or 'none'}. Judging comes on top: at most {judging.verdict_budget:,} verdicts a step.")
