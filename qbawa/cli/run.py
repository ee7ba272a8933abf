"""`qbawa run`: a job of the flywheel without the UI."""

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from qbawa.project import Home

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

    from qbawa.cli.launch.dagster import run_job
    from qbawa.config_file import load_config
    from qbawa.errors import InputError
    from qbawa.project import Home, lake_options
    from qbawa.storage.occupancy import in_use

    home = Home.find()
    # So that nothing is started on a wrong one. The lake is opened by the run itself, here only where what was asked for is
    # held against it: this process waits as long as the run lasts, and had better be small.
    lake_options(load_config(home.config))
    click.get_current_context().with_resource(in_use(home.root))
    sweeps_matrix, plays = job in ("flywheel", "replay_sweep"), job in ("flywheel", "tournament_sweep")
    if (requests or strategies) and not sweeps_matrix:
        raise InputError(f"--requests and --strategies choose cells; the job '{job}' answers none.")
    if strategies:
        _refuse_unknown(home, strategies)
    cells = {k: v for k, v in (("requests", requests), ("strategies", strategies), ("usd", usd)) if v is not None}
    ops = {}
    if sweeps_matrix and cells:
        ops["sweep_matrix"] = {"config": cells}
    if plays and usd is not None:
        ops["sweep_brackets"] = {"config": {"usd": usd}}
    if usd is not None and not ops:
        raise InputError(f"--usd caps what models are paid; the job '{job}' asks none.")
    arguments = [job, "--config", json.dumps({"ops": ops} if ops else {})]
    sys.exit(run_job(home, arguments))


def _refuse_unknown(home: "Home", strategies: str) -> None:
    """Raise InputError where the lake has strategies and none of these is among them."""
    from qbawa.project import open_project
    from qbawa.replay.stage import matching_strategies

    project = open_project(home)
    if project.lake.blocks("strategies"):
        matching_strategies(project, strategies)
