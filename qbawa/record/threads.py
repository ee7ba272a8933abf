"""The current step, carried into threads, where context variables do not go by themselves.

Only qbawa's own variable travels; the application's context variables stay as Python has them. `follow` replaces
`threading.Thread.start` and `ThreadPoolExecutor.submit` once, on `configure`; `in_context` does it by hand.
"""

from __future__ import annotations

import concurrent.futures
import functools
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from qbawa.record.context import Request, Step, current

P = ParamSpec("P")
T = TypeVar("T")

_following = False
_start = threading.Thread.start
_submit = concurrent.futures.ThreadPoolExecutor.submit


def here() -> Step | Request | None:
    """The innermost step or request. A thread that outlives the request it was started in has left it."""
    step = current.get()
    if step is None:
        return None
    request = step.request if isinstance(step, Step) else step
    # Otherwise a worker that the first request happened to start would add to that request for ever.
    if not request.open and getattr(threading.current_thread(), "carries_step", False):
        return None
    return step


def in_context(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, to be called in any thread, as part of the step that is current now."""
    return functools.update_wrapper(functools.partial(_run_under, current.get(), function), function)


def follow() -> None:
    """Let threads and thread pools that are used inside a step carry it. Does nothing the second time."""
    global _following
    if not _following:
        _following = True
        threading.Thread.start = _start_carrying  # type: ignore[method-assign]
        concurrent.futures.ThreadPoolExecutor.submit = _submit_carrying  # type: ignore[method-assign]


@functools.wraps(_start)
def _start_carrying(self: threading.Thread) -> None:
    here = current.get()
    if here is not None and "run" not in self.__dict__:
        # On the instance, so that subclasses which override `run` are carried too.
        self.run = functools.partial(_run_thread, self, self.run, here)  # type: ignore[method-assign]
    _start(self)


@functools.wraps(_submit)  # type: ignore[arg-type]
def _submit_carrying(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    here = current.get()
    if here is None:
        return _submit(self, fn, *args, **kwargs)
    # The pool may start its worker now; the worker outlives this step and must not carry it.
    current.set(None)
    try:
        return _submit(self, _run_under, here, fn, *args, **kwargs)
    finally:
        current.set(here)


def _run_under(here: Step | Request | None, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    before = current.get()
    current.set(here)
    try:
        return function(*args, **kwargs)
    finally:
        current.set(before)


def _run_thread(thread: threading.Thread, run: Callable[[], None], here: Step | Request) -> None:
    thread.__dict__.pop("run", None)  # no cycle, and a thread that looks untouched
    thread.carries_step = True  # type: ignore[attr-defined]
    current.set(here)
    run()
