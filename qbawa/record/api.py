"""The process's one recorder, and the calls that concern it as a whole."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from qbawa.errors import ConfigError
from qbawa.record import threads
from qbawa.record.context import Request, Step, current, finite, short_id
from qbawa.record.exceptions import Failure
from qbawa.record.line_format import Feedback, Hook
from qbawa.record.recorder import EXIT_S, Recorder, SampleRule, Stats
from qbawa.record.redact import Redactor
from qbawa.record.snapshot import text_of

recorder: Recorder | None = None  # None: nothing is recorded, steps just run


def configure(
    folder: str | os.PathLike[str] | None = None,
    *,
    pipeline: str = "default",
    sample_rate: float = 1.0,
    sample_rule: SampleRule | None = None,
    redact: Hook | None = None,
    redact_personal: bool = False,
    redact_patterns: Mapping[str, str] | None = None,
    follow_threads: bool = True,
    queue_bytes: int = 64 << 20,
    segment_bytes: int = 64 << 20,
    segment_age_s: float = 60.0,
) -> None:
    """Record from now on, into the journal in `folder`, else in the one that QBAWA_JOURNAL names, else not at all.

    sample_rate is the share of requests that is recorded, whole requests at a time; `sample_rule(request)` may answer
    for one request with True, False, a rate of its own, or None for `sample_rate`.
    redact(row) gets each row as a dict in the writer thread and returns what to write, or None to drop it. Built-in
    patterns remove secrets after that; redact_personal adds e-mail addresses, phone and card numbers; redact_patterns
    maps names to further regular expressions.
    follow_threads lets `threading.Thread` and `ThreadPoolExecutor` carry the current step into threads.
    Raises ConfigError for settings that make no sense; never because of the folder, which is first touched by a row.
    """
    global recorder
    if folder is not None and "://" in str(folder):
        raise ConfigError(f"The journal must be a folder on a disk, not {str(folder)!r}. The lake may live elsewhere.")
    if not 0.0 <= sample_rate <= 1.0:
        raise ConfigError(
            f"sample_rate={sample_rate!r} is not a share. Give a number from 0 (none) to 1 (all requests)."
        )
    try:
        redactor = Redactor(personal=redact_personal, patterns=redact_patterns)
    except Exception as error:
        raise ConfigError(f"redact_patterns={redact_patterns!r} has no usable regular expression: {error}") from error
    folder = folder or os.environ.get("QBAWA_JOURNAL")
    previous, recorder = recorder, None
    if previous is not None:
        previous.close()
    if not folder:
        return
    if follow_threads:
        threads.follow()
    recorder = Recorder(
        os.path.abspath(folder),  # a later change of directory must not move the journal
        pipeline=pipeline,
        sample_rate=sample_rate,
        sample_rule=sample_rule,
        redactor=redactor,
        redact=redact,
        queue_bytes=queue_bytes,
        segment_bytes=segment_bytes,
        segment_age_s=segment_age_s,
    )


def flush(timeout_s: float = 5.0) -> bool:
    """Whether all that was recorded before this call is on disk for good, waiting at most `timeout_s`.

    False also where an ended step still waits for the report of a model call. From a coroutine, call it as
    `await asyncio.to_thread(qbawa.flush)`, so that reports that the event loop delivers can arrive.
    """
    return recorder is None or recorder.flush(timeout_s)


def stats() -> Stats:
    """What this process recorded, wrote and dropped since `configure`."""
    return recorder.stats() if recorder else Stats()


def feedback(request_id: str, score: float | None = None, comment: str | None = None) -> None:
    """Record what someone thought of a request, at any later time and from any process."""
    if recorder is None:
        return
    number = finite(score)
    if score is not None and number is None:
        recorder.counts.add(
            "bad_score", f"a feedback score was a {type(score).__name__}, not a finite number; left out"
        )
    recorder.put(Feedback(short_id(request_id), number, None if comment is None else text_of(comment), time.time()))


class request:
    """One call of your pipeline: `with qbawa.request(user="u42", tags={"plan": "pro"}) as request:`, or `async with`.

    Steps inside belong to it. Without it, each outermost step is a request of its own.
    """

    def __init__(
        self,
        *,
        user: str | None = None,
        tags: Mapping[str, Any] | None = None,
        pipeline: str | None = None,
        request_id: str | None = None,
    ) -> None:
        default = recorder.pipeline if recorder else "default"
        self._request = Request(request_id, pipeline or default, user, dict(tags or {}))
        self._before: Step | Request | None = None
        self._recorder: Recorder | None = None

    @property
    def request_id(self) -> str:
        return self._request.request_id

    @property
    def tags(self) -> dict[str, Any]:
        """May be added to while the request runs; rows written later carry the addition."""
        return self._request.tags

    def feedback(self, score: float | None = None, comment: str | None = None) -> None:
        """Record what someone thought of this request."""
        if self._request.sampled:
            feedback(self.request_id, score, comment)

    def __enter__(self) -> request:
        self._before = current.get()
        self._recorder = recorder
        if self._recorder is not None:
            self._request.sampled = self._recorder.sample(self._request)
            self._request.started_at = time.time()
            self._request.latency_s = -time.perf_counter()
            current.set(self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._recorder is None:
            return
        current.set(self._before)
        self._request.latency_s += time.perf_counter()
        self._request.open = False
        if self._request.sampled:
            self._request.failure = Failure(error) if error is not None else None
            self._recorder.put(self._request)

    async def __aenter__(self) -> request:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


def _at_exit() -> None:
    if recorder is not None:
        recorder.close(EXIT_S)


def _after_fork_in_child() -> None:
    if recorder is not None:
        recorder.begin_process()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork_in_child)
if os.environ.get("QBAWA_JOURNAL"):
    configure()
