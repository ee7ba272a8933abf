"""`qbawa trace`: where something comes from and where it went."""

import click


@click.command("trace")
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with the rows of every table.")
def command(id: str, as_json: bool) -> None:
    """Show the history of ID: a pair, match, verdict, cell, call, request or dataset version.

    Back through matches, verdicts with their rationale, cells, calls and strategies to the recording, and forward to
    the datasets that hold it. docs/lineage.md has the same in SQL.

    \b
    Example:
      qbawa trace "$(qbawa sql --csv 'SELECT pair_id FROM qbawa LIMIT 1' | tail -1)"
    """
    import json

    import polars as pl

    from qbawa.project import open_project
    from qbawa.storage.lineage import trace

    project = open_project()
    lineage = trace(project.lake, id)
    home = project.home
    datasets = lineage.tables["datasets"]
    lineage.tables["datasets"] = datasets.with_columns(
        pl.Series("path", [str(home.whole_path(path)) for path in datasets["path"]], pl.String)
    )
    if as_json:
        click.echo(json.dumps(lineage.as_json(), default=str, ensure_ascii=False))
        return
    if lineage.kind == "request":
        from qbawa.storage.step_tree import request_tree

        click.echo(request_tree(project.lake, id))
    click.echo(lineage.text)
