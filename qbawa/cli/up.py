"""`qbawa up`: everything that the UI needs."""

import sys

import click


@click.command("up")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address the UI listens on.")
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65535), help="Port the UI listens on.")
@click.option(
    "--token",
    "wants_token",
    is_flag=True,
    help="Let in only who brings a token, which is generated and printed. QBAWA_UI_TOKEN sets one of your own.",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    help="Another host name under which the UI is reached, such as a reverse proxy's; with a token only.",
)
def command(host: str, port: int, wants_token: bool, names: tuple[str, ...]) -> None:
    """Start PostgreSQL, the Dagster UI and its daemon; Ctrl-C stops all of it.

    What of these ends is started again. Beyond this machine (--host 0.0.0.0) the UI is shown only with a token.

    \b
    Examples:
      qbawa up --port 3001
      qbawa up --host 0.0.0.0 --token
    """
    from qbawa.cli.launch.dagster import serve
    from qbawa.cli.launch.token import token_for
    from qbawa.cli.sample import write_sample
    from qbawa.project import Home, open_project

    home = Home.find()
    token = token_for(home, host, wants_token=wants_token, named=bool(names))
    if write_sample(home):
        click.echo(f"There was no {home.config}, so the sample was put there.")
    open_project(home).publish()
    sys.exit(serve(home, host, port, click.echo, token=token, names=names))
