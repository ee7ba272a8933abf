"""Stage 0: journal segments become rows of `recordings` and `feedback`; what cannot be read goes to `quarantine`."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import polars as pl

from qbawa.errors import InputError
from qbawa.ingest.batches import (
    BATCH_BYTES,
    MANIFESTS,
    PACKED,
    Batch,
    foreseen_batches,
    form_batches,
    index_of,
    load_batch,
    reopen,
    settle,
)
from qbawa.ingest.block_writer import TABLES as SOURCES
from qbawa.ingest.block_writer import BlockWriter, complete_among
from qbawa.ingest.journal_lines import Span, read_line
from qbawa.ingest.journal_retention import Retired, retire_segments
from qbawa.ingest.line_reader import numbered_lines
from qbawa.ingest.model_calls import understood
from qbawa.ingest.recorded_prices import RecordedPrices
from qbawa.ingest.span_store import SpanSpool, SpanStore
from qbawa.ingest.traces import take_spans
from qbawa.project import Project
from qbawa.storage.journal import OPEN
from qbawa.storage.lake import DraftLake, Lake


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What became of a batch's lines: lines = rows + feedback + requests + quarantined + left_out.

    A line whose call could not be read counts twice: its row is kept, and it stands in quarantine. Spans of earlier
    batches of which this one has shown that they belong to a step of AI are among the rows as well.
    """

    batch: str
    lines: int
    rows: int
    feedback: int
    requests: int
    quarantined: int
    by_reason: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    seconds: float = 0.0
    changed: bool = True
    left_out: int = 0
    """Spans that belong to no step of AI, or had come before."""


def pending_batches(
    lake: Lake,
    folders: Sequence[Path],
    *,
    batch_bytes: int = BATCH_BYTES,
    dry_run: bool = False,
    thorough: bool = True,
) -> list[Batch]:
    """Batches that the lake does not hold yet, oldest first, as `form_batches` makes them; `dry_run` only foresees them.

    `thorough` compares everything with the lake, in case rows went. Otherwise only what is open is: what was found there
    once counts as held for as long as the lake is the same one and has not gone back to an earlier version.
    """
    index = index_of(folders)
    if dry_run:
        settled = index.names(empty=False)
        lost = [load_batch(name, folders) for name in sorted(set(settled) - complete_among(lake, settled))]
        batches = [*lost, *foreseen_batches(folders, batch_bytes=batch_bytes)]
        done = complete_among(lake, [batch.name for batch in batches])
        return [batch for batch in batches if batch.name not in done and not batch.empty]
    tables = {table: lake.state(table) for table in SOURCES}
    if thorough or _is_another(index.lake(), tables):
        settled = index.names(empty=False)  # before the lake is read, or one that is settled just now looks lost
        reopen(sorted(set(settled) - complete_among(lake, settled)), folders)
    batches = form_batches(folders, batch_bytes=batch_bytes, thorough=thorough)
    done = complete_among(lake, [batch.name for batch in batches])
    settle([batch for batch in batches if batch.empty or batch.name in done])
    index.note_lake(tables)
    return [batch for batch in batches if batch.name not in done and not batch.empty]


def _is_another(known: Mapping[str, tuple[str, int]], tables: Mapping[str, tuple[str, int]]) -> bool:
    """Whether the lake was made anew or put back from a back-up since it was last looked at."""
    return any(
        name not in known or known[name][0] != id or version < known[name][1] for name, (id, version) in tables.items()
    )


def new_batches(project: Project, *, thorough: bool = True) -> list[str]:
    """Names of the batches that the lake does not hold yet, oldest first.

    `thorough` compares all that were ever formed with the lake; otherwise the cost does not grow with them.
    """
    return [batch.name for batch in pending_batches(project.lake, project.journals, thorough=thorough)]


def held_batches(project: Project, since: str | None = None) -> set[str]:
    """Names of everything that the lake holds whole: batches of segments and imported files.

    `since` is a `held_version` of before: then those alone that the lake did not hold at that time, as far as its log
    goes back, and perhaps some others.
    """
    names = _came_since(project.lake, since) if since else None
    if names is not None:
        return complete_among(project.lake, sorted(names))
    blocks = (pl.Series(list(project.lake.blocks(table)), dtype=pl.String) for table in SOURCES)
    return set().union(*(names.filter(~names.str.contains(_PART)) for names in blocks))


# Blocks of a source that is not whole yet are numbered.
_PART = r"/\d+$"


def _came_since(lake: Lake, version: str) -> set[str] | None:
    """Names of the whole sources that may have come after a `held_version`; None where all may have."""
    try:
        states = json.loads(version)
        before = {table: (str(states[table][0]), int(states[table][1])) for table in SOURCES}
    except (ValueError, LookupError, TypeError):
        return None
    found: set[str] = set()
    for table, state in before.items():
        names = lake.blocks_since(table, state)
        if names is None:
            return None
        found |= {name for name in names if not re.search(_PART, name)}
    return found


def held_version(project: Project) -> str:
    """What `held_batches` is a function of; where it has not changed, neither have they."""
    return json.dumps({table: project.lake.state(table) for table in SOURCES})


def retire_journals(project: Project) -> Retired:
    """Take segments that the lake has held for long enough out of the journals, as `retention` in qbawa.yaml says."""
    retention = project.config.retention
    age_s = retention.journals_days * 86_400
    return retire_segments(
        project.journals, retention.journals, older_than_s=age_s, held=lambda names: complete_among(project.lake, names)
    )


def ingest(
    project: Project,
    batches: Sequence[str],
    progress: Callable[[int, int], object] = lambda done, total: None,
    *,
    publish: bool = True,
) -> IngestReport:
    """Take batches in, one after the other; the report is their sum. `progress` is given bytes read, and bytes in all.

    Who calls it for many batches one by one publishes the catalog once, at the end.
    """
    prices = RecordedPrices(project.config.models)
    loaded = [load_batch(name, project.journals) for name in batches]
    total, before, reports = sum(_bytes(batch) for batch in loaded), 0, []
    for batch in loaded:
        reports.append(ingest_batch(project.lake, batch, partial(_shifted, progress, before, total), prices=prices))
        before += _bytes(batch)
    if publish:
        project.publish()
    reasons: Counter[str] = Counter()
    for report in reports:
        reasons.update(report.by_reason)
    sums = {
        n: sum(getattr(r, n) for r in reports)
        for n in ("lines", "rows", "feedback", "requests", "quarantined", "bytes", "left_out")
    }
    seconds = sum(report.seconds for report in reports)
    return IngestReport(", ".join(batches), **sums, by_reason=dict(reasons), seconds=seconds)


def _bytes(batch: Batch) -> int:
    return sum(segment.bytes for segment in batch.segments)


def _shifted(progress: Callable[[int, int], object], before: int, total: int, done: int) -> None:
    progress(before + done, total)


def ingest_draft(draft: DraftLake, project: Project) -> None:
    """Take everything that is pending into a draft of the project's lake. The journals stay as they are."""
    prices = RecordedPrices(project.config.models)
    for batch in pending_batches(draft, project.journals, dry_run=True):
        _take(draft, batch, None, prices, remember=False)


def ingest_batch(
    lake: Lake,
    batch: Batch,
    progress: Callable[[int], None] | None = None,
    *,
    prices: RecordedPrices | None = None,
) -> IngestReport:
    """Write a batch's recordings, feedback and bad lines; doing it again changes nothing.

    Calls whose client named no cost get that of their tokens by `prices`. `progress` is given the bytes read so far. Raises
    InputError where a segment of the batch is gone.
    """
    report = _take(lake, batch, progress, prices)
    settle([replace(batch, empty=not (report.rows or report.feedback or report.quarantined))])
    return report


def _take(
    lake: Lake,
    batch: Batch,
    progress: Callable[[int], None] | None,
    prices: RecordedPrices | None,
    *,
    remember: bool = True,
) -> IngestReport:
    began = time.perf_counter()
    writer = BlockWriter(lake, batch.name, "journal", prices=prices)
    lines = size = left_out = 0
    spool: SpanSpool | None = None
    for segment in batch.segments:
        if not segment.path.is_file():
            manifest = batch.journal / MANIFESTS / f"{batch.name}.json"
            raise InputError(
                f"Batch '{batch.name}' needs the segment {segment.path}, which is gone. "
                + (
                    f"Put it back from a back-up, or remove {manifest} to give its lines up."
                    if manifest.exists()
                    else "Its rows stay in the lake as they are; to read it once more, put it back from a back-up."
                )
            )
        for number, line in numbered_lines(segment.path, whole=segment.path.suffix == OPEN):
            lines += 1
            item, file = read_line(line), segment.path.name.removesuffix(PACKED)
            if isinstance(item, Span):
                spool = spool or SpanSpool()
                spool.add(item.request_id, file, number, line)
                continue
            for row in understood(item):
                writer.add(file, number, line, row)
        size += segment.bytes
        if progress:
            progress(size)
    if spool is None:
        counts = writer.close()
    else:
        spans = SpanStore(batch.journal / MANIFESTS)
        with closing(spool), spans.alone():
            left_out = take_spans(spool, lake, writer, batch.name, spans, remember=remember)
            counts = writer.close()
    seconds = time.perf_counter() - began
    return IngestReport(
        batch.name, lines, counts.rows, counts.feedback, counts.requests, counts.quarantined, dict(counts.by_reason),
        size, seconds, counts.changed, left_out,
    )  # fmt: skip
