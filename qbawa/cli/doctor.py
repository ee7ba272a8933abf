"""`qbawa doctor`: is everything there?"""

import sys

import click


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a check.")
def command(as_json: bool) -> None:
    """Check Python, packages, disk, limits, configuration, keys, lake and port. Exit code 1 where something is amiss.

    \b
    Example:
      qbawa doctor
    """
    import json
    from dataclasses import asdict

    from qbawa.cli.checks import examine
    from qbawa.project import Home
    from qbawa.text import printable

    amiss = False
    for finding in examine(Home.find()):
        amiss |= bool(finding.cure)
        if as_json:
            click.echo(json.dumps(asdict(finding)))
        else:
            click.echo(f"{'✗' if finding.cure else '✓'} {finding.what}: {printable(finding.found)}")
            if finding.cure:
                click.echo(f"    {finding.cure}")
    sys.exit(1 if amiss else 0)
