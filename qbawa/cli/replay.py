"""`qbawa replay --check`: what changed between the app and the replay, before money is spent on strategies."""

import click


@click.command("replay")
@click.option("--check", is_flag=True, help="Ask recorded requests again, unchanged, and compare the answers.")
@click.option("--step", "steps", multiple=True, help="Only this step; may be given several times.")
@click.option("--requests", default=5, show_default=True, type=click.IntRange(1), help="Requests a step.")
@click.option("--samples", default=2, show_default=True, type=click.IntRange(1), help="Answers a request.")
@click.option("--model", help="The model to ask; default: the recorded one, as `models` knows it.")
@click.option("--usd", type=click.FloatRange(0), default=0.5, show_default=True, help="Dollars at most.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    check: bool, steps: tuple[str, ...], requests: int, samples: int, model: str | None, usd: float, as_json: bool
) -> None:
    """Replay recorded requests unchanged and say how near the answers come to the recorded ones and to each other.

    Where the new answers agree with each other and not with the recording, something has changed since: the model behind
    a name, a parameter, a prompt. Exit code 1 then, and where nothing could be asked. Whole sweeps: `qbawa run
    replay_sweep`.

    \b
    Example:
      qbawa replay --check --step draft --requests 10
    """
    import json
    import sys
    from dataclasses import asdict

    from qbawa.errors import BudgetError, InputError, UserError
    from qbawa.project import open_project
    from qbawa.replay.stage import check_baseline
    from qbawa.text import printable

    if not check:
        raise InputError(
            "`qbawa replay` checks the baseline: say --check. A sweep is started by `qbawa run replay_sweep`."
        )
    project = open_project()
    try:
        found = check_baseline(
            project,
            steps=steps,
            requests=requests,
            samples=samples,
            model=model,
            usd=usd,
            log=lambda line: click.echo(printable(line), err=True),
        )
    except BudgetError as error:
        raise UserError(f"{error} What was asked is kept; raise --usd to go on.") from None
    if as_json:
        click.echo(json.dumps([asdict(each) | {"changed": each.changed} for each in found]))
    elif not found:
        click.echo("There is nothing to ask again: no step of the replay set is a model call that was answered.")
    for each in found if not as_json else ():
        click.echo(printable(each.line()))
    if not found or any(each.changed or each.like_recorded is None for each in found):
        sys.exit(1)
