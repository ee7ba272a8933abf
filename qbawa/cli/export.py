"""`qbawa export`: datasets out of pairs."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from qbawa.project import Project


@click.command("export")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--diff", "with_diff", is_flag=True, help="How the newest version differs from the one before, instead.")
def command(name: str | None, as_json: bool, with_diff: bool) -> None:
    """Write the dataset NAME of qbawa.yaml, or all of them, under exports/<dataset>/<version>/.

    The same pairs and settings give the same version. A dataset that would be empty, or in which one question would stand in
    two splits, is refused (exit code 1).

    \b
    Example:
      qbawa export support-dpo
      qbawa export support-dpo --diff
    """
    import json
    import sys

    from qbawa.datasets.stage import export_datasets
    from qbawa.errors import InputError
    from qbawa.project import open_project
    from qbawa.storage.occupancy import in_use
    from qbawa.text import printable

    project = open_project()
    click.get_current_context().with_resource(in_use(project.home.root))
    if not project.config.datasets:
        raise InputError("qbawa.yaml declares no dataset. Add one under `datasets:`; docs/datasets.md has examples.")
    if with_diff:
        _show_diff(project, name, sorted(project.config.datasets), as_json)
        return
    done = export_datasets(project, [name] if name else None)
    rows = done.rows.select("dataset", "version", "format", "rows", "path").to_dicts()
    for row in rows:
        row["path"] = str(project.home.whole_path(row["path"]))
    if as_json:
        click.echo(json.dumps({"datasets": rows, "refused": done.refused, "pruned": done.pruned}, ensure_ascii=False))
    for row in rows if not as_json else ():
        click.echo(
            printable(f"{row['dataset']} {row['version']}: {row['rows']:,} rows of {row['format']} in {row['path']}")
        )
    for path in done.pruned if not as_json else ():
        click.echo(printable(f"Deleted, as `keep` says: {project.home.whole_path(path)}"))
    for refused, reason in done.refused.items():
        click.echo(printable(f"{refused} was not written. {reason}"), err=True)
    if done.refused:
        sys.exit(1)


def _show_diff(project: "Project", name: str | None, names: list[str], as_json: bool) -> None:
    import dataclasses
    import json

    import polars as pl

    from qbawa.datasets.exports.manifest import diff
    from qbawa.text import printable

    for dataset in [name] if name else names:
        there = (pl.col("dataset") == dataset) & pl.col("pruned_at").is_null()
        versions = project.lake.read("datasets", ["version", "path", "created_at"], keep=there).sort("created_at")
        if versions.height < 2:
            click.echo(printable(f"{dataset}: {versions.height} version(s), nothing to compare."))
            continue
        old, new = map(project.home.whole_path, versions["path"].to_list()[-2:])
        change = diff(old, new)
        click.echo(json.dumps(dataclasses.asdict(change)) if as_json else printable(f"{dataset} {change.summary}"))
