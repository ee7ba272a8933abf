"""Spans until their trace can be put together: those of the source at hand, and what earlier batches had of its traces.

A trace's spans come when they end, children before their parents, so they may lie in several batches. What is needed of
them for a while stands in `<journal>/batches/spans.sqlite`: of spans of AI, whose rows the lake holds, what names a
step; all other spans whole, since one that comes later may turn out to be inside them. Nothing is lost with the file but
the chance to connect what comes late.
"""

import os
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import orjson

from qbawa.ingest.formats import otlp
from qbawa.ingest.formats.otlp_spans import Digest, Span, from_line
from qbawa.ingest.formats.otlp_trace import rank
from qbawa.ingest.formats.step_rows import Origin
from qbawa.storage.files import file_lock

NAME, LOCK = "spans.sqlite", ".spans.lock"
KEPT_S = 2 * 86_400
"""How long spans are remembered; what comes later than this after the rest of its trace stands by itself."""
_NAMING = frozenset({
    "openinference.span.kind", "agent.name", "graph.node.id", "tool.name", "traceloop.span.kind", "traceloop.entity.name",
    "traceloop.entity.path", "traceloop.workflow.name", "gen_ai.operation.name", "gen_ai.agent.name", "gen_ai.tool.name",
    "gen_ai.workflow.name", "gen_ai.request.model", "gen_ai.response.model", "gen_ai.response.id",
})  # fmt: skip
_TABLES = """
CREATE TABLE IF NOT EXISTS span (
    trace TEXT NOT NULL, span TEXT NOT NULL, batch TEXT NOT NULL, file TEXT NOT NULL, line INTEGER NOT NULL,
    whole INTEGER NOT NULL, seen_s INTEGER NOT NULL, packed BLOB NOT NULL, PRIMARY KEY (trace, span, batch)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS span_seen ON span (seen_s);
"""
_CHUNK_BYTES, _CHUNK_TRACES = 8 << 20, 500


class Received(NamedTuple):
    """A span, and the line that says it."""

    span: Span
    file: str
    line: int
    raw: bytes
    batch: str | None = None
    """The other batch that holds it; None for the source at hand."""


class SpanSpool:
    """The spans of one source, on disk until all are read: those of a trace may lie anywhere in it."""

    def __init__(self, origin: Origin | None = None) -> None:
        self.count, self.origin = 0, origin
        self._db = sqlite3.connect("")  # a file of the system's, gone with the connection
        self._db.execute("CREATE TABLE own (trace TEXT, file TEXT, line INTEGER, size INTEGER, raw BLOB)")

    def add(self, trace: str, file: str, line: int, raw: bytes) -> None:
        self.count += 1
        self._db.execute("INSERT INTO own VALUES (?, ?, ?, ?, ?)", (trace, file, line, len(raw), raw))

    def chunks(self) -> Iterator[dict[str, list[tuple[str, int, bytes]]]]:
        """File, line number and line of every span by trace, some whole traces at a time, in the order in which they began."""
        self._db.execute("CREATE INDEX IF NOT EXISTS own_trace ON own (trace)")
        order = self._db.execute("SELECT trace, SUM(size) FROM own GROUP BY trace ORDER BY MIN(rowid)")
        waiting: list[str] = []
        size = 0
        for trace, its_size in order.fetchall():
            if waiting and (size + its_size > _CHUNK_BYTES or len(waiting) == _CHUNK_TRACES):
                yield self._get(waiting)
                waiting, size = [], 0
            waiting.append(trace)
            size += its_size
        if waiting:
            yield self._get(waiting)

    def close(self) -> None:
        self._db.close()

    def _get(self, traces: Sequence[str]) -> dict[str, list[tuple[str, int, bytes]]]:
        sql = "SELECT file, line, raw FROM own WHERE trace = ? ORDER BY rowid"
        return {trace: self._db.execute(sql, (trace,)).fetchall() for trace in traces}


class SpanStore:
    """What the batches of a journal hold of traces."""

    def __init__(self, manifests: Path) -> None:
        self._manifests, self.path = manifests, manifests / NAME

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One process at a time puts traces together, or each could miss what the other is about to write."""
        os.makedirs(self._manifests, exist_ok=True)
        with file_lock(self._manifests / LOCK):
            yield

    def others(self, traces: Iterable[str], batch: str) -> dict[str, list[Received]]:
        """What other batches than this one hold of traces; spans of AI as far as names need them."""
        found: dict[str, list[Received]] = {}
        if not self.path.exists():
            return found
        # In an order that does not depend on when a batch was taken in: the same blocks are to come out each time.
        sql = "SELECT trace, file, line, packed, batch FROM span WHERE trace = ? AND batch <> ? ORDER BY span, batch"
        with closing(sqlite3.connect(self.path, timeout=60)) as db:
            db.executescript(_TABLES)  # whoever began the file may have been killed
            for trace in traces:
                for trace_, file, line, packed, its_batch in db.execute(sql, (trace, batch)):
                    raw = zlib.decompress(packed)
                    found.setdefault(trace_, []).append(Received(from_line(raw), file, line, raw, its_batch))
        return found

    def note(self, batch: str, own: Iterable[Received], others: dict[str, list[Received]]) -> None:
        """Remember a batch's spans, and let go of old ones."""
        known = {(trace, one.span.span_id): rank(one.span) for trace, received in others.items() for one in received}
        rows = []
        now = int(time.time())
        for one in own:
            span = one.span
            before = known.get((span.trace_id, span.span_id))
            whole = otlp.role(span) == "plain" or (before is not None and rank(span) > before)
            raw = one.raw if whole else _digest(span)
            rows.append((span.trace_id, span.span_id, batch, one.file, one.line, whole, now, zlib.compress(raw, 1)))
        with closing(sqlite3.connect(self.path, timeout=60)) as db:
            db.executescript(_TABLES)
            with db:
                db.executemany("INSERT OR REPLACE INTO span VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
                db.execute("DELETE FROM span WHERE seen_s < ?", (now - KEPT_S,))

    def forget(self, trace: str) -> None:
        """Leave no byte of a trace in the file."""
        if not self.path.exists():
            return
        with closing(sqlite3.connect(self.path, timeout=60)) as db:
            db.execute("PRAGMA secure_delete = ON")
            with db:
                gone = db.execute("DELETE FROM span WHERE trace = ?", (trace,)).rowcount
            if gone:
                db.execute("VACUUM")


def _digest(span: Span) -> bytes:
    """A line that says of a span what names steps, and no more: the lake holds the rest."""
    is_call = otlp.role(span) == "call"
    digest = span.digest or Digest(
        otlp.role(span), otlp.has_content(span), rank(span), otlp.own_entity(span) if is_call else None
    )
    attributes = {key: value for key, value in span.attributes.items() if key in _NAMING}
    return orjson.dumps(
        {
            "request_id": span.trace_id,
            "recording_id": span.recording_id,
            "parent_id": f"{span.trace_id}.{span.parent_id}" if span.parent_id else None,
            "name": span.name,
            "started_ns": _nanoseconds(span.started_at),
            "ended_ns": _nanoseconds(span.ended_at),
            "edge": span.is_edge,
            "service": span.service,
            "scope": span.scope,
            "attributes": attributes,
            "digest": msgspec.structs.asdict(digest),
        }
    )


def _nanoseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1e6) * 1_000
