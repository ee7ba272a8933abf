"""The ledger of paid calls: nothing reads an answer before it is on disk, and no answer is bought twice.

Looked up in this order: calls under way in this process (`Engine`), journalled calls of any process, the lake's table
`calls`. Across processes a claim decides who pays; the other one waits for the answer.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from qbawa.engine.calls import CallResult
from qbawa.engine.error_classes import readable
from qbawa.engine.ledger.index import CallIndex, adopt_old_shelf, is_answer
from qbawa.engine.ledger.locks import CallLocks
from qbawa.engine.logprobs import clean_logprobs
from qbawa.errors import FinalError, LedgerError
from qbawa.storage.journal import JournalWriter, adopt_orphans

Lookup = Callable[[Sequence[str]], Iterable[Mapping[str, Any]]]
"""Rows of the table `calls` (answers, and refusals that were billed) for those of the keys that it holds."""

LINGER_S = 0.02
"""Under load, answers that arrive within this time share one fsync."""
SEGMENT_BYTES = 8 << 20
"""A segment is loaded into the lake whole, so its size decides how much memory that takes."""
MOST_PENDING = 4_000
WATCH_S = 0.1
DISK_TRIES = 10


class Ledger:
    """Answers by `call_key`, and the journal of new ones in `folder` (`Home.calls`).

    `lookup` reads the lake; without it only the journal counts. Reusable after `close`.
    """

    def __init__(self, folder: str | Path, lookup: Lookup | None = None) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        adopt_orphans(self.folder)
        adopt_old_shelf(self.folder)
        self._lookup = lookup
        self._writer = JournalWriter(self.folder, max_bytes=SEGMENT_BYTES)
        self.on_line: Callable[[Mapping[str, Any]], None] = lambda line: None
        """Gets every journalled line of any process once, failures included."""
        self._index = CallIndex(self.folder, lambda line: self.on_line(line))
        self._locks = CallLocks(self.folder)
        self._in_lake: dict[str, CallResult] = {}
        self._not_in_lake: set[str] = set()
        self._refused_in_lake: dict[str, FinalError] = {}
        self._asked: dict[str, asyncio.Future[CallResult | None]] = {}
        self._pending: list[tuple[bytes, asyncio.Future[None]]] = []
        self._disk: ThreadPoolExecutor | None = None
        self._working: set[asyncio.Task[None]] = set()
        self._committing = False
        self._committed_at = -LINGER_S
        self._refused = False

    @property
    def stuck(self) -> bool:
        """True while the disk refuses or lags behind: what might not be kept should not be paid for."""
        return self._refused or len(self._pending) > MOST_PENDING

    async def find(self, key: str) -> CallResult | None:
        """The answer that the ledger holds for a key, None where it holds none."""
        found = self.journalled(key)
        if found is not None or self._lookup is None or key in self._not_in_lake:
            return found
        if key in self._in_lake:
            return self._in_lake.pop(key)
        waiting = self._asked.get(key)
        if waiting is None:
            waiting = self._asked[key] = asyncio.get_running_loop().create_future()
            if len(self._asked) == 1:
                self._start(self._look_up())
        return await asyncio.shield(waiting)

    async def prefetch(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys whose answers the ledger holds. One question to the lake, so that `find` asks none."""
        wanted = set(keys)
        self._index.refresh()
        held = {key for key in wanted if key in self._index}
        if self._lookup is not None:
            unknown = wanted - held - self._not_in_lake - self._in_lake.keys()
            if unknown:
                rows = await asyncio.to_thread(_rows, self._lookup, sorted(unknown))
                self._in_lake |= self._sorted(rows)
                self._not_in_lake |= unknown - self._in_lake.keys()
            held |= wanted & self._in_lake.keys()
        return held | {key for key in wanted if self.refusal(key) is not None}

    def refusal(self, key: str) -> FinalError | None:
        """Why a call was billed and brought no answer, where it would end so again. Ask `find` first."""
        line = self._index.refusal(key)
        return self._refused_in_lake.get(key) if line is None else refusal_of(line)

    @property
    def unreadable(self) -> int:
        """Lines of the journal that no longer can be read, and were passed over."""
        return self._index.unreadable

    def journalled(self, key: str) -> CallResult | None:
        """The answer as far as the journal holds it, of this or any other process."""
        self._index.refresh()
        line = self._index.get(key)
        return None if line is None else result_of(line)

    def claim(self, key: str) -> bool:
        """True where the caller shall pay. Look `journalled` once more afterwards: the last payer may just be done."""
        return self._locks.try_lock(key)

    def release(self, key: str) -> None:
        self._locks.release(key)

    async def changed(self) -> None:
        """Wait a moment, until another process may have answered or let go of what it claims."""
        await asyncio.sleep(WATCH_S * random.uniform(0.5, 1.5))

    async def record(self, line: Mapping[str, Any]) -> None:
        """Journal one call. Returns when it is on disk for good; raises LedgerError where the disk refuses."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((_encode(line), done))
        if not self._committing:
            self._committing = True
            self._start(self._commit())
        await asyncio.shield(done)

    async def close(self) -> None:
        """Finish what is being written and close the segment, so that it can be loaded."""
        while self._working:
            await asyncio.wait(self._working)
        try:
            await self._on_disk(self._writer.close)
        except OSError as error:
            raise LedgerError(f"The ledger in {self.folder} cannot be closed: {error}.") from None
        if self._disk:
            self._disk.shutdown(wait=True)
            self._disk = None
        self._index.close()

    async def _commit(self) -> None:
        try:
            while self._pending:
                # One call after the other is not kept waiting; many at once share a batch.
                if time.monotonic() - self._committed_at < LINGER_S or len(self._pending) > 1:
                    await asyncio.sleep(LINGER_S)
                batch, self._pending = self._pending, []
                error = await self._on_disk(functools.partial(self._write, [line for line, _ in batch]))
                self._committed_at = time.monotonic()
                for _, done in batch:
                    if done.cancelled():
                        continue
                    if error is None:
                        done.set_result(None)
                    else:
                        done.set_exception(error)
                        done.exception()  # seen, even where its caller has gone
        finally:
            self._committing = False

    def _write(self, lines: list[bytes]) -> LedgerError | None:
        for line in lines:
            self._writer.append(line)
        problem: OSError | None = None
        for attempt in range(DISK_TRIES):
            try:
                self._writer.sync()
                self._refused = False
                return None
            except OSError as error:
                self._refused = True
                problem = error
                if attempt + 1 < DISK_TRIES:
                    time.sleep(min(1.0, 0.1 * 2**attempt))
        # The lines stay buffered in the writer: should the disk recover, the next batch takes them along.
        return LedgerError(f"The ledger in {self.folder} cannot be written ({problem}), so no further call is paid.")

    async def _look_up(self) -> None:
        """Ask the lake for all keys that are asked for by now; those that come meanwhile go with the next question."""
        assert self._lookup is not None
        while self._asked:
            await asyncio.sleep(0)
            asked = dict(self._asked)
            keys = sorted(asked)
            try:
                rows = await asyncio.to_thread(_rows, self._lookup, keys)
                found = self._sorted(rows)
            except Exception as error:
                # Better no call than a call that was paid before: whoever asked gets the lake's own error.
                for key, waiting in asked.items():
                    del self._asked[key]
                    waiting.set_exception(error)
                    waiting.exception()
                continue
            self._not_in_lake |= asked.keys() - found.keys()
            for key, waiting in asked.items():
                del self._asked[key]
                waiting.set_result(found.get(key))

    def _sorted(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, CallResult]:
        """The answers among rows of the lake; refusals are remembered apart."""
        answers = {}
        for row in rows:
            if is_answer(row):
                answers[row["call_key"]] = result_of(row)
            elif row.get("error"):
                self._refused_in_lake[row["call_key"]] = refusal_of(row)
        for key in answers:
            self._refused_in_lake.pop(key, None)
        return answers

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _on_disk(self, work: Callable[[], Any]) -> Any:
        """Run in the one thread that touches the journal, so that an fsync never stops the event loop."""
        if self._disk is None:
            self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="qbawa-ledger")
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)


def result_of(row: Mapping[str, Any]) -> CallResult:
    """A held answer, from a journalled line or a row of the lake, whatever else stands in it."""
    return CallResult(
        call_key=row["call_key"],
        text=row["response_text"],
        input_tokens=int(_number(row.get("input_tokens")) or 0),
        output_tokens=int(_number(row.get("output_tokens")) or 0),
        cost_usd=_number(row.get("cost_usd")),
        latency_s=_number(row.get("latency_s")) or 0.0,
        attempts=int(_number(row.get("attempts")) or 1),
        cached=True,
        logprobs=_logprobs(row.get("logprobs")),
    )


def refusal_of(row: Mapping[str, Any]) -> FinalError:
    """The error of a call that was billed and brought no answer, from a journalled line or a row of the lake."""
    reason, _, message = str(row["error"]).partition(": ")
    error = FinalError(reason, message)
    input_tokens, output_tokens = _number(row.get("input_tokens")), _number(row.get("output_tokens"))
    error.input_tokens = None if input_tokens is None else int(input_tokens)
    error.output_tokens = None if output_tokens is None else int(output_tokens)
    error.cost_usd = _number(row.get("cost_usd"))
    return error


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if -1e15 < value < 1e15 else None


def _logprobs(found: Any) -> list[Any] | None:
    if isinstance(found, str):
        try:
            found = orjson.loads(found)
        except orjson.JSONDecodeError:
            return None
    return clean_logprobs(found)


def _encode(line: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(line)
    except TypeError:
        # What cannot be JSON (a lone surrogate in a message) never was sent; its failure is still worth a line.
        plain = {name: readable(value) if isinstance(value, str) else value for name, value in line.items()}
        return orjson.dumps({**plain, "messages": None, "params": None, "logprobs": None}, default=str)


def _rows(lookup: Lookup, keys: Sequence[str]) -> list[Mapping[str, Any]]:
    return list(lookup(keys))
