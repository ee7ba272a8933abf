"""Rows on their way into the lake: blocks of bounded size, the same ones each time the same source is read.

A source (a batch of segments, an imported file) becomes the blocks `<name>/000`, `<name>/001`, … and, last of all, the
block `<name>`. So a source is complete exactly where the lake holds a block with its bare name (`is_complete`); after a
crash it is simply read again.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import polars as pl
from msgspec import Raw

from qbawa.ids import recorded_id
from qbawa.ingest.journal_lines import NULL, BadLine, Feedback, Request, Row, Step, listed, plain, shown, text, when
from qbawa.ingest.recorded_prices import RecordedPrices
from qbawa.storage.frames import BLOCK, now, schema_of

BLOCK_BYTES = 32 << 20
"""Of raw lines; a block takes about five times as much memory while it is written."""
_ROW_BYTES = 1_000  # of objects that a waiting row consists of
TABLES = ("recordings", "quarantine", "feedback")
"""The bare-named block is in the first of these that the source has rows for, and is written last."""


class BlockStore(Protocol):
    """Where blocks go: the part of a lake that a writer of blocks needs."""

    def read(self, table: str, columns: Sequence[str] | None = None, *, blocks: Sequence[str]) -> pl.DataFrame: ...

    def scan(self, table: str) -> pl.LazyFrame: ...

    def blocks(self, table: str, of: str | None = None) -> set[str]: ...

    def may_hold(self, table: str, keys: pl.DataFrame) -> pl.DataFrame: ...

    def replace(self, table: str, blocks: Sequence[str], rows: pl.DataFrame) -> bool: ...


@dataclass
class Counts:
    """What became of a source's lines. `known` rows were in the lake already, from an earlier import."""

    rows: int = 0
    feedback: int = 0
    requests: int = 0
    known: int = 0
    quarantined: int = 0
    by_reason: Counter[str] = field(default_factory=Counter)
    changed: bool = False


def is_complete(store: BlockStore, name: str) -> bool:
    """Whether everything of the source `name` is in the lake."""
    return any(not store.read(table, [BLOCK], blocks=[name]).is_empty() for table in TABLES)


def complete_among(store: BlockStore, names: Sequence[str]) -> set[str]:
    """Those of many sources that are in the lake completely."""
    if not names:
        return set()
    # A few are looked for in the files that may hold them; for many it is cheaper to ask for all names, which are kept.
    if len(names) > 10:
        return set(names) & set().union(*(store.blocks(table) for table in TABLES))
    return set().union(*(store.read(table, [BLOCK], blocks=names)[BLOCK].unique() for table in TABLES))


def blocks_of(store: BlockStore, name: str, table: str) -> list[str]:
    """The blocks of a source in one of `TABLES`, sorted."""
    return sorted(store.blocks(table, name))


class BlockWriter:
    """Takes lines in order and writes them as blocks; call `close` at the end.

    A recording whose id came before, in this source or elsewhere in the lake, is a duplicate: the first stays. Where
    `skip_known`, one that another source brought is only counted, since a log that has grown is imported again.
    """

    def __init__(
        self,
        store: BlockStore,
        name: str,
        source_format: str,
        *,
        skip_known: bool = False,
        block_bytes: int = BLOCK_BYTES,
        prices: RecordedPrices | None = None,
    ) -> None:
        self.counts = Counts()
        self._store, self._name, self._format = store, name, source_format
        self._skip_known, self._limit = skip_known, block_bytes
        self._prices = prices or RecordedPrices({})
        self._written: dict[str, list[str]] = {table: [] for table in TABLES}
        self._clear()

    def add(self, file: str, line: int, raw: bytes, item: Row | BadLine, size: int | None = None) -> None:
        """Take what line number `line` of `file` says; `raw` is kept for the quarantine.

        `size` in bytes: its part of a line that says several things.
        """
        # A full block waits for the next line: the last one must get the bare name.
        if self._size > self._limit:
            self._flush(last=False)
        self._size += (len(raw) if size is None else size) + _ROW_BYTES
        if isinstance(item, Step):
            self._steps.append((item, file, line, raw))
        elif isinstance(item, Feedback):
            self._opinions.append((item, file, line, raw))
        elif isinstance(item, Request):
            self.counts.requests += 1
            self._tags[item.request_id] = item.tags
        else:
            self._refuse(file, line, raw, item)

    def close(self) -> Counts:
        """Write what is left, and remove blocks that an earlier, different reading of the source left behind."""
        self._flush(last=True)
        for table in TABLES:
            stale = [block for block in blocks_of(self._store, self._name, table) if block not in self._written[table]]
            if stale:
                self._put(table, stale, schema_of(table).to_frame())
        return self.counts

    def abandon(self) -> None:
        """Take back what was written; what is left is forgotten."""
        self._clear()
        for table in TABLES:
            if self._written[table]:
                self._put(table, self._written[table], schema_of(table).to_frame())
                self._written[table] = []

    def _clear(self) -> None:
        self._steps: list[tuple[Step, str, int, bytes]] = []
        self._opinions: list[tuple[Feedback, str, int, bytes]] = []
        self._refused: list[tuple[str, int, str, str]] = []
        self._tags: dict[str, Raw] = {}
        self._size = 0

    def _refuse(self, file: str, line: int, raw: bytes, bad: BadLine) -> None:
        self.counts.quarantined += 1
        self.counts.by_reason[bad.reason] += 1
        self._refused.append((file, line, str(bad), shown(raw)))

    def _flush(self, *, last: bool) -> None:
        frames = {"recordings": self._recordings(), "feedback": self._feedback()}
        frames["quarantine"] = self._quarantine()
        self.counts.rows += frames["recordings"].height
        self.counts.feedback += frames["feedback"].height
        self._clear()
        marked = next((t for t in TABLES if self._written[t] or not frames[t].is_empty()), None)
        for table in reversed(TABLES):
            rows = frames.pop(table)
            if last and table == marked:
                self._write_last(table, rows)
            elif not rows.is_empty():
                self._write(table, f"{self._name}/{len(self._written[table]):03}", rows)

    def _write(self, table: str, block: str, rows: pl.DataFrame, *, instead_of: str | None = None) -> None:
        self._put(table, [block, *([instead_of] if instead_of else [])], rows.with_columns(pl.lit(block).alias(BLOCK)))
        self._written[table].append(block)

    def _write_last(self, table: str, rows: pl.DataFrame) -> None:
        if rows.is_empty():
            # The end of the source had nothing for this table: its last block is written again, under the bare name.
            previous = self._written[table].pop()
            self._write(table, self._name, self._store.read(table, blocks=[previous]), instead_of=previous)
        else:
            self._write(table, self._name, rows)

    def _put(self, table: str, blocks: list[str], rows: pl.DataFrame) -> None:
        if table == "quarantine" and not rows.is_empty():
            rows = self._first_seen(blocks, rows)
        self.counts.changed |= self._store.replace(table, blocks, rows)

    def _first_seen(self, blocks: list[str], rows: pl.DataFrame) -> pl.DataFrame:
        """Lines that stood in quarantine before keep the time at which they were first seen."""
        before = self._store.read("quarantine", ["file", "line", "seen_at"], blocks=blocks).unique(["file", "line"])
        return (
            rows.join(before.rename({"seen_at": "before"}), on=["file", "line"], how="left", maintain_order="left")
            .with_columns(pl.coalesce("before", "seen_at").alias("seen_at"))
            .drop("before")
        )

    def _recordings(self) -> pl.DataFrame:
        """Rows of the waiting steps, duplicates put in quarantine."""
        return self.rows_of(
            self._first_of_each("recordings", self._steps, ["recording_id"], lambda step: (step.recording_id,))
        )

    def rows_of(self, steps: Sequence[tuple[Step, str, int, bytes]]) -> pl.DataFrame:
        """Rows of `recordings`, as yet in no block: step, file, line number and line of each."""
        recorded = {name: recorded_id(name) for name in {step.step for step, *_ in steps}}
        columns: dict[str, list[Any]] = {
            "request_id": [s.request_id for s, *_ in steps],
            "recording_id": [s.recording_id for s, *_ in steps],
            "parent_id": [s.parent_id for s, *_ in steps],
            "pipeline": [s.pipeline for s, *_ in steps],
            "step": [s.step for s, *_ in steps],
            "inputs": [text(s.inputs) for s, *_ in steps],
            "messages": [listed(s.messages) for s, *_ in steps],
            "output": [plain(s.output) for s, *_ in steps],
            "reasoning": [s.reasoning for s, *_ in steps],
            "model": [s.model for s, *_ in steps],
            "parameters": [text(s.parameters) for s, *_ in steps],
            "api": [s.api for s, *_ in steps],
            "request": [text(s.request) for s, *_ in steps],
            "strategy_id": [s.strategy_id or recorded[s.step] for s, *_ in steps],
            "input_tokens": [s.input_tokens for s, *_ in steps],
            "output_tokens": [s.output_tokens for s, *_ in steps],
            "cost_usd": [self._cost(s) for s, *_ in steps],
            "latency_s": [s.latency_s for s, *_ in steps],
            "error": [text(s.error) for s, *_ in steps],
            "tags": [self._tags_of(s) for s, *_ in steps],
            "user": [None if s.user is None else str(s.user) for s, *_ in steps],
            "source": [f"{file} ({self._format})" for _, file, *_ in steps],
            "recorded_at": [when(s.started_at) for s, *_ in steps],
        }
        return _frame("recordings", columns)

    def _cost(self, step: Step) -> float | None:
        if step.cost_usd is not None:
            return step.cost_usd
        return self._prices.cost_usd(step.model, step.input_tokens, step.output_tokens)

    def _tags_of(self, step: Step) -> str | None:
        """The step's tags, with those that its request got later, where the request ended in the same block."""
        late = self._tags.get(step.request_id, NULL)
        if late in (NULL, step.tags):
            return text(step.tags)
        both = json.loads(bytes(step.tags) or b"null") or {}
        return json.dumps({**both, **json.loads(bytes(late))}, ensure_ascii=False, separators=(",", ":"))

    def _feedback(self) -> pl.DataFrame:
        key = ["request_id", "given_at", "score", "comment"]
        opinions = self._first_of_each("feedback", self._opinions, key, _said)
        columns: dict[str, list[Any]] = {
            "request_id": [o.request_id for o, *_ in opinions],
            "score": [_score(o) for o, *_ in opinions],
            "comment": [o.comment for o, *_ in opinions],
            "given_at": [when(o.at) for o, *_ in opinions],
        }
        return _frame("feedback", columns)

    def _quarantine(self) -> pl.DataFrame:
        files, lines, reasons, raws = zip(*self._refused, strict=True) if self._refused else ((), (), (), ())
        seen: list[datetime] = [now()] * len(files)
        columns = {"file": files, "line": lines, "reason": reasons, "raw": raws, "seen_at": seen}
        return _frame("quarantine", columns)

    def _first_of_each(
        self,
        table: str,
        items: list[tuple[Any, str, int, bytes]],
        key: list[str],
        key_of: Callable[[Any], tuple[object, ...]],
    ) -> list[tuple[Any, str, int, bytes]]:
        """The items whose key is new; the others go to quarantine, or are only counted."""
        if not items:
            return items
        keys = [key_of(item[0]) for item in items]
        here, elsewhere = self._in_lake(table, key, keys)
        fresh = []
        for found, item in zip(keys, items, strict=True):
            if found in here:
                self._refuse(*item[1:], BadLine("duplicate", str(found[0])))
            elif found in elsewhere and self._skip_known:
                self.counts.known += 1
            elif found in elsewhere:
                self._refuse(*item[1:], BadLine("duplicate", f"{found[0]}, known from another batch"))
            else:
                here.add(found)
                fresh.append(item)
        return fresh

    def _in_lake(
        self, table: str, key: list[str], keys: list[tuple[object, ...]]
    ) -> tuple[set[tuple[object, ...]], set[tuple[object, ...]]]:
        """Those of `keys` that the lake holds from this source's earlier blocks, and from other sources."""
        schema = schema_of(table)
        wanted = pl.DataFrame(keys, schema={name: schema[name] for name in key}, orient="row").unique()
        wanted = self._store.may_hold(table, wanted)
        if wanted.is_empty():
            return set(), set()
        own = pl.col(BLOCK).eq(self._name) | pl.col(BLOCK).str.starts_with(f"{self._name}/")
        found = (
            self._store.scan(table)
            .select(*key, BLOCK)
            .filter(pl.col(key[0]).is_between(pl.lit(wanted[key[0]].min()), pl.lit(wanted[key[0]].max())))
            # Of an earlier reading of this source, only what this reading has written counts.
            .filter(~own | pl.col(BLOCK).is_in(self._written[table]))
            .join(wanted.lazy(), on=key, how="semi", nulls_equal=True)
            .with_columns(own.alias("own"))
            .select(*key, "own")
            .collect(engine="streaming")
        )
        return set(found.filter("own").drop("own").rows()), set(found.filter(~pl.col("own")).drop("own").rows())


def _said(opinion: Feedback) -> tuple[object, ...]:
    return opinion.request_id, when(opinion.at), _score(opinion), opinion.comment


def _score(opinion: Feedback) -> float | None:
    return None if opinion.score is None else float(opinion.score)


def _frame(table: str, columns: dict[str, Any]) -> pl.DataFrame:
    schema = schema_of(table)
    return pl.DataFrame({name: pl.Series(name, values, schema[name]) for name, values in columns.items()})
