"""What is running right now: a request, steps inside it, model calls inside those.

One context variable holds the innermost step or request. Tasks inherit it; `qbawa.record.threads` carries it further.
"""

from __future__ import annotations

import contextvars
import itertools
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from qbawa.record.exceptions import Failure
from qbawa.record.snapshot import MARK, WHOLE_CHARS, WHOLE_NODES, Snapshot, described, text_of

if TYPE_CHECKING:
    from qbawa.record.exchange import Exchange


class ReasonCounts(Protocol):
    def add(self, reason: str, message: str) -> None: ...


class Sink(Protocol):
    """Where requests, steps and calls go once they have ended: the process's recorder. Nothing in it raises or blocks."""

    pipeline: str

    @property
    def counts(self) -> ReasonCounts: ...

    def put(self, item: Any) -> None:
        """Take over what has ended."""

    def sample(self, request: Request) -> bool:
        """Whether this request is recorded."""

    def hold(self, step: Step) -> None:
        """The step has ended and waits for its calls."""

    def release(self, step: Step) -> None:
        """All calls of a held step have reported."""

    def opened(self, call: Call) -> None:
        """A model call has begun."""

    def closed(self, call: Call) -> None:
        """A model call has reported."""


class Request:
    """One call of the user's pipeline. `tags` may be changed while it runs."""

    __slots__ = (
        "request_id", "pipeline", "user", "tags", "sampled", "implicit", "open", "started_at", "latency_s", "failure",
    )  # fmt: skip
    size = 500  # roughly, of the row

    def __init__(
        self, request_id: str | None, pipeline: str, user: str | None = None, tags: dict[str, Any] | None = None
    ) -> None:
        self.request_id = short_id(request_id) if request_id else new_request_id()
        self.pipeline = text_of(pipeline)
        self.user = user if user is None else text_of(user)
        self.tags: dict[str, Any] = dict(tags) if tags else {}
        self.sampled = self.open = True
        self.implicit = False  # opened by its outermost step or call rather than by `qbawa.request`
        self.started_at = time.time()
        self.latency_s = 0.0
        self.failure: Failure | None = None


class Step:
    """One execution of one step. Goes to the recorder once it has ended and its model calls have reported."""

    __slots__ = (
        "recorder", "request", "recording_id", "parent_id", "name", "inputs", "output", "started_at", "latency_s",
        "failure", "calls", "ended", "written", "cut", "size", "process", "_clock",
    )  # fmt: skip

    def __init__(
        self, recorder: Sink, request: Request, parent_id: str | None, name: str, inputs: dict[str, Any]
    ) -> None:
        self.recorder = recorder
        self.request = request
        self.recording_id = new_recording_id()
        self.parent_id = parent_id
        self.name = name
        snapshot = Snapshot(inputs)
        self.inputs = snapshot.value
        self.size = snapshot.size + 300
        self.cut: tuple[str, ...] = ("inputs",) if snapshot.cut else ()
        self.output: Any = None
        self.failure: Failure | None = None
        self.calls: list[Call] | None = None
        self.ended = self.written = False
        self.process = process
        self.latency_s = 0.0
        self.started_at = time.time()
        self._clock = time.perf_counter()

    @property
    def opaque(self) -> bool:
        """Whether the output is an object of which nothing but its type could be recorded, such as a stream."""
        output = self.output
        return type(output) is dict and output.get(MARK) == "object"

    def end(self, output: Any = None, error: BaseException | None = None, cut: bool = False) -> None:
        """Take the outcome and hand over to the recorder. Never raises."""
        try:
            self.latency_s = time.perf_counter() - self._clock
            if self.parent_id is None and self.request.implicit:
                self.request.open = False
            if self.process != process:
                return  # the parent of this fork records it
            if error is not None:
                self.failure = Failure(error)
                self.size += self.failure.size
            elif output is not None:
                snapshot = Snapshot(output)
                self.output = snapshot.value
                self.size += snapshot.size
                if snapshot.cut or cut:
                    self.cut += ("output",)
            if self.calls is None:
                self.ended = True
                self.recorder.put(self)
                return
            with calls_lock:
                self.ended = True
            self.recorder.hold(self)
        except Exception as problem:
            self.recorder.counts.add("internal_error", f"step {self.name!r} was not recorded: {described(problem)}")


class Call:
    """One model call. Part of its step while that is not written; a row of its own afterwards, or outside any step."""

    __slots__ = (
        "recorder", "request", "owner", "recording_id", "parent_id", "name", "model", "inputs", "messages",
        "parameters", "output", "input_tokens", "output_tokens", "cost_usd", "started_at", "latency_s", "failure",
        "done", "cut", "size", "process", "otherwise", "exchange", "body", "reasoning", "api",
    )  # fmt: skip

    def __init__(self, recorder: Sink, here: Step | Request, model: str, messages: Any, parameters: Any) -> None:
        self.recorder = recorder
        self.owner = here if isinstance(here, Step) else None
        self.request = here.request if isinstance(here, Step) else here
        self.recording_id = new_recording_id()
        self.parent_id = self.owner.recording_id if self.owner else None
        self.name = f"{self.owner.name}.llm" if self.owner else "llm"
        self.model = model
        self.size = 300
        self.cut: tuple[str, ...] = ()
        self.inputs: dict[str, Any] = {}
        self.messages = self._keep("messages", messages)
        self.parameters = self._keep("parameters", parameters)
        self.output: Any = None
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.cost_usd: float | None = None
        self.failure: Failure | None = None
        self.done = False
        self.otherwise: Callable[[], None] | None = None  # ends the call from what is known, should no report come
        self.exchange: Exchange | None = None  # what went over the wire, where the client let us see it
        self.body: dict[str, Any] | None = None  # of an API other than chat completions: both bodies, for the journal
        self.reasoning: str | None = None
        self.api: str | None = None  # by which the call was made, where that is known
        self.process = process
        self.started_at = time.time()
        self.latency_s = 0.0
        if self.owner:
            with calls_lock:
                if self.owner.calls is None:
                    self.owner.calls = []
                self.owner.calls.append(self)
        recorder.opened(self)

    def end(
        self,
        output: Any = None,
        *,
        model: str | None = None,
        messages: Any = None,
        parameters: Any = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cost_usd: float | None = None,
        started_at: float | None = None,
        latency_s: float | None = None,
        failure: Failure | None = None,
    ) -> None:
        """Take the outcome, and anything known better than at the start. The first outcome counts."""
        if self.done or self.process != process:
            return
        self.model = model or self.model
        if messages is not None:
            self.messages = self._keep("messages", messages)
        if parameters is not None:
            self.parameters = self._keep("parameters", parameters)
        self.output = self._keep("output", output)
        self.input_tokens, self.output_tokens = _count(input_tokens), _count(output_tokens)
        self.cost_usd = _amount(cost_usd)
        self.latency_s = max(0.0, time.time() - self.started_at if latency_s is None else latency_s)
        self.started_at = started_at or (time.time() - self.latency_s)
        self.failure = failure
        if self.exchange is not None:
            self.size += self.exchange.size
        self.recorder.closed(self)
        owner = self.owner
        if owner is None:
            self.done = True
            self.recorder.put(self)
            return
        with calls_lock:
            self.done = True
            late = owner.written
            complete = owner.ended and not late and all(call.done for call in owner.calls or ())
        if late:
            self.recorder.put(self)
        elif complete:
            self.recorder.release(owner)

    def settle(self) -> None:
        """Read what went over the wire, in the writer thread, so that the application need not wait for it."""
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        try:
            said = exchange.read()
        except Exception as problem:
            self.recorder.counts.add("internal_error", f"a model call could not be read: {described(problem)}")
            return
        self.model = said.model or self.model
        self.failure = self.failure or said.failure
        self.body, self.reasoning, self.api = said.call, said.reasoning, exchange.api
        self.messages, self.parameters = said.messages, said.parameters
        if said.call is None:
            self.output = said.output
        if self.input_tokens is None:
            self.input_tokens = _count(said.input_tokens)
        if self.output_tokens is None:
            self.output_tokens = _count(said.output_tokens)

    def _keep(self, field: str, value: Any) -> Any:
        snapshot = Snapshot(value, WHOLE_CHARS, WHOLE_NODES)
        self.size += snapshot.size
        if snapshot.cut and field not in self.cut:
            self.cut += (field,)
        return snapshot.value


def _count(value: Any) -> int | None:
    number = finite(value)
    return int(number) if number is not None and 0 <= number < 2**53 else None


def _amount(value: Any) -> float | None:
    number = finite(value)
    return number if number is not None and number >= 0 else None


def finite(value: Any) -> float | None:
    """A number as a finite float; None for anything else."""
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e300 else None


def short_id(request_id: Any) -> str:
    """An id of the application's as the text that readers of the journal accept."""
    return text_of(request_id)[:256]


def new_request_id() -> str:
    """Random, so that an id that a browser sends feedback for cannot be guessed from another one."""
    return f"r_{os.urandom(12).hex()}"


def new_recording_id() -> str:
    """Unique: a random prefix per process and a counter, several times cheaper than a UUID."""
    return f"{_prefix}{next(_counter):x}"


def _begin_process() -> None:
    global process, calls_lock, _prefix, _counter
    process, calls_lock = os.getpid(), threading.RLock()
    _prefix, _counter = f"s_{os.urandom(8).hex()}_", itertools.count(1)


process = 0  # changes at a fork
calls_lock = threading.RLock()  # guards Step.calls, Step.ended, Step.written and Call.done against each other
_prefix = ""
_counter = itertools.count(1)
_begin_process()
os.register_at_fork(after_in_child=_begin_process)


def implicit_request(recorder: Sink) -> Request:
    """The request of a step or call that runs outside any."""
    request = Request(None, recorder.pipeline)
    request.implicit = True
    request.sampled = recorder.sample(request)
    return request


# The innermost step or request; None outside of any.
current: contextvars.ContextVar[Step | Request | None] = contextvars.ContextVar("qbawa_current", default=None)
