"""Stage 0: journal segments become rows of `recordings` and `feedback`; what cannot be read goes to `quarantine`."""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from qbawa.errors import InputError
from qbawa.ingest.batches import MANIFESTS, PACKED, Batch, load_batch, mark_ingested, pending_batches
from qbawa.ingest.block_writer import TABLES as SOURCES
from qbawa.ingest.block_writer import BlockWriter
from qbawa.ingest.journal_lines import read_line
from qbawa.ingest.journal_retention import Retired, retire_segments
from qbawa.ingest.line_reader import numbered_lines
from qbawa.project import Project
from qbawa.storage.frames import BLOCK
from qbawa.storage.lake import Lake


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


def new_batches(project: Project, *, thorough: bool = True) -> list[str]:
    """Names of the batches that the lake does not hold yet, oldest first.

    `thorough` compares all that were ever formed with the lake; otherwise the cost does not grow with them.
    """
    return [batch.name for batch in pending_batches(project.lake, project.journals, thorough=thorough)]


def held_batches(project: Project) -> set[str]:
    """Names of everything that the lake holds whole: batches of segments and imported files."""
    blocks = (project.lake.read(table, [BLOCK])[BLOCK].unique() for table in SOURCES)
    return set().union(*(names.filter(~names.str.contains(r"/\d+$")) for names in blocks))


def held_version(project: Project) -> str:
    """What `held_batches` is a function of; where it has not changed, neither have they."""
    return json.dumps({table: project.lake.state(table) for table in SOURCES})


def retire_journals(project: Project) -> Retired:
    """Take segments that the lake has held for long enough out of the journals, as `retention` in qbawa.yaml says."""
    retention = project.config.retention
    age_s = retention.journals_days * 86_400
    return retire_segments(project.lake, project.journals, retention.journals, older_than_s=age_s)


def ingest(project: Project, batches: Sequence[str]) -> IngestReport:
    """Take batches in, one after the other; the report is their sum."""
    reports = [ingest_batch(project.lake, load_batch(name, project.journals)) for name in batches]
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


def ingest_batch(lake: Lake, batch: Batch, progress: Callable[[int], None] | None = None) -> IngestReport:
    """Write a batch's recordings, feedback and bad lines; doing it again changes nothing.

    `progress` is told the bytes read so far. Raises InputError where a segment of the batch is gone.
    """
    began = time.perf_counter()
    writer = BlockWriter(lake, batch.name, "journal")
    lines = size = 0
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
        for number, line in numbered_lines(segment.path):
            lines += 1
            writer.add(segment.path.name.removesuffix(PACKED), number, line, read_line(line))
        size += segment.bytes
        if progress:
            progress(size)
    counts = writer.close()
    mark_ingested(batch, empty=not (counts.rows or counts.feedback or counts.quarantined))
    seconds = time.perf_counter() - began
    return IngestReport(
        batch.name, lines, counts.rows, counts.feedback, counts.requests, counts.quarantined, dict(counts.by_reason),
        size, seconds, counts.changed,
    )  # fmt: skip
