"""`qbawa up`: everything that the UI needs."""

import sys

import click

OTLP_PORT = 4318
"""Where exporters send by default."""


@click.command("up")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address the UI listens on.")
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65535), help="Port the UI listens on.")
@click.option(
    "--otlp-port",
    default=None,
    type=click.IntRange(0, 65535),
    help="Port on which OpenTelemetry traces are received; 0 for none.  [default: 4318]",
)
@click.option(
    "--token",
    "wants_token",
    is_flag=True,
    help="Let in only who brings a token, which is generated and printed, another one for those who send traces. "
    "QBAWA_UI_TOKEN and QBAWA_OTLP_TOKEN set some of your own.",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    help="Another host name under which the UI is reached, such as a reverse proxy's; with a token only.",
)
def command(host: str, port: int, otlp_port: int | None, wants_token: bool, names: tuple[str, ...]) -> None:
    """Start PostgreSQL, the Dagster UI, its daemon and a receiver of OpenTelemetry traces; Ctrl-C stops all of it.

    What of these ends is started again. Beyond this machine (--host 0.0.0.0) the UI is shown only with a token.

    \b
    Examples:
      qbawa up --port 3001
      qbawa up --host 0.0.0.0 --token
    """
    from qbawa.cli.launch.dagster import OtlpPort, serve
    from qbawa.cli.launch.token import otlp_token_for, token_for
    from qbawa.cli.sample import write_sample
    from qbawa.project import Home, open_project

    home = Home.find()
    token = token_for(home, host, wants_token=wants_token, named=bool(names))
    otlp = None
    if otlp_port != 0:
        # Whoever asks for the UI's token by QBAWA_UI_TOKEN alone means the traces to be guarded as well.
        spans_token = otlp_token_for(home, host, wants_token=wants_token or token is not None, named=bool(names))
        otlp = OtlpPort(otlp_port or OTLP_PORT, spans_token, wanted=otlp_port is not None)
    if write_sample(home):
        click.echo(f"There was no {home.config}, so the sample was put there.")
    open_project(home).publish()
    sys.exit(serve(home, host, port, click.echo, token=token, names=names, otlp=otlp))
