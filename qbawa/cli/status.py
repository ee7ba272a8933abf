"""`qbawa status`: what is there, what is missing, who leads."""

import click


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(as_json: bool) -> None:
    """Show rows, cells and the leaderboard.

    \b
    Example:
      qbawa status
    """
    import json

    from qbawa.cli.status_report import read_status
    from qbawa.project import open_project

    status = read_status(open_project())
    if as_json:
        click.echo(json.dumps(status.as_json(), default=str))
        return

    from rich.console import Console
    from rich.text import Text

    from qbawa.cli.tables import cells_table, leaderboard_tables, rows_table
    from qbawa.text import printable

    console = Console()
    console.print(Text.assemble((status.home, "bold"), f"   paid so far: ${status.cost_usd:.4f}"), highlight=False)
    console.print(rows_table(status.rows))
    if status.cells.height:
        console.print(cells_table(status.cells))
    for table in leaderboard_tables(status.leaderboard):
        console.print(table)
    for budget in status.verdict_budgets:
        for line in budget.lines():
            console.print(Text(printable(line)))
