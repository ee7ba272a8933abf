"""Journal segments become rows of `recordings` and `feedback`; what cannot be read goes to `quarantine`.

for batch in pending_batches(lake, project.journals):
    report = ingest_batch(lake, batch)
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from qbawa.errors import InputError
from qbawa.ingest.batches import Batch, Segment, all_batches, load_batch, mark_barren, pending_batches
from qbawa.ingest.blocks import BlockWriter, blocks_of, is_complete
from qbawa.ingest.lines import REASONS, read_line
from qbawa.ingest.reading import numbered_lines
from qbawa.ingest.recorded_prices import RecordedPrices
from qbawa.storage.lake import Lake

__all__ = [
    "REASONS",
    "Batch",
    "IngestReport",
    "Segment",
    "all_batches",
    "blocks_of",
    "ingest_batch",
    "is_complete",
    "load_batch",
    "pending_batches",
]


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


def ingest_batch(
    lake: Lake,
    batch: Batch,
    progress: Callable[[int], None] | None = None,
    *,
    prices: RecordedPrices | None = None,
) -> IngestReport:
    """Write a batch's recordings, feedback and bad lines; doing it again changes nothing.

    Calls whose client named no cost get that of their tokens by `prices`. `progress` is told the bytes read so far. Raises
    InputError where a segment of the batch is gone.
    """
    began = time.perf_counter()
    writer = BlockWriter(lake, batch.name, "journal", prices=prices)
    lines = size = 0
    for segment in batch.segments:
        if not segment.path.is_file():
            raise InputError(
                f"Batch '{batch.name}' needs the segment {segment.path}, which is gone. Put it back from a back-up, or "
                f"remove {batch.journal / 'batches' / batch.name}.json to give its lines up."
            )
        for number, line in numbered_lines(segment.path):
            lines += 1
            writer.add(segment.path.name, number, line, read_line(line))
        size += segment.bytes
        if progress:
            progress(size)
    counts = writer.close()
    if not (counts.rows or counts.feedback or counts.quarantined):
        mark_barren(batch)
    seconds = time.perf_counter() - began
    return IngestReport(
        batch.name, lines, counts.rows, counts.feedback, counts.requests, counts.quarantined, dict(counts.by_reason),
        size, seconds, counts.changed,
    )  # fmt: skip
