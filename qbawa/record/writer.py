"""The queue between the application's threads and the disk, and the thread that empties it.

`put` is all that an application's thread pays for. It never waits: a full queue drops and counts. Everything that
`put` touches is reentrant, since a generator that ends during garbage collection calls it in the middle of anything.
"""

from __future__ import annotations

import collections
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from qbawa.record.snapshot import described
from qbawa.storage.journal import JournalWriter

log = logging.getLogger("qbawa")

BATCH_S = 0.02  # rows gather this long, then share one fsync
TICK_S = 1.0  # retry of a disk that refused; look for segments and steps that wait too long
_BATCH_ROWS = 4_000


class Counts:
    """How many recordings were dropped, by reason, and what was already said about it."""

    def __init__(self) -> None:
        self.reasons: collections.Counter[str] = collections.Counter()
        self._lock = threading.RLock()
        self._said: set[str] = set()

    def add(self, reason: str, message: str | None = None, number: int = 1) -> None:
        """Count, and log where there is a message and it is the first for this reason."""
        with self._lock:
            self.reasons[reason] += number
        if message:
            self.warn(reason, message)

    def warn(self, reason: str, message: str) -> None:
        """Log once for each reason."""
        with self._lock:
            if reason in self._said:
                return
            self._said.add(reason)
        try:
            log.warning("qbawa: %s. (Logged once; see qbawa.stats().)", message)
        except Exception:  # a logging handler of the application that raises
            self.reasons["log_failed"] += 1


class _Marker:
    """Stands in the queue; reached when all before it is on disk."""

    size = 0

    def __init__(self) -> None:
        self.reached = threading.Event()


class Writer:
    """Empties a queue of at most `queue_bytes` into the journal.

    `encode` turns an item into lines; `tick` runs about every second while it says that there is more to do; `begun`
    runs once the thread has.
    """

    def __init__(
        self,
        journal: JournalWriter,
        encode: Callable[[Any], list[bytes]],
        tick: Callable[[], bool],
        begun: Callable[[], None],
        counts: Counts,
        queue_bytes: int,
    ) -> None:
        self.accepted = self.written = 0
        self._journal, self._encode, self._tick, self._begun, self._counts = journal, encode, tick, begun, counts
        self._queue_bytes = queue_bytes
        self._queue: collections.deque[Any] = collections.deque()
        self._queued = 0
        self._lock = threading.RLock()
        self._awake = False
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._hurry: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._taken: list[Any] = []
        self._trouble = self._closing = self._late = False

    def put(self, item: Any) -> None:
        """Take over one item, or drop and count it. The item knows its `size` in bytes, roughly."""
        size = item.size
        with self._lock:
            if self._queued + size > self._queue_bytes and self._queued:
                self._counts.add("disk" if self._trouble else "queue_full")
                return
            self._queued += size
            self.accepted += 1
            self._queue.append(item)
            if self._awake and not self._late:
                return
            self._awake = True
        self.wake()

    def wake(self) -> None:
        """Make the thread look, and begin it where there is none yet."""
        if self._thread is None and not self._late:
            self._begin()
        if self._late:
            self._write_late()
        elif self._thread is not None:
            self._wake.put(None)

    def flush(self, timeout_s: float) -> bool:
        """Whether everything put before this call is on disk for good, waiting at most `timeout_s`."""
        if self._late:
            self._write_late()
            return not self._queue
        if not self._queue and not self._taken and not self._awake:
            return True
        marker = _Marker()
        self._queue.append(marker)
        self._hurry.put(None)
        self.wake()
        return marker.reached.wait(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Write what there is and close the segment; items put later are written on the spot by whoever puts them."""
        self._closing = True
        if self._thread is not None and self._thread is not threading.current_thread():
            self._hurry.put(None)
            self._wake.put(None)
            self._thread.join(timeout_s)
        self._late = True

    def _begin(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name="qbawa-writer", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._thread = None
            if "shutdown" in str(error):  # of the interpreter: no thread can start any more
                self._late = True
            else:  # the system has no thread to spare; the next recording tries again
                self._awake = False
                self._counts.warn("no_thread", f"the writer thread cannot start: {error}. Recordings wait in memory")
            return
        self._begun()

    def _run(self) -> None:
        ticking = False
        while True:
            self._wait(self._wake, TICK_S if ticking or self._trouble or self._journal.segment else None)
            if not self._closing:
                self._wait(self._hurry, BATCH_S)
            try:
                ticking = self._tick()
                self._write()
            except Exception as error:  # a bug here must not end recording for the rest of the process
                self._counts.add("internal_error", f"the recorder stumbled over {described(error)}")
            if self._closing and (self._trouble or not self._queue):
                break
        try:
            self._journal.close()
        except OSError as error:
            self._refused(error)
        lost = len(self._queue) + len(self._taken)
        if lost:
            self._counts.add("disk", number=lost)
            self._queue.clear()

    @staticmethod
    def _wait(signal: queue.SimpleQueue[None], timeout_s: float | None) -> None:
        try:
            signal.get(timeout=timeout_s)
            while True:
                signal.get_nowait()
        except queue.Empty:
            return

    def _write(self) -> None:
        """Everything queued, batch by batch. Where the disk refuses, the batch stays and is tried again later."""
        while True:
            if not self._taken:
                with self._lock:
                    number = min(len(self._queue), _BATCH_ROWS)
                    self._awake = number > 0
                self._taken = [self._queue.popleft() for _ in range(number)]
                for item in self._taken:
                    if type(item) is not _Marker:
                        self._append(item)
            try:
                self._journal.sync()
            except OSError as error:
                self._refused(error)
                return
            if not self._taken:
                return
            self._trouble = False
            self._acknowledge()

    def _append(self, item: Any) -> None:
        try:
            lines = self._encode(item)
        except Exception as error:
            self._counts.add("internal_error", f"a recording could not be encoded: {described(error)}")
            return
        for line in lines:
            self._journal.append(line)

    def _acknowledge(self) -> None:
        taken, self._taken = self._taken, []
        markers = [item for item in taken if type(item) is _Marker]
        size = sum(item.size for item in taken)
        with self._lock:
            self._queued -= size
            self.written += len(taken) - len(markers)
        for marker in markers:
            marker.reached.set()
        if self._counts.reasons["queue_full"]:
            self._counts.warn("queue_full", "recordings come faster than they can be written; some are dropped")

    def _refused(self, error: OSError) -> None:
        self._trouble = True
        self._counts.warn(
            "disk",
            f"the journal in {self._journal.folder} cannot be written: {error}. The application goes on; recordings "
            "wait in memory and are dropped once the queue is full. Free space or make the folder writable",
        )

    def _write_late(self) -> None:
        """At the end of the interpreter there is no thread: write in this one. The segment is left for adoption."""
        if self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            self._write()
