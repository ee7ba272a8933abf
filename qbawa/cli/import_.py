"""`qbawa import`: bring recordings, answers or verdicts from elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbawa.project import Project

_READABLE = (".jsonl", ".json", ".eval", ".csv", ".tsv", ".parquet")


@click.command("import")
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=click.Path(path_type=Path))
@click.option("--format", "format_", metavar="NAME", help="Format of the file, instead of detecting it.")
@click.option("--step", help="Step of the answers or verdicts; of recordings, instead of the one they name.")
@click.option(
    "--as",
    "kind",
    type=click.Choice(["auto", "answers", "verdicts", "votes"]),
    default="auto",
    help="What a table holds: answers, verdicts of models, or votes of people. Default: by its columns.",
)
@click.option(
    "--map", "columns", multiple=True, metavar="OURS=THEIRS", help="A table's column that is called otherwise."
)
@click.option("--questions-only", is_flag=True, help="Take a log that holds questions without answers.")
@click.option("--dry-run", is_flag=True, help="Show what was understood; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file or batch.")
def command(
    paths: tuple[Path, ...],
    format_: str | None,
    step: str | None,
    kind: str,
    columns: tuple[str, ...],
    questions_only: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Bring recordings, answers or verdicts from PATHs; without PATH, ingest new journal segments.

    What was imported before changes nothing. Lines that cannot be read go to the view `quarantine`, with the reason.
    Formats: journal, chat, openai, batch, nvidia, litellm, otlp, phoenix, langfuse, langsmith, inspect, agent, llmonpy
    (JSON, one object a line or a list; also .gz; .eval), and tables of answers or verdicts (CSV, TSV, Parquet, JSON lines).
    docs/importing.md describes them all.

    \b
    Examples:
      qbawa import
      qbawa import langfuse-export.jsonl --dry-run
      qbawa import answers.csv --step summarise --map strategy=model
    """
    import json
    from dataclasses import asdict

    from qbawa.project import open_project
    from qbawa.storage.occupancy import in_use

    mapping = dict(_pair(text) for text in columns)
    project = open_project()
    click.get_current_context().with_resource(in_use(project.home.root))
    journals = [folder.resolve() for folder in project.journals]
    # A segment of our own journal is ingested, for the sensor would take it once more.
    own = [path for path in paths if {path.resolve(), path.resolve().parent} & set(journals)]
    reports = [_ingest(project, dry_run)] if own or not paths else []
    for path in _files([path for path in paths if path not in own]):
        reports.append(_import(project, path, format_, step, kind, mapping, questions_only, dry_run, quiet=as_json))
    number = 0
    for report in (report for group in reports for report in group):
        number += 1
        click.echo(
            json.dumps(asdict(report), ensure_ascii=False, default=str) if as_json else _describe(report, dry_run)
        )
    if (own or not paths) and not number and not as_json:
        click.echo(f"No new journal segments in {', '.join(str(folder) for folder in project.journals)}.")
    if not dry_run:
        project.publish()


def _ingest(project: "Project", dry_run: bool) -> Iterator[Any]:
    from qbawa.ingest.recorded_prices import RecordedPrices
    from qbawa.ingest.stage import ingest_batch, pending_batches

    prices = RecordedPrices(project.config.models)
    for batch in pending_batches(project.lake, project.journals, dry_run=dry_run):
        yield batch if dry_run else ingest_batch(project.lake, batch, prices=prices)


def _import(
    project: "Project",
    path: Path,
    format_: str | None,
    step: str | None,
    kind: str,
    columns: dict[str, str],
    questions_only: bool,
    dry_run: bool,
    quiet: bool,
) -> Iterator[Any]:
    from qbawa.errors import InputError
    from qbawa.importing import import_file, table_kind
    from qbawa.ingest.recorded_prices import RecordedPrices
    from qbawa.replay.import_answers import import_answers
    from qbawa.tournaments.import_verdicts import import_verdicts

    lake = project.lake
    if kind == "auto" and format_ is None:
        kind = table_kind(path, columns)
    if kind == "auto":
        with _progress(path, quiet) as progress:
            prices = RecordedPrices(project.config.models)
            yield import_file(
                lake, path, format_, step=step, dry_run=dry_run, progress=progress, prices=prices,
                questions_only=questions_only,
            )  # fmt: skip
            return
    if step is None:
        raise InputError(f"{path} is a table of {kind}: name the step that they belong to with --step.")
    if kind == "answers":
        yield import_answers(lake, path, step, columns=columns, dry_run=dry_run)
        return
    yield import_verdicts(
        lake, path, step, kind="human" if kind == "votes" else "imported", columns=columns, dry_run=dry_run
    )


def _files(paths: list[Path]) -> Iterator[Path]:
    """The files, and of folders those inside that look like logs or tables."""
    from qbawa.errors import InputError

    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(p for p in path.iterdir() if p.name.removesuffix(".gz").endswith(_READABLE))
        if not found:
            raise InputError(f"{path} holds no .jsonl, .json, .eval, .csv, .tsv or .parquet file.")
        yield from found


def _pair(text: str) -> tuple[str, str]:
    from qbawa.errors import InputError

    ours, equals, theirs = text.partition("=")
    if not (ours and equals and theirs):
        raise InputError(f"--map {text}: write OURS=THEIRS, as in --map strategy=model.")
    return ours.strip(), theirs.strip()


@contextmanager
def _progress(path: Path, quiet: bool) -> "Iterator[Callable[[int], None] | None]":
    """A bar on the terminal's error stream; none where nobody looks at one, or the file is small."""
    import sys

    if quiet or not sys.stderr.isatty() or not path.is_file() or path.stat().st_size < 5_000_000:
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("importing", total=path.stat().st_size)
        yield lambda done: bar.update(task, completed=done)


def _describe(report: Any, dry_run: bool) -> str:
    """A report for people: one line, what is odd on further lines, and in a dry run the first rows."""
    from qbawa.text import printable, shorten

    fields = {name: getattr(report, name) for name in report.__dataclass_fields__}
    name = fields.get("file") or fields.get("batch") or fields.get("name") or "table"
    numbers = {
        label: fields[key]
        for key, label in (
            ("rows", "rows"),
            ("feedback", "feedback"),
            ("known", "known before"),
            ("quarantined", "quarantined"),
        )
        if fields.get(key)
    }
    numbers |= {table: number for table, number in (fields.get("written") or {}).items() if number}
    if "segments" in fields:
        numbers = {"segments": len(fields["segments"])}
    lines = [f"{printable(str(name))}" + (f" ({fields['format']})" if fields.get("format") else "")]
    lines[0] += ": " + (", ".join(f"{number:,} {label}" for label, number in numbers.items()) or "nothing")
    if dry_run:
        lines[0] += " (dry run: nothing was written)"
    elif fields.get("changed") is False:
        lines[0] += " (the lake held all of it already)"
    for label, key in (("steps", "steps"), ("quarantined", "by_reason"), ("skipped", "skipped")):
        if fields.get(key):
            lines.append(
                f"  {label}: "
                + ", ".join(f"{shorten(str(what), 60)} {number:,}" for what, number in fields[key].items())
            )
    for example in (fields.get("examples") or [])[:3]:
        lines += ["  " + "-" * 40]
        lines += [f"  {key}: {shorten(str(value), 140)}" for key, value in example.items() if value not in (None, "{}")]
    return "\n".join(lines)
