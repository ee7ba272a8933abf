"""Stage 0: journal segments become rows of `recordings` and `feedback`; what cannot be read goes to `quarantine`."""

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qbawa.errors import InputError
from qbawa.ingest.batches import BATCH_BYTES, Batch, foreseen_batches, form_batches, load_batch, mark_empty
from qbawa.ingest.block_writer import TABLES as SOURCES
from qbawa.ingest.block_writer import BlockWriter, complete_among
from qbawa.ingest.journal_lines import read_line
from qbawa.ingest.line_reader import numbered_lines
from qbawa.ingest.recorded_prices import RecordedPrices
from qbawa.project import Project
from qbawa.storage.journal import OPEN
from qbawa.storage.lake import DraftLake, Lake


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What became of a batch's lines: lines = rows + feedback + requests + quarantined."""

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


def pending_batches(
    lake: Lake, folders: Sequence[Path], *, batch_bytes: int = BATCH_BYTES, dry_run: bool = False
) -> list[Batch]:
    """Batches that the lake does not hold yet, oldest first, as `form_batches` makes them; `dry_run` only foresees them."""
    make = foreseen_batches if dry_run else form_batches
    batches = [batch for batch in make(folders, batch_bytes=batch_bytes) if not batch.empty]
    done = complete_among(lake, [batch.name for batch in batches])
    return [batch for batch in batches if batch.name not in done]


def new_batches(project: Project) -> list[str]:
    """Names of the batches that the lake does not hold yet, oldest first."""
    return [batch.name for batch in pending_batches(project.lake, project.journals)]


def held_batches(project: Project) -> set[str]:
    """Names of everything that the lake holds whole: batches of segments and imported files."""
    return {block for table in SOURCES for block in project.lake.blocks(table) if not re.search(r"/\d+$", block)}


def ingest(project: Project, batches: Sequence[str]) -> IngestReport:
    """Take batches in, one after the other; the report is their sum."""
    prices = RecordedPrices(project.config.models)
    reports = [ingest_batch(project.lake, load_batch(name, project.journals), prices=prices) for name in batches]
    project.publish()
    reasons: Counter[str] = Counter()
    for report in reports:
        reasons.update(report.by_reason)
    sums = {
        n: sum(getattr(r, n) for r in reports)
        for n in ("lines", "rows", "feedback", "requests", "quarantined", "bytes")
    }
    seconds = sum(report.seconds for report in reports)
    return IngestReport(", ".join(batches), **sums, by_reason=dict(reasons), seconds=seconds)


def ingest_draft(draft: DraftLake, project: Project) -> None:
    """Take everything that is pending into a draft of the project's lake. The journals stay as they are."""
    prices = RecordedPrices(project.config.models)
    for batch in pending_batches(draft, project.journals, dry_run=True):
        _take(draft, batch, None, prices)


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
    if not (report.rows or report.feedback or report.quarantined):
        mark_empty(batch)
    return report


def _take(
    lake: Lake, batch: Batch, progress: Callable[[int], None] | None, prices: RecordedPrices | None
) -> IngestReport:
    began = time.perf_counter()
    writer = BlockWriter(lake, batch.name, "journal", prices=prices)
    lines = size = 0
    for segment in batch.segments:
        if not segment.path.is_file():
            raise InputError(
                f"Batch '{batch.name}' needs the segment {segment.path}, which is gone. Put it back from a back-up, or "
                f"remove {batch.journal / 'batches' / batch.name}.json to give its lines up."
            )
        for number, line in numbered_lines(segment.path, whole=segment.path.suffix == OPEN):
            lines += 1
            writer.add(segment.path.name, number, line, read_line(line))
        size += segment.bytes
        if progress:
            progress(size)
    counts = writer.close()
    seconds = time.perf_counter() - began
    return IngestReport(
        batch.name, lines, counts.rows, counts.feedback, counts.requests, counts.quarantined, dict(counts.by_reason),
        size, seconds, counts.changed,
    )  # fmt: skip
