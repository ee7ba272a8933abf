"""`qbawa forget`: remove a request from everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from qbawa.erasure import ForgetReport
    from qbawa.project import Home, Project


@click.command("forget")
@click.argument("request_id", required=False)
@click.option("--resume", is_flag=True, help="Finish what was interrupted.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; asks nothing.")
def command(request_id: str | None, resume: bool, yes: bool, as_json: bool) -> None:
    """Remove REQUEST_ID from journals, tables, exports, people's verdicts, logs and Dagster; rebuild what depended on it.

    Old versions of the tables are deleted too, so nothing of it can be read back. Works beside `qbawa up`; refuses while a
    run, an import, an export or somebody who judges is writing. What was interrupted is finished by the same command, and
    nothing else writes before that. What it cannot reach (qbawa.yaml, copies, a lake elsewhere) is listed.

    \b
    Example:
      qbawa forget r_81f --yes
    """
    import dataclasses
    import json

    from qbawa.datasets.stage import build_qbawa
    from qbawa.erasure import forget, unfinished
    from qbawa.errors import InputError
    from qbawa.project import open_project
    from qbawa.text import printable
    from qbawa.tournaments.stage import rate_judges, rate_strategies

    project = open_project()
    if resume:
        plan = unfinished(project.home)
        if plan is None:
            raise InputError(f"No `qbawa forget` was interrupted in {project.home.root}.")
        request_id = plan.request_id
    elif not request_id:
        raise InputError("Name the request to forget: `qbawa forget REQUEST_ID`.")
    if not (yes or as_json or resume):
        click.confirm(f"Remove the request '{printable(request_id)}' for good?", abort=True)

    def rebuild(steps: list[str]) -> None:
        rate_strategies(project)
        rate_judges(project)
        build_qbawa(project)

    if not as_json:
        click.echo(f"Forgetting '{printable(request_id)}' (up to a minute) ...")
    report = forget(
        project.lake,
        project.home,
        request_id,
        journals=project.journals,
        rebuild=rebuild,
        elsewhere=lambda plan, resumed: _forget_in_dagster(project.home, plan, resumed),
        also_search=list(_declared_files(project)),
    )
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), ensure_ascii=False))
    else:
        for line in _sentences(report):
            click.echo(printable(line))


def _forget_in_dagster(home: Home, plan: Path, resumed: bool) -> Mapping[str, int]:
    """Rows that were changed in Dagster's PostgreSQL, which runs meanwhile; nothing where Dagster never ran here."""
    import json
    import os
    import tempfile

    from qbawa.cli.launch.dagster import run_module
    from qbawa.cli.launch.postgres import OWN_SERVER
    from qbawa.errors import BusyError

    if not home.postgres.exists() and not any(os.environ.get(name) for name in OWN_SERVER):
        return {}
    with tempfile.NamedTemporaryFile("r", suffix=".json") as result:
        arguments = [str(plan), result.name, *(["--resumed"] if resumed else [])]
        code = run_module(home, "qbawa_assets.forget_request", arguments)
        if code == 130:
            raise KeyboardInterrupt
        if code:
            raise BusyError(
                "Dagster's storage could not be cleaned (see above); all else waits for that. `qbawa forget --resume` goes on."
            )
        found: dict[str, int] = json.load(result)
        return found


def _declared_files(project: Project) -> Iterator[Path]:
    """Files that qbawa.yaml names: strategies and prompts."""
    root = project.home.root
    for pattern in project.config.strategy_files:
        yield from root.glob(pattern) if not pattern.startswith("/") else ()
    yield from (root / entry.file for entry in project.config.strategies if entry.file)


def _sentences(report: ForgetReport) -> Iterator[str]:
    gone = ", ".join(f"{n} {table}" for table, n in report.rows.items())
    counts = {
        "lines of journals": report.journal_lines,
        "rows of people's verdicts": report.verdict_rows,
        "lines of logs": report.log_lines,
        "rows of Dagster's storage": sum(report.dagster.values()),
    }
    others = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
    yield f"Removed: {'; '.join(filter(None, [gone, others])) or 'nothing more'}."
    if report.reassigned_calls:
        yield f"{report.reassigned_calls} calls that another request shares word for word stay, under its name."
    if report.not_rebuilt:
        yield f"Ratings and pairs could not be built again: {report.not_rebuilt}"
    if report.strategies:
        yield f"Strategies that carried its text were retired: {', '.join(report.strategies)}. Replace champions among them."
    for path in report.datasets:
        if path not in report.copies:
            yield f"Deleted the exported version {path}, which held it: tell whoever has a copy. `qbawa export` makes a new one."
    for path in report.copies:
        yield f"Still holds it, outside this home's exports: {path}"
    for source in report.imported_from:
        yield f"Imported from {source}: importing that again would bring it back."
    for path in report.files:
        yield f"Still mentions it: {path}"
    if report.lake_elsewhere:
        yield f"The lake lies in {report.lake_elsewhere}: versions and copies that its store keeps by itself are not reached."
