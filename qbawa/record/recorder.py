"""The recorder of a process: its settings, what is sampled, what is still open, and its writer."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from qbawa.record.context import Call, Request, Step
from qbawa.record.exceptions import Failure
from qbawa.record.line_format import Feedback, Hook, encode, rows_of
from qbawa.record.redact import Redactor
from qbawa.record.snapshot import described
from qbawa.record.writer import Counts, Writer
from qbawa.storage.journal import JournalWriter

HOLD_S = 10.0  # how long an ended step waits for model calls that have not reported
EXIT_S = 5.0  # bound on what the end of the interpreter waits for
GIVE_UP_S = 3600.0  # after this a model call is taken never to report
MAX_OPEN_CALLS = 50_000  # more than an app can have in flight; beyond, the oldest are given up

Item = Step | Call | Request | Feedback
SampleRule = Callable[[Request], bool | float | None]


class Stats(NamedTuple):
    """Counts since `configure`, in this process."""

    recorded: int = 0  # steps, calls, requests and feedback that were taken over
    written: int = 0  # of these, on disk for good
    dropped: dict[str, int] = {}  # by reason
    open_calls: int = 0  # model calls begun that have not reported


class Recorder:
    """Takes what happened from any thread and gets it to the journal in `folder`. Nothing here raises or blocks."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        pipeline: str = "default",
        sample_rate: float = 1.0,
        sample_rule: SampleRule | None = None,
        redactor: Redactor | None = None,
        redact: Hook | None = None,
        queue_bytes: int = 64 << 20,
        segment_bytes: int = 64 << 20,
        segment_age_s: float = 60.0,
    ) -> None:
        self.pipeline = pipeline
        self._sample_rate, self._sample_rule = sample_rate, sample_rule
        self._redactor, self._redact = redactor or Redactor(), redact
        self._queue_bytes = queue_bytes
        self._journal = JournalWriter(folder, max_bytes=segment_bytes, max_age_s=segment_age_s)
        self.begin_process()

    def begin_process(self) -> None:
        """Everything that belongs to one process; called again in a forked child, which inherits no row."""
        self.counts = Counts()
        self._lock = threading.RLock()
        self._held: dict[int, tuple[Step, float]] = {}
        self._open_calls: dict[int, Call] = {}
        begun = self._close_with_multiprocessing_child
        self._writer = Writer(self._journal, self._lines, self._tend, begun, self.counts, self._queue_bytes)
        self.put = self._writer.put

    def sample(self, request: Request) -> bool:
        """Whether this request is recorded. At one rate, the same id gets the same answer in every process."""
        rate: bool | float | None = None
        if self._sample_rule:
            try:
                rate = self._sample_rule(request)
            except Exception as error:
                self.counts.add(
                    "sample_rule_failed", f"sample_rule raised {described(error)}; such requests are recorded"
                )
                return True
        rate = float(self._sample_rate if rate is None else rate)
        return rate >= 1.0 or _share(request.request_id) < rate

    def hold(self, step: Step) -> None:
        """Keep an ended step until its calls have reported, so that they can stand in its row."""
        with self._lock:
            self._held[id(step)] = (step, time.monotonic() + HOLD_S)
        if all(call.done for call in step.calls or ()):
            self.release(step)
        else:
            self._writer.wake()  # so that it ticks

    def release(self, step: Step) -> None:
        with self._lock:
            held = self._held.pop(id(step), None)
        if held:
            step.size += sum(call.size for call in step.calls or ())
            self.put(step)

    def opened(self, call: Call) -> None:
        """Remember a model call until it reports."""
        with self._lock:
            self._open_calls[id(call)] = call
            oldest = next(iter(self._open_calls.values())) if len(self._open_calls) > MAX_OPEN_CALLS else None
        if oldest:
            self._give_up(oldest)

    def closed(self, call: Call) -> None:
        with self._lock:
            self._open_calls.pop(id(call), None)

    def stats(self) -> Stats:
        writer = self._writer
        return Stats(writer.accepted, writer.written, dict(self.counts.reasons), len(self._open_calls))

    def flush(self, timeout_s: float) -> bool:
        """Whether everything recorded before this call is on disk for good."""
        deadline = time.monotonic() + timeout_s
        # Reports of model calls may be on their way, unless it is this very thread that has to carry them.
        while self._reporting() and not _in_event_loop() and time.monotonic() < deadline - timeout_s / 2:
            time.sleep(0.005)
        return self._writer.flush(max(0.0, deadline - time.monotonic())) and not self._held

    def close(self, timeout_s: float = EXIT_S) -> None:
        """Write what there is, in bounded time, and close the segment."""
        deadline = time.monotonic() + timeout_s
        integration = sys.modules.get("qbawa.record.integrations.litellm")
        if integration and not _in_event_loop():
            with contextlib.suppress(Exception):
                integration.drain(timeout_s / 2)
        for call in list(self._open_calls.values()):
            if call.otherwise or call.owner is None or call.owner.ended:
                self._give_up(call)
        self._writer.close(max(0.1, deadline - time.monotonic()))

    def _close_with_multiprocessing_child(self) -> None:
        """A child of multiprocessing ends without atexit hooks; it has a list of its own."""
        util, process = sys.modules.get("multiprocessing.util"), sys.modules.get("multiprocessing.process")
        if util and process and process.parent_process() is not None:
            util.Finalize(None, self.close, args=(EXIT_S / 2,), exitpriority=100)

    def _give_up(self, call: Call) -> None:
        """End a call that did not report, from what is known."""
        if call.otherwise and not call.done:
            with contextlib.suppress(Exception):
                call.otherwise()
        call.end(
            failure=Failure.reported(
                "qbawa.Unfinished",
                "No result was reported: the process ended first, or a stream was left before its end.",
            )
        )

    def _reporting(self) -> bool:
        """Whether a call is open that may have ended already. One that is open for long has been left, not ended."""
        if self._held:
            return True
        recently = time.time() - HOLD_S
        with self._lock:
            return any(call.owner is None and call.started_at > recently for call in self._open_calls.values())

    def _tend(self) -> bool:
        """Release steps that waited long enough, give up calls that never reported; whether any are left."""
        now, long_ago = time.monotonic(), time.time() - GIVE_UP_S
        for call in list(self._open_calls.values()):
            if call.started_at > long_ago:
                break  # they are in the order in which they began
            self._give_up(call)
        for step, until in list(self._held.values()):
            if now >= until:
                for call in step.calls or ():
                    if call.otherwise:
                        self._give_up(call)
                self.release(step)
        return bool(self._held or self._open_calls)

    def _lines(self, item: Item) -> list[bytes]:
        lines = []
        for row in rows_of(item):
            try:
                line = encode(row, self._redactor, self._redact)
            except BaseException as error:  # a hook may even call sys.exit, which must not end the writer thread
                # Never written unredacted: what the hook could not handle is dropped.
                reason = "redact_hook_failed" if self._redact else "internal_error"
                self.counts.add(reason, f"a recording was dropped: {reason.replace('_', ' ')} with {described(error)}")
                continue
            if line is None:
                self.counts.add("redact_hook")
            else:
                lines.append(line)
        return lines


def _share(request_id: str) -> float:
    """Where an id falls between 0 and 1, evenly."""
    import hashlib  # loads OpenSSL, which only sampling should pay for

    digest = hashlib.blake2b(request_id.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64


def _in_event_loop() -> bool:
    events = sys.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None
