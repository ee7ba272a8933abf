"""Spans of a batch as rows of `recordings`: whole traces, also where their spans came in several batches.

A span's row stays in the block that has it. What a later batch knows better (the task around a model call, a fuller
report of a span) is changed there, so that no order of arrival makes two rows, or other ones.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import polars as pl

from qbawa.ids import recorded_id
from qbawa.ingest.block_writer import BlockStore, BlockWriter, blocks_of
from qbawa.ingest.formats import otlp
from qbawa.ingest.formats.otlp_spans import Span, from_line, raw_spans, to_line
from qbawa.ingest.formats.otlp_trace import Kept, rank, steps_of
from qbawa.ingest.formats.step_rows import BadRecordError, Origin
from qbawa.ingest.journal_lines import BadLine, Step
from qbawa.ingest.span_store import Received, SpanSpool, SpanStore
from qbawa.storage.frames import BLOCK

_ORIGIN = Origin("", None, datetime.fromtimestamp(0, UTC))


@dataclass
class _Changes:
    """Rows that other batches brought and that are different now, by block and recording."""

    rows: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)


def put_spans(export: dict[str, Any], file: str, line: int, spool: SpanSpool) -> Iterator[BadLine]:
    """Put the spans of an OTLP JSON export to those of the whole file; why one is none."""
    for raw, service, scope in raw_spans(export):
        try:
            span = to_line(raw, service, scope)
            spool.add(span["request_id"], file, line, msgspec.json.encode(span))
        except BadRecordError as error:
            yield BadLine(error.reason, str(error))
        except (RecursionError, ValueError, TypeError) as error:
            yield BadLine("wrong_type", f"{type(error).__name__}: {error}")


def take_file(spool: SpanSpool) -> Iterator[tuple[str, int, bytes, Step | BadLine]]:
    """File, line number, line and step of the spans of a file that is imported, or why one makes none."""
    for chunk in spool.chunks():
        for lines in chunk.values():
            own = [Received(from_line(raw), file, line, raw) for file, line, raw in lines]
            received = {id(one.span): one for one in own}
            for kept in steps_of([one.span for one in own], spool.origin or _ORIGIN):
                one = received[id(kept.span)]
                yield one.file, one.line, one.raw, _item(kept)


def take_spans(
    spool: SpanSpool, store: BlockStore, writer: BlockWriter, batch: str, spans: SpanStore, *, remember: bool = True
) -> int:
    """Hand the rows of a batch's spans to its writer, and change those of earlier batches that are known better now.

    Returns how many of the spans made no row: they belong to no step of AI, or came before. The caller holds
    `spans.alone()` until the writer is closed. `remember`: let later batches know of these spans.
    """
    left_out = 0
    changes = _Changes()
    for chunk in spool.chunks():
        own = {trace: list(_readable(received, writer)) for trace, received in chunk.items()}
        others = spans.others(own, batch)
        if remember:
            spans.note(batch, [one for received in own.values() for one in _best(received)], others)
        there = _rows_elsewhere(
            store, {one.batch for received in others.values() for one in received if one.batch}, own
        )
        for trace, received in own.items():
            made = _take_trace(received, others.get(trace, []), there, writer, changes)
            left_out += len(received) - made
    _write(changes, store)
    return left_out


def _take_trace(
    own: Sequence[Received],
    others: Sequence[Received],
    there: dict[str, dict[str, Any]],
    writer: BlockWriter,
    changes: _Changes,
) -> int:
    """How many of a trace's own spans made rows."""
    made = 0
    received = {id(one.span): one for one in (*own, *others)}
    mine = {one.span.span_id: one for one in _best(own)}
    # The first report of a span gives its place: those of others came before.
    for kept in steps_of([*(one.span for one in own), *(one.span for one in others)], _ORIGIN):
        source = received[id(kept.span)]
        row = there.get(kept.span.recording_id)
        if row is not None:
            if not isinstance(kept.step, BadRecordError):
                _change(row, kept, source, writer, changes)
            continue
        if kept.span.digest:
            # The batch that has all of it will bring it. Where this one has some of it, that is more than nothing.
            if kept.span.span_id not in mine or isinstance(kept.step, BadRecordError):
                continue
            source = mine[kept.span.span_id]
            kept = _named_like(kept, source.span)
        made += kept.span.span_id in mine
        if source.batch is not None:
            # A span of an earlier batch that turns out to be an ancestor: this batch brings its row.
            source = source._replace(file=own[0].file, line=own[0].line)
        writer.add(source.file, source.line, source.raw, _item(kept))
    return made


def _named_like(kept: Kept, whole: Span) -> Kept:
    """The step of a span's own report, under the name that a better one has in its trace."""
    assert isinstance(kept.step, Step)
    try:
        step = otlp.step_of(whole, _ORIGIN)
    except BadRecordError as error:
        return Kept(whole, error, False)
    return Kept(whole, msgspec.structs.replace(step, step=kept.step.step), kept.is_repeated)


def _change(row: dict[str, Any], kept: Kept, source: Received, writer: BlockWriter, changes: _Changes) -> None:
    """Note what is different in a row that another batch brought."""
    assert isinstance(kept.step, Step)
    if kept.span.digest:
        new = dict(row)
        if row["strategy_id"] == recorded_id(row["step"]):
            new["strategy_id"] = recorded_id(kept.step.step)
        new["step"] = kept.step.step
        if kept.is_repeated:
            new |= {"model": None, "input_tokens": None, "output_tokens": None, "cost_usd": None}
    else:
        new = writer.rows_of([(kept.step, source.file, source.line, source.raw)]).row(0, named=True)
        new |= {BLOCK: row[BLOCK], "source": row["source"]}
    if new != row:
        changes.rows.setdefault(row[BLOCK], {})[row["recording_id"]] = new


def _rows_elsewhere(store: BlockStore, batches: set[str], traces: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Rows of these traces that other batches brought, by recording."""
    blocks = [block for batch in sorted(batches) for block in blocks_of(store, batch, "recordings")]
    if not blocks:
        return {}
    rows = store.read("recordings", blocks=blocks).filter(pl.col("request_id").is_in(list(traces)))
    return {row["recording_id"]: row for row in rows.iter_rows(named=True)}


def _write(changes: _Changes, store: BlockStore) -> None:
    for block, changed in changes.rows.items():
        rows = store.read("recordings", blocks=[block])
        # In place, so that a block stays in the order in which its lines were read.
        new = [changed.get(row["recording_id"], row) for row in rows.iter_rows(named=True)]
        store.replace("recordings", [block], pl.DataFrame(new, schema=rows.schema))


def _readable(received: Sequence[tuple[str, int, bytes]], writer: BlockWriter) -> Iterable[Received]:
    for file, line, raw in received:
        try:
            yield Received(from_line(raw), file, line, raw)
        except (msgspec.MsgspecError, BadRecordError, RecursionError, ValueError) as error:
            writer.add(file, line, raw, BadLine("wrong_type", str(error)))


def _item(kept: Kept) -> Step | BadLine:
    return BadLine(kept.step.reason, str(kept.step)) if isinstance(kept.step, BadRecordError) else kept.step


def _best(received: Iterable[Received]) -> list[Received]:
    """Each span once, by the report that says most."""
    best: dict[str, Received] = {}
    for one in received:
        known = best.get(one.span.span_id)
        if known is None or rank(one.span) > rank(known.span):
            best[one.span.span_id] = one
    return list(best.values())
