"""`qbawa judge`: a person judges matches, in the terminal."""

import click

CHOICES = {"1": "1", "2": "2", "t": "tie", "s": "skip", "q": "quit"}


@click.command("judge")
@click.argument("step")
@click.option("--as", "judge", help="Your name as a judge; default: your user name.")
@click.option("--count", default=20, show_default=True, help="Matches at most.")
def command(step: str, judge: str | None, count: int) -> None:
    """Judge matches of STEP: two answers without names, which is better?

    While the jury is not proven on the step, every second match is one on which it is split; afterwards a few for audit.
    Verdicts go into human_verdicts/ of the home; the sensor new_human_verdicts, or `qbawa run judge_anew`, takes them in.
    With 50 or more on a step the jury is weighed by them.

    \b
    Example:
      qbawa judge summarise --as anna
    """
    import json

    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    from qbawa.project import open_project
    from qbawa.storage.occupancy import in_use
    from qbawa.text import printable
    from qbawa.tournaments.stage import open_tasks, verdict_file

    project = open_project()
    click.get_current_context().with_resource(in_use(project.home.root))
    file = verdict_file(project, step, judge)
    taken = file.taken()
    console = Console(highlight=False)
    done = 0
    for match in open_tasks(project, step, file.judge):
        if done >= count:
            break
        if (match.question.request_id, match.strategy_a, match.strategy_b) in taken:
            continue
        asked = match.question.messages or [
            {"role": "inputs", "content": json.dumps(match.question.inputs, ensure_ascii=False)}
        ]
        for message in asked:
            console.print(
                Panel(Text(printable(str(message.get("content")))), title=Text(printable(str(message.get("role")))))
            )
        console.print(Panel(Text(printable(match.answer_1)), title="1"))
        console.print(Panel(Text(printable(match.answer_2)), title="2"))
        answer = CHOICES[
            click.prompt("Better: 1, 2, t(ie), s(kip), q(uit)", type=click.Choice(list(CHOICES)), show_choices=False)
        ]
        if answer == "quit":
            break
        if answer != "skip":
            file.append(match, answer)
            done += 1
    click.echo(f"{done} verdicts noted in {file.path}. `qbawa run judge_anew` takes them in, or the sensor does.")
