"""`qbawa run`: a job of the flywheel without the UI."""

import sys

import click

JOBS = ("flywheel", "replay_sweep", "tournament_sweep", "take_new_recordings", "judge_anew", "maintain_lake")


@click.command("run")
@click.argument("job", type=click.Choice(JOBS), default="flywheel")
@click.option("--requests", help="Glob over request ids (replay_sweep, flywheel).")
@click.option("--strategies", help="Names, ids or globs of strategies, several with commas (replay_sweep, flywheel).")
@click.option("--usd", type=float, help="Dollar cap of this run.")
def command(job: str, requests: str | None, strategies: str | None, usd: float | None) -> None:
    """Run JOB on the same Dagster instance that the UI shows; `flywheel` runs all stages once.

    Exit code 1 where cells failed or judging stopped; all else is done, and a rerun goes on with what is missing. Exit code 3
    where nothing failed and a dollar cap left cells or matches open. The caps of qbawa.yaml apply besides --usd.

    \b
    Example:
      qbawa run replay_sweep --strategies 'terse/*' --usd 2
    """
    import json
    from datetime import UTC, datetime

    from qbawa.cli.launch.dagster import run_module
    from qbawa.engine.caps import cap_notes
    from qbawa.engine.session import spent_usd
    from qbawa.errors import InputError
    from qbawa.project import Home, open_project
    from qbawa.replay.stage import matching_strategies
    from qbawa.storage.occupancy import in_use

    home = Home.find()
    project = open_project(home)
    click.get_current_context().with_resource(in_use(home.root))
    sweeps_matrix, plays = job in ("flywheel", "replay_sweep"), job in ("flywheel", "tournament_sweep")
    if (requests or strategies) and not sweeps_matrix:
        raise InputError(f"--requests and --strategies choose cells; the job '{job}' answers none.")
    if strategies and project.lake.blocks("strategies"):
        matching_strategies(project, strategies)
    cells = {k: v for k, v in (("requests", requests), ("strategies", strategies), ("usd", usd)) if v is not None}
    ops = {}
    if sweeps_matrix and cells:
        ops["sweep_matrix"] = {"config": cells}
    if plays and usd is not None:
        ops["sweep_brackets"] = {"config": {"usd": usd}}
    if usd is not None and not ops:
        raise InputError(f"--usd caps what models are paid; the job '{job}' asks none.")
    if sweeps_matrix or plays:
        today = f"day:{datetime.now(UTC):%Y-%m-%d}"
        spent = spent_usd(project.lake, today) if project.config.budget.usd_per_day is not None else 0.0
        for note in cap_notes(project.config.budget, usd, spent):
            click.echo(note, err=True)
    arguments = [job, "--config", json.dumps({"ops": ops} if ops else {})]
    sys.exit(run_module(home, "qbawa_assets.run_job", arguments))
