"""DSPy's own engine, which speaks HTTP by itself. What DSPy leaves to litellm is recorded there.

`execute` and `aexecute` make one call, retries included; each attempt goes through the `stream` of a transport, with the
body as it is sent.
"""

from __future__ import annotations

import contextvars
import functools
import re
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from qbawa.record import api
from qbawa.record.context import Call
from qbawa.record.exchange import Exchange
from qbawa.record.listening import Ear, by_event, finish
from qbawa.record.llm_call import begin_call
from qbawa.record.snapshot import described

_MARK = "_qbawa_records"
_APIS = (
    (re.compile(r"/chat/completions$"), "openai.chat"),
    (re.compile(r"/responses$"), "openai.responses"),
    (re.compile(r"/messages$"), "anthropic.messages"),
    (
        re.compile(r"/(?:models|tunedModels)/([^/:]+):(?:generateContent|streamGenerateContent)$"),
        "google.generate_content",
    ),
)
_MODEL = re.compile(rb'"model"\s*:\s*"([^"]*)"')


class _Attempts:
    """Of one call of DSPy's: the attempt that was refused, to be gone on with should the same be sent again."""

    def __init__(self) -> None:
        self.refused: Call | None = None


_under_way: contextvars.ContextVar[_Attempts | None] = contextvars.ContextVar("qbawa_dspy", default=None)


def record_package(module: ModuleType) -> None:
    """Record every call that the engine makes. `module` is `dspy.clients.execution`; raises AttributeError if not."""
    if hasattr(module, _MARK):
        return
    lm: Any = module
    execute, aexecute = lm.execute, lm.aexecute
    sync: Any = import_module("dspy._vendor.lm15.transports._sync").StdlibTransport
    asynchronous: Any = import_module("dspy._vendor.lm15.transports._async").StdlibAsyncTransport
    stream, astream = sync.stream, asynchronous._do_stream
    lm.execute, lm.aexecute = _whole(execute), _awhole(aexecute)
    sync.stream, asynchronous._do_stream = _recorded(stream), _arecorded(astream)
    for name in ("dspy.clients.base_lm", "dspy.clients.lm"):  # where both were taken by name, if DSPy was there first
        user: Any = sys.modules.get(name)
        if getattr(user, "execute", None) is execute:
            user.execute, user.aexecute = lm.execute, lm.aexecute
    setattr(module, _MARK, True)


def _whole(execute: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(execute)
    def whole(*args: Any, **kwargs: Any) -> Any:
        attempts = _Attempts()
        before = _under_way.set(attempts)
        try:
            return execute(*args, **kwargs)
        except BaseException as error:
            if attempts.refused is not None:
                finish(attempts.refused, error)
            raise
        finally:
            _under_way.reset(before)

    return whole


def _awhole(execute: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(execute)
    async def whole(*args: Any, **kwargs: Any) -> Any:
        attempts = _Attempts()
        before = _under_way.set(attempts)
        try:
            return await execute(*args, **kwargs)
        except BaseException as error:
            if attempts.refused is not None:
                finish(attempts.refused, error)
            raise
        finally:
            _under_way.reset(before)

    return whole


def _recorded(stream: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stream)
    def recorded(transport: Any, request: Any) -> Any:
        call = _begin(request)
        if call is None:
            return stream(transport, request)
        try:
            response = stream(transport, request)
        except BaseException as error:
            _refused(call, error)
            raise
        _hear(call, response, asynchronous=False)
        return response

    return recorded


def _arecorded(stream: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stream)
    async def recorded(transport: Any, request: Any) -> Any:
        call = _begin(request)
        if call is None:
            return await stream(transport, request)
        try:
            response = await stream(transport, request)
        except BaseException as error:
            _refused(call, error)
            raise
        _hear(call, response, asynchronous=True)
        return response

    return recorded


def _begin(request: Any) -> Call | None:
    if api.recorder is None:
        return None
    try:
        attempts = _under_way.get()
        before = attempts.refused if attempts is not None else None
        if attempts is not None and before is not None:
            attempts.refused = None
            if before.exchange is not None and before.exchange.sent == request.body:
                return before
            finish(before)
        path = request.url.partition("?")[0]
        found = next(((match, name) for pattern, name in _APIS if (match := pattern.search(path))), None)
        if found is None:
            return None
        match, name = found
        in_body = _MODEL.search(request.body)
        model = match[1] if match.groups() else in_body[1].decode("utf-8", "replace") if in_body else ""
        call = begin_call(model, None, None)
        if call is not None:
            call.exchange = Exchange(name, request.body, {"model": model} if match.groups() else None)
        return call
    except Exception as problem:
        api.recorder.counts.add("internal_error", f"a model call was not recorded: {described(problem)}")
        return None


def _refused(call: Call, error: BaseException | None = None) -> None:
    attempts = _under_way.get()
    if attempts is None:
        finish(call, error)
    else:
        attempts.refused = call


def _hear(call: Call, response: Any, *, asynchronous: bool) -> None:
    try:
        if response.status >= 400:
            return _refused(call)
        if call.exchange is not None:
            call.exchange.streams = "event-stream" in (response.header("content-type") or "")
        ear, chunks = Ear(call, apart=by_event), response._chunks
        response._chunks = (ear.alistening if asynchronous else ear.listening)(lambda: chunks)()
    except Exception as problem:
        call.recorder.counts.add("internal_error", f"a reply was not listened to: {described(problem)}")
