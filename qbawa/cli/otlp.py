"""`qbawa otlp`: receive OpenTelemetry spans without the UI."""

import click


@click.command("otlp")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=4318, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option(
    "--token",
    "wants_token",
    is_flag=True,
    help="Take spans only from who brings a token, which is generated and printed. QBAWA_OTLP_TOKEN sets one of your own.",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    help="Another host name under which applications reach this, such as host.docker.internal; with a token only.",
)
def command(host: str, port: int, wants_token: bool, names: tuple[str, ...]) -> None:
    """Receive OpenTelemetry traces (OTLP over HTTP) into the journal; Ctrl-C stops it. `qbawa up` does so too.

    Point an application there, in whatever language, by OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 and
    OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf (or http/json).

    \b
    Example:
      qbawa otlp --port 4318
    """
    from qbawa.cli.launch.access import Rules, known_names
    from qbawa.cli.launch.otlp_server import run
    from qbawa.cli.launch.sockets import listening, reachable
    from qbawa.cli.launch.token import otlp_token_for
    from qbawa.project import Home

    home = Home.find()
    token = otlp_token_for(home, host, wants_token=wants_token, named=bool(names))
    home.make_private()
    with listening(host, port, "--port") as listener:
        click.echo(f"Receiving OpenTelemetry traces: OTEL_EXPORTER_OTLP_ENDPOINT=http://{reachable(host)}:{port}")
        if token:
            click.echo(f'  with OTEL_EXPORTER_OTLP_HEADERS="Authorization=Bearer%20{token}"')
        click.echo(f"into {home.journal}   (Ctrl-C stops it)")
        run(listener, Rules(known_names(host, names), token, port), home.journal)
