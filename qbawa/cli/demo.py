"""`qbawa demo`: the whole flywheel on sample articles."""

import sys
import time

import click


@click.command("demo")
def command() -> None:
    """Record 30 sample requests, run the flywheel on them, and show what came out. No key, no network.

    It works in the home like any other run, so `qbawa up` shows it in the UI, and a second demo adds nothing.

    \b
    Example:
      QBAWA_HOME=/tmp/try qbawa demo
    """
    from rich.console import Console

    from qbawa.cli.tables import leaderboard_tables, pair_panel
    from qbawa.demo.pipeline import record_demo
    from qbawa.home import Home
    from qbawa.ingest import all_batches
    from qbawa.launch.dagster import run_module
    from qbawa.project import open_project
    from qbawa.sample import write_sample
    from qbawa.status import read_status, surest_close_pair

    began = time.monotonic()
    console = Console(highlight=False)
    home = Home.find()
    if write_sample(home):
        console.print(f"Wrote a sample configuration to {home.config}")
    project = open_project(home)
    home.journal.mkdir(parents=True, exist_ok=True)
    recorded = project.lake.read("recordings", ["request_id"], where="request_id LIKE 'demo-%'").height
    if recorded or all_batches(project.journals):
        console.print("The sample requests are recorded already.")
    else:
        requests = record_demo(home.journal)
        console.print(f"Recorded {len(requests)} requests of the sample newsdesk into {home.journal}")
    console.print("Running the job `flywheel` on the Dagster instance that `make up` shows:")
    code = run_module(home, "qbawa_assets.run", ["flywheel"])
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
    console.print(f"Lake: {project.lake.uri}\nCatalog: {home.catalog}\nDatasets: {home.exports}")
    trace = f"  .venv/bin/qbawa trace {pair['pair_id']}\n" if pair is not None else ""
    console.print(
        "Next:\n"
        "  make up                                        the same in the Dagster UI, http://127.0.0.1:3000\n"
        f"{trace}"
        '  .venv/bin/qbawa sql "SELECT * FROM qbawa ORDER BY p_best DESC LIMIT 5"\n'
        f"  $EDITOR {home.config}     your own models, strategies and judges; then `.venv/bin/qbawa plan`"
    )
