"""LangChain's chat models that reach their model by a client which is not recorded by itself.

Most of them call one that is (openai, anthropic, google-genai, litellm), and then that call is the recording. For any
other model the messages, the answer and the usage are those that LangChain has.
"""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from qbawa.record import api
from qbawa.record.exceptions import Failure
from qbawa.record.exchange import answer_of
from qbawa.record.llm_call import Framework, begin_call, end_call, framework
from qbawa.record.snapshot import described

_MARK = "_qbawa_records"


def record_package(module: ModuleType) -> None:
    """Record every chat model. `module` is `langchain_core.language_models.chat_models`; raises AttributeError if not."""
    kind: Any = module.BaseChatModel
    if _MARK in vars(kind):
        return
    generate, agenerate = kind._generate_with_cache, kind._agenerate_with_cache
    stream, astream = kind.stream, kind.astream
    kind._generate_with_cache, kind._agenerate_with_cache = _generated(generate), _agenerated(agenerate)
    kind.stream, kind.astream = _streamed(stream), _astreamed(astream)
    setattr(kind, _MARK, True)


class _Asked:
    """One call of a model through LangChain, recorded at its end unless a client beneath has done so."""

    def __init__(self, model: Any, messages: Any, kwargs: dict[str, Any]) -> None:
        self._model, self._messages, self._kwargs = model, messages, kwargs
        self._beneath = Framework()
        self._before: Any = None
        self._at, self._clock = time.time(), time.perf_counter()

    def __enter__(self) -> _Asked:
        self._before = framework.set(self._beneath)
        return self

    def __exit__(self, *_: Any) -> None:
        framework.reset(self._before)

    def end(self, message: Any = None, error: BaseException | None = None) -> None:
        recorder = api.recorder
        if recorder is None or self._beneath.recorded:
            return
        self._beneath.recorded = True  # the first end counts
        try:
            usage = getattr(message, "usage_metadata", None) or {}
            if usage.get("total_cost") == 0:
                return  # out of LangChain's cache: no model was asked
            known = self._model._get_ls_params(**self._kwargs)
            sent = {
                key: value
                for key, value in self._kwargs.items()
                if value is not None and key != "ls_structured_output_format"
            }
            for name in ("temperature", "max_tokens"):
                if known.get(f"ls_{name}") is not None:
                    sent.setdefault(name, known[f"ls_{name}"])
            name = known.get("ls_model_name") or type(self._model).__name__
            call = begin_call(name, _as_openai(self._messages), sent)
            if call is not None:
                end_call(
                    call,
                    answer_of(_as_openai([message])[0]) if message is not None else None,
                    input_tokens=usage.get("input_tokens"),
                    output_tokens=usage.get("output_tokens"),
                    started_at=self._at,
                    latency_s=time.perf_counter() - self._clock,
                    failure=Failure(error) if error is not None else None,
                )
        except Exception as problem:
            recorder.counts.add("internal_error", f"a model call of LangChain was not recorded: {described(problem)}")


def _as_openai(messages: Any) -> Any:
    convert: Any = import_module("langchain_core.messages").convert_to_openai_messages
    return convert(messages)


def _generated(generate: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(generate)
    def generated(self: Any, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        asked = _Asked(self, messages, {"stop": stop, **kwargs})
        try:
            with asked:
                result = generate(self, messages, stop=stop, run_manager=run_manager, **kwargs)
        except BaseException as error:
            asked.end(error=error)
            raise
        asked.end(_said(result))
        return result

    return generated


def _agenerated(agenerate: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(agenerate)
    async def generated(self: Any, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        asked = _Asked(self, messages, {"stop": stop, **kwargs})
        try:
            with asked:
                result = await agenerate(self, messages, stop=stop, run_manager=run_manager, **kwargs)
        except BaseException as error:
            asked.end(error=error)
            raise
        asked.end(_said(result))
        return result

    return generated


def _streamed(stream: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    @functools.wraps(stream)
    def streamed(self: Any, input: Any, config: Any = None, *, stop: Any = None, **kwargs: Any) -> Iterator[Any]:
        asked, heard = _of_stream(self, input, stop, kwargs), None
        chunks = stream(self, input, config, stop=stop, **kwargs)
        try:
            while True:
                with asked:  # current only while the model works, not while its consumer does
                    chunk = next(chunks, None)
                if chunk is None:
                    break
                heard = chunk if heard is None else heard + chunk
                yield chunk
        except GeneratorExit:
            chunks.close()  # type: ignore[attr-defined]
            raise
        except BaseException as error:
            asked.end(heard, error)
            raise
        finally:
            asked.end(heard)

    return streamed


def _astreamed(astream: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    @functools.wraps(astream)
    async def streamed(
        self: Any, input: Any, config: Any = None, *, stop: Any = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        asked, heard = _of_stream(self, input, stop, kwargs), None
        chunks = astream(self, input, config, stop=stop, **kwargs)
        try:
            while True:
                with asked:
                    chunk = await anext(chunks, None)
                if chunk is None:
                    break
                heard = chunk if heard is None else heard + chunk
                yield chunk
        except GeneratorExit:
            await chunks.aclose()  # type: ignore[attr-defined]
            raise
        except BaseException as error:
            asked.end(heard, error)
            raise
        finally:
            asked.end(heard)

    return streamed


def _of_stream(model: Any, given: Any, stop: Any, kwargs: dict[str, Any]) -> _Asked:
    try:
        messages = model._convert_input(given).to_messages()
    except Exception:  # the model itself says what is wrong with it
        messages = []
    return _Asked(model, messages, {"stop": stop, **kwargs})


def _said(result: Any) -> Any:
    return result.generations[0].message if getattr(result, "generations", None) else None
