"""`qbawa up`: everything that the UI needs."""

import sys

import click


@click.command("up")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address the UI listens on.")
@click.option("--port", default=3000, show_default=True, help="Port the UI listens on.")
def command(host: str, port: int) -> None:
    """Start PostgreSQL, the Dagster UI and its daemon; Ctrl-C stops all of it.

    \b
    Example:
      qbawa up --port 3001
    """
    from qbawa.cli.launch.dagster import serve
    from qbawa.cli.sample import write_sample
    from qbawa.project import Home, open_project

    home = Home.find()
    if write_sample(home):
        click.echo(f"There was no {home.config}, so the sample was put there.")
    open_project(home).publish()
    sys.exit(serve(home, host, port, click.echo))
