"""`qbawa forget`: remove a request from everything."""

import click


@click.command("forget")
@click.argument("request_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; asks nothing.")
def command(request_id: str, yes: bool, as_json: bool) -> None:
    """Remove REQUEST_ID from journals, recordings, cells, calls, matches and pairs; rebuild what depended on it.

    Old versions of the tables are deleted too, so nothing of it can be read back. Exported datasets that still hold it are
    listed: delete those folders, and tell whoever has copies.

    \b
    Example:
      qbawa forget r_81f --yes
    """
    import dataclasses
    import json

    from qbawa.datasets.stage import build_qbawa
    from qbawa.erasure import forget
    from qbawa.project import open_project
    from qbawa.text import printable
    from qbawa.tournaments.stage import rate_judges, rate_strategies

    project = open_project()
    if not (yes or as_json):
        click.confirm(f"Remove the request '{printable(request_id)}' for good?", abort=True)

    def rebuild(steps: list[str]) -> None:
        rate_strategies(project)
        rate_judges(project)
        build_qbawa(project)

    report = forget(project.lake, project.home, request_id, journals=project.journals, rebuild=rebuild)
    project.publish()
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), ensure_ascii=False))
        return
    removed = ", ".join(f"{n} from {table}" for table, n in report.rows.items()) or "none"
    click.echo(f"Rows removed: {removed}. Journal lines cut: {report.journal_lines}.")
    if report.strategies:
        click.echo(printable(f"Strategies that carried its text were retired: {', '.join(report.strategies)}."))
    for path in report.datasets:
        click.echo(printable(f"Still holds it: {path}"))
    for path in report.files:
        click.echo(printable(f"Still mentions it: {path}"))
