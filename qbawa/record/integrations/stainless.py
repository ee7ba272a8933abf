"""Clients that Stainless generates, such as those of the packages `openai` and `anthropic`.

Whatever their many methods are called, each call goes through `request` of one base class, retries included, and each
reply through `_process_response`. What is recorded is what went over the wire there: the body as it was sent, with
classes turned to schemas and `extra_body` merged in, and the bytes of the reply as the application reads them. What the
application gets is the package's own object.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from qbawa.record import api
from qbawa.record.context import Call
from qbawa.record.exchange import Exchange
from qbawa.record.listening import Ear, by_event, finish
from qbawa.record.llm_call import begin_call, end_call
from qbawa.record.snapshot import described

_APIS = (
    ("/chat/completions", "openai.chat"),
    ("/completions", "openai.completions"),
    ("/responses", "openai.responses"),
    ("/v1/messages", "anthropic.messages"),
)
_MARK = "_qbawa_records"
_FRAMES = 40  # of a call within litellm, those between litellm and us are about 15

_under_way: contextvars.ContextVar[Call | None] = contextvars.ContextVar("qbawa_request", default=None)


def record_package(module: ModuleType) -> None:
    """Record every client of a package, made before or after, whose base classes are in `module`.

    Calling it again changes nothing. Raises AttributeError where the module has no such classes.
    """
    for name in ("SyncAPIClient", "AsyncAPIClient"):
        kind: Any = getattr(module, name)
        if _MARK not in vars(kind):
            request, process = kind.request, kind._process_response
            asynchronous = name.startswith("Async")
            kind.request = (_arecorded if asynchronous else _recorded)(request)
            kind._process_response = _listening(process)
            setattr(kind, _MARK, True)


def record_client(client: Any) -> None:
    """Record this one client, unless its whole package is recorded."""
    if getattr(client, _MARK, False):
        return
    asynchronous = any(kind.__name__ == "AsyncAPIClient" for kind in type(client).__mro__)
    client.request = (_arecorded if asynchronous else _recorded)(client.request)
    client._process_response = _listening(client._process_response)
    for name in ("with_options", "copy"):
        setattr(client, name, _recording(getattr(client, name)))
    setattr(client, _MARK, True)


def _recording(make: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Any:
        client = make(*args, **kwargs)
        record_client(client)
        return client

    return made


def _recorded(request: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(request)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        call = _begin(args, kwargs)
        if call is None and _under_way.get() is None:
            return request(*args, **kwargs)
        before = _under_way.set(call)  # None too: a client that fetches a token meanwhile gives no answer of the model
        try:
            result = request(*args, **kwargs)
        except BaseException as error:
            if call is not None:
                _fail(call, error)
            raise
        finally:
            _under_way.reset(before)
        if call is not None:
            _end(call, result)
        return result

    return recorded


def _arecorded(request: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(request)
    async def recorded(*args: Any, **kwargs: Any) -> Any:
        call = _begin(args, kwargs)
        if call is None and _under_way.get() is None:
            return await request(*args, **kwargs)
        before = _under_way.set(call)  # None too: a client that fetches a token meanwhile gives no answer of the model
        try:
            result = await request(*args, **kwargs)
        except BaseException as error:
            if call is not None:
                _fail(call, error)
            raise
        finally:
            _under_way.reset(before)
        if call is not None:
            _end(call, result)
        return result

    return recorded


def _listening(process: Callable[..., Any]) -> Callable[..., Any]:
    """`_process_response`, of a coroutine too, since it is only looked at what goes in."""

    @functools.wraps(process)
    def listening(*args: Any, **kwargs: Any) -> Any:
        call = _under_way.get()
        if call is not None:
            try:
                _hear(call, kwargs["response"])
            except Exception as problem:
                _lost(call, problem)
        return process(*args, **kwargs)

    return listening


def _begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    if api.recorder is None:
        return None
    try:
        options = next(value for value in (*args, *kwargs.values()) if hasattr(value, "json_data"))
        if options.method.lower() != "post":
            return None
        path = options.url.partition("?")[0]
        name = next((name for end, name in _APIS if path.endswith(end)), None)
        if name is None or _beneath_litellm():
            return None
        body = options.json_data
        model = body.get("model") if isinstance(body, Mapping) else None
        call = begin_call(model, None, None)
        if call is not None:
            call.exchange = Exchange(name, body, _beside(options, model))
        return call
    except Exception as problem:
        api.recorder.counts.add("internal_error", f"a model call was not recorded: {described(problem)}")
        return None


def _beside(options: Any, model: Any) -> dict[str, Any]:
    """What belongs to a request and does not travel in its body: betas, and the model where a cloud has it in the URL."""
    beside = {"model": model} if model else {}
    headers = options.headers
    if isinstance(headers, Mapping):
        betas = next((value for name, value in headers.items() if name.lower() == "anthropic-beta"), None)
        if isinstance(betas, str) and betas:
            beside["betas"] = [beta.strip() for beta in betas.split(",")]
    return beside


def _beneath_litellm() -> bool:
    """Whether litellm makes this call, and reports it itself, with its cost."""
    if "litellm" not in _reported_above:
        return False
    frame, left = sys._getframe(2), _FRAMES
    while frame is not None and left:
        if frame.f_globals.get("__name__", "").partition(".")[0] == "litellm":
            return True
        frame, left = frame.f_back, left - 1  # type: ignore[assignment]
    return False


_reported_above: set[str] = set()


def leave_to(package: str) -> None:
    """From now on calls that this package makes through a client are recorded by it alone."""
    _reported_above.add(package)


def _hear(call: Call, response: Any) -> None:
    """Keep what was sent, and the reply: its bytes, or of a stream each piece when the application reads it."""
    exchange = call.exchange
    if exchange is None or call.done:
        return
    with contextlib.suppress(Exception):  # a body that was streamed out is not there
        exchange.sent = response.request.content
    try:
        exchange.heard = response.content
        exchange.streams = "event-stream" in response.headers.get("content-type", "")
        if exchange.streams:
            exchange.heard = [exchange.heard]
        return
    except Exception:  # httpx.ResponseNotRead, of a version that we need not know
        pass
    exchange.streams = "json" not in response.headers.get("content-type", "")
    asynchronous = hasattr(response.stream, "__aiter__") and not hasattr(response.stream, "__iter__")
    ear = Ear(call, apart=by_event)
    if asynchronous:
        response.aiter_bytes, response.aclose = ear.alistening(response.aiter_bytes), ear.aclosing(response.aclose)
    else:
        response.iter_bytes, response.close = ear.listening(response.iter_bytes), ear.closing(response.close)


def _fail(call: Call, error: BaseException) -> None:
    exchange = call.exchange
    if exchange is not None and not isinstance(exchange.sent, bytes):
        with contextlib.suppress(Exception):  # refused by the server, or never there: the error holds the request
            exchange.sent = error.request.content  # type: ignore[attr-defined]
    finish(call, error)


def _end(call: Call, result: Any) -> None:
    """The call has returned. A stream ends later, when it has been read."""
    exchange = call.exchange
    if exchange is None or call.otherwise is not None:
        return
    if exchange.heard is None:  # answered by someone's middleware instead of the provider
        exchange.heard = result if hasattr(result, "model_dump") else None
    end_call(call)


def _lost(call: Call, problem: BaseException) -> None:
    call.recorder.counts.add("internal_error", f"a reply was not listened to: {described(problem)}")
