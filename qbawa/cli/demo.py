"""`qbawa demo`: the whole flywheel on sample articles."""

import shutil
import sys
import time
from pathlib import Path

import click


@click.command("demo")
def command() -> None:
    """Record 30 sample requests, run the flywheel on them, and show what came out. No key, no network.

    It works in the home like any other run, so `qbawa up` shows it in the UI, and a second demo adds nothing.

    \b
    Example:
      QBAWA_HOME=/tmp/try qbawa demo
    """
    import polars as pl
    from rich.console import Console

    from qbawa.cli.demo_app.pipeline import record_demo
    from qbawa.cli.launch.dagster import run_job
    from qbawa.cli.sample import write_sample
    from qbawa.cli.status_report import read_status, surest_close_pair
    from qbawa.cli.tables import leaderboard_tables, pair_panel
    from qbawa.ingest.batches import all_batches
    from qbawa.project import Home, open_project

    began = time.monotonic()
    console = Console(highlight=False)
    home = Home.find()
    if write_sample(home):
        console.print(f"Wrote a sample configuration to {home.config}")
    project = open_project(home)
    home.journal.mkdir(parents=True, exist_ok=True)
    recorded = project.lake.read(
        "recordings", ["request_id"], keep=pl.col("request_id").str.starts_with("demo-")
    ).height
    if recorded or all_batches(project.journals):
        console.print("The sample requests are recorded already.")
    else:
        requests = record_demo(home.journal)
        console.print(f"Recorded {len(requests)} requests of the sample newsdesk into {home.journal}")
    console.print("Running the job `flywheel` on the Dagster instance that `make up` shows:")
    code = run_job(home, ["flywheel"])
    if code:
        sys.exit(code)

    status = read_status(project)
    for table in leaderboard_tables(status.leaderboard):
        console.print(table)
    console.print("★ champion; ● strength and its 95 % interval, clustered by request", style="dim")
    pair = surest_close_pair(project)
    if pair is not None:
        console.print(pair_panel(pair))
    rows = status.rows
    console.print(
        f"{rows['recordings']} recordings, {rows['replay_matrix']} cells, {rows['matches']} matches, "
        f"{rows['verdicts']} verdicts, {rows['qbawa']} pairs, {rows['datasets']} datasets. "
        f"It cost ${status.cost_usd:.2f} (offline models are free) and {time.monotonic() - began:.0f} s."
    )
    here = Path.cwd()
    where = {
        "lake": Path(project.lake.uri),
        "catalog": home.catalog,
        "datasets": home.exports,
        "configuration": home.config,
    }
    for name, path in where.items():
        console.print(f"  {name:14}{path.relative_to(here) if path.is_relative_to(here) else path}", soft_wrap=True)
    qbawa = "qbawa" if shutil.which("qbawa") else ".venv/bin/qbawa"
    trace = [f"  {qbawa} trace {pair['pair_id']}"] if pair is not None else []
    following = [
        "Next:",
        f"  {qbawa + ' up':<39}the same in the Dagster UI, http://127.0.0.1:3000",
        *trace,
        f'  {qbawa} sql "SELECT step, p_best, best_answer, worse_answer FROM qbawa ORDER BY p_best DESC LIMIT 5"',
        f"  your own models, strategies and judges into the configuration, then  {qbawa} plan",
    ]
    console.print("\n".join(following), soft_wrap=True)
