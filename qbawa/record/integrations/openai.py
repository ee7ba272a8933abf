"""`qbawa.wrap_openai(client)`: calls of the openai package's clients, sync and async, streaming or not.

The methods of this one client are wrapped; what they return is the package's own object. Nothing is imported.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

from qbawa.record.context import Call
from qbawa.record.exceptions import Failure
from qbawa.record.llm_call import answer_of, answers_of, as_messages, begin_call, end_call
from qbawa.record.snapshot import Snapshot, described

Client = TypeVar("Client")
_MARK = "_qbawa_records"


def wrap_openai(client: Client) -> Client:
    """The same client, an `OpenAI` or `AsyncOpenAI` or one of their Azure kin, which now records its model calls.

    Covers `chat.completions.create/parse/stream`, `completions.create`, `responses.create/parse/stream`, and clients
    made from this one by `with_options` and `copy`. A streamed call is recorded when its stream ends or is closed.
    """
    if getattr(client, _MARK, False):
        return client
    any_client: Any = client
    chat = getattr(any_client, "chat", None)
    completions, responses = getattr(any_client, "completions", None), getattr(any_client, "responses", None)
    for owner in (getattr(chat, "completions", None), completions, responses):
        for name in ("create", "parse"):
            method = getattr(owner, name, None)
            if callable(method):
                setattr(owner, name, _recorded(method))
    for name in ("with_options", "copy"):
        if hasattr(any_client, name):
            setattr(any_client, name, _wrapping(getattr(any_client, name)))
    setattr(any_client, _MARK, True)
    return client


def _wrapping(make: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Any:
        return wrap_openai(make(*args, **kwargs))

    return made


def _recorded(method: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(inspect.unwrap(method)):

        @functools.wraps(method)
        async def acreate(*args: Any, **kwargs: Any) -> Any:
            call = _begin(kwargs)
            try:
                response = await method(*args, **kwargs)
            except BaseException as error:
                _fail(call, error)
                raise
            return _take(call, response)

        return acreate

    @functools.wraps(method)
    def create(*args: Any, **kwargs: Any) -> Any:
        call = _begin(kwargs)
        try:
            response = method(*args, **kwargs)
        except BaseException as error:
            _fail(call, error)
            raise
        return _take(call, response)

    return create


def _begin(kwargs: dict[str, Any]) -> Call | None:
    sent = {key: value for key, value in kwargs.items() if type(value).__name__ not in ("Omit", "NotGiven")}
    messages = sent.pop("messages", None)
    if messages is None:
        messages = sent.pop("prompt", None) if "prompt" in sent else sent.pop("input", None)
    for transport in ("extra_headers", "extra_query", "timeout"):
        sent.pop(transport, None)
    return begin_call(sent.pop("model", None), as_messages(messages), sent)


def _fail(call: Call | None, error: BaseException) -> None:
    if call is not None:
        end_call(call, failure=Failure(error))


def _take(call: Call | None, response: Any) -> Any:
    """The response, untouched but for a stream, whose chunks are noted as the application reads them."""
    if call is None:
        return response
    try:
        if hasattr(response, "_iterator"):
            heard = _Heard(call)
            asynchronous = hasattr(response, "__anext__")
            response._iterator = (_alisten if asynchronous else _listen)(response._iterator, heard)
            response.close = (_aclosing if asynchronous else _closing)(response.close, heard)
        else:
            raw = hasattr(response, "http_response") and hasattr(response, "parse")  # of `with_raw_response`
            _end(call, response.parse() if raw else response)
    except Exception as problem:
        call.recorder.counts.add("internal_error", f"an openai call was not recorded: {described(problem)}")
    return response


class _Heard:
    """What a stream has said so far, put together into one answer."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: Any = None
        self._model: str | None = None

    def chunk(self, chunk: Any) -> None:
        try:
            self._model = getattr(chunk, "model", None) or self._model
            self._usage = getattr(chunk, "usage", None) or self._usage
            for choice in getattr(chunk, "choices", None) or ():
                self._choice(choice)
            if getattr(chunk, "type", None) in ("response.completed", "response.incomplete", "response.failed"):
                _end(self._call, chunk.response)
        except Exception as problem:
            self._call.recorder.counts.add(
                "internal_error", f"a chunk of an openai stream was lost: {described(problem)}"
            )

    def _choice(self, choice: Any) -> None:
        answer = self._choices.setdefault(choice.index, {"role": "assistant", "content": None})
        delta = getattr(choice, "delta", None)
        text = getattr(choice, "text", None) if delta is None else delta.content
        if text:
            answer["content"] = (answer["content"] or "") + text
        for part in getattr(delta, "tool_calls", None) or ():
            calls = answer.setdefault("tool_calls", [])
            while len(calls) <= part.index:
                calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
            calls[part.index]["id"] = part.id or calls[part.index]["id"]
            if part.function:
                calls[part.index]["function"]["name"] += part.function.name or ""
                calls[part.index]["function"]["arguments"] += part.function.arguments or ""

    def finish(self, error: BaseException | None = None) -> None:
        answers = [answer_of(answer) for _, answer in sorted(self._choices.items())]
        end_call(
            self._call,
            answers[0] if len(answers) == 1 else answers or None,
            model=self._model,
            input_tokens=getattr(self._usage, "prompt_tokens", None),
            output_tokens=getattr(self._usage, "completion_tokens", None),
            failure=Failure(error) if error is not None else None,
        )


def _listen(chunks: Iterator[Any], heard: _Heard) -> Iterator[Any]:
    try:
        for chunk in chunks:
            heard.chunk(chunk)
            yield chunk
    except GeneratorExit:
        raise
    except BaseException as error:
        heard.finish(error)
        raise
    finally:
        heard.finish()


async def _alisten(chunks: AsyncIterator[Any], heard: _Heard) -> AsyncIterator[Any]:
    try:
        async for chunk in chunks:
            heard.chunk(chunk)
            yield chunk
    except GeneratorExit:
        raise
    except BaseException as error:
        heard.finish(error)
        raise
    finally:
        heard.finish()


def _closing(close: Callable[[], None], heard: _Heard) -> Callable[[], None]:
    @functools.wraps(close)
    def closed() -> None:
        close()
        heard.finish()

    return closed


def _aclosing(close: Callable[[], Any], heard: _Heard) -> Callable[[], Any]:
    @functools.wraps(close)
    async def closed() -> None:
        await close()
        heard.finish()

    return closed


def _end(call: Call, response: Any) -> None:
    """Take a chat completion, a text completion or an answer of the Responses API."""
    whole = Snapshot(response).value
    if not isinstance(whole, dict):
        return end_call(call, whole)
    usage = whole.get("usage") or {}
    choices = whole.get("choices")
    output = answers_of(choices) if choices else _said(whole.get("output"))
    end_call(
        call,
        output,
        model=whole.get("model"),
        input_tokens=usage.get("prompt_tokens", usage.get("input_tokens")),
        output_tokens=usage.get("completion_tokens", usage.get("output_tokens")),
    )


def _said(items: Any) -> Any:
    """The text of a Responses API answer; all its items where they say more than text can."""
    items = items if isinstance(items, list) else []
    messages = [item for item in items if item.get("type") != "reasoning"]
    parts = [part for item in messages for part in item.get("content") or [item]]
    if parts and all(part.get("type") == "output_text" for part in parts):
        return "".join(part.get("text", "") for part in parts)
    return items
