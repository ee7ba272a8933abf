"""The package `google-genai`: every client, the Gemini API and Vertex AI, sync, `aio`, streaming or not.

Whatever calls a model (`models`, chats, function calling by itself) goes through `_request` or `_async_request` of one
class, retries included, with the body as it is sent.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

from qbawa.record import api
from qbawa.record.context import Call
from qbawa.record.exchange import Exchange
from qbawa.record.listening import Ear, finish
from qbawa.record.llm_call import begin_call
from qbawa.record.snapshot import WHOLE_CHARS, WHOLE_NODES, Snapshot, described

_MARK = "_qbawa_records"
_MODEL = re.compile(r"/((?:models|tunedModels|endpoints)/[^/:?]+):(?:generateContent|streamGenerateContent)\b")


def record_package(module: ModuleType) -> None:
    """Record every client, made before or after. `module` is `google.genai._api_client`; raises AttributeError if not."""
    kind: Any = module.BaseApiClient
    if _MARK not in vars(kind):
        request, arequest = kind._request, kind._async_request
        kind._request, kind._async_request = _recorded(request), _arecorded(arequest)
        setattr(kind, _MARK, True)


def _recorded(request: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(request)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        call = _begin(args, kwargs)
        if call is None:
            return request(*args, **kwargs)
        try:
            response = request(*args, **kwargs)
        except BaseException as error:
            finish(call, error)
            raise
        _hear(call, response)
        return response

    return recorded


def _arecorded(request: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(request)
    async def recorded(*args: Any, **kwargs: Any) -> Any:
        call = _begin(args, kwargs)
        if call is None:
            return await request(*args, **kwargs)
        try:
            response = await request(*args, **kwargs)
        except BaseException as error:
            finish(call, error)
            raise
        _hear(call, response)
        return response

    return recorded


def _begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    if api.recorder is None:
        return None
    try:
        request = kwargs["http_request"] if "http_request" in kwargs else args[1]
        found = _MODEL.search(request.url)
        if found is None:
            return None
        model = found[1].removeprefix("models/")
        call = begin_call(model, None, None)
        if call is not None:
            # A copy: parts of the body are the application's own, and it may change them while it goes on.
            body = (
                request.data
                if isinstance(request.data, bytes)
                else Snapshot(request.data, WHOLE_CHARS, WHOLE_NODES).value
            )
            call.exchange = Exchange("google.generate_content", body, {"model": model})
        return call
    except Exception as problem:
        api.recorder.counts.add("internal_error", f"a model call was not recorded: {described(problem)}")
        return None


def _hear(call: Call, response: Any) -> None:
    exchange = call.exchange
    if exchange is None:
        return
    try:
        said = response.response_stream
        if isinstance(said, list):
            exchange.heard = said[0] if said else None
            finish(call)
            return
        exchange.streams = True
        ear = Ear(call, kept=lambda segment: Snapshot(segment, WHOLE_CHARS, WHOLE_NODES).value)
        response.segments = ear.listening(response.segments)
        response.async_segments = ear.alistening(response.async_segments)
    except Exception as problem:
        call.recorder.counts.add("internal_error", f"a reply was not listened to: {described(problem)}")
