"""`qbawa.record_litellm()`: every litellm call of the process, through litellm's own `CustomLogger`.

litellm reports from other threads and tasks, often after the step has ended. The hook `log_pre_api_call` still runs
where the call is made, so that is where a call is tied to its step; the report finds it by litellm's call id.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from qbawa.record import api
from qbawa.record.context import Call, short_id
from qbawa.record.exceptions import Failure
from qbawa.record.exchange import Exchange, answers_of, as_messages, thought
from qbawa.record.integrations import stainless
from qbawa.record.llm_call import begin_call, end_call
from qbawa.record.recorder import GIVE_UP_S
from qbawa.record.snapshot import WHOLE_CHARS, WHOLE_NODES, Snapshot, described, text_of
from qbawa.record.writer import log

_installed = False
_NAMES = ("generation_name", "step", "trace_name", "task")  # of metadata, under which applications name a call
_OF_A_REQUEST = ("tools", "tool_choice", "response_format", "temperature", "top_p", "max_tokens", "stop", "seed", "n")
_REMEMBERED = 10_000  # reports, to know a second one by
_TRANSPORT = ("stream", "stream_options", "max_retries", "timeout", "extra_headers")


def record_litellm(folder: str | os.PathLike[str] | None = None) -> None:
    """Record every litellm call from now on: sync, async, streaming, in any thread. Calling it again changes nothing.

    With `folder` this is `configure(folder)` as well, so that one line is enough.
    Imports litellm, which takes seconds; call it where the application imports litellm anyway.
    """
    global _installed
    if folder is not None:
        api.configure(folder)
    if api.recorder is None:
        log.info("qbawa: litellm calls are not recorded: no folder was given and QBAWA_JOURNAL is not set")
    if _installed:
        return
    import litellm
    from litellm.integrations.custom_logger import CustomLogger

    class Logger(_Hooks, CustomLogger):
        pass

    logger = Logger()
    litellm.callbacks.append(logger)
    # Where litellm copies it at the first call anyway; so that an app which sets `litellm.callbacks` later keeps it.
    for name in ("input_callback", "success_callback", "failure_callback"):
        getattr(litellm, name).append(logger)
    for name in ("_async_success_callback", "_async_failure_callback"):
        getattr(litellm, name, []).append(logger)
    stainless.leave_to("litellm")
    _installed = True


def __getattr__(name: str) -> Any:
    """`litellm_proxy`, which needs litellm to be made: `callbacks: qbawa.litellm_proxy` in the config of its proxy."""
    if name != "litellm_proxy":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from litellm.integrations.custom_logger import CustomLogger

    class ProxyLogger(_ProxyHooks, CustomLogger):
        pass

    if api.recorder is None:
        log.error("qbawa: the calls of this proxy are not recorded: set QBAWA_JOURNAL to a folder")
    stainless.leave_to("litellm")
    logger = ProxyLogger()
    globals().update({name: logger, "_installed": True})  # `instrument` in the same process would record it all again
    return logger


def drain(timeout_s: float) -> None:
    """At the end of the process: let litellm deliver the reports of async calls whose event loop has ended."""
    if not _installed:
        return
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

    # By itself litellm delivers at most 200 of them at exit.
    asyncio.run(asyncio.wait_for(GLOBAL_LOGGING_WORKER.flush(), timeout_s))


class _Hooks:
    """The methods that litellm calls. None of them may raise or take long."""

    def __init__(self) -> None:
        super().__init__()
        # No lock, which a fork could leave locked: single operations on a dict are atomic.
        self._open: dict[str, Call] = {}
        self._reported: dict[str, None] = {}  # call ids, in the order of their reports
        self._sweep_at = 1_000

    def log_pre_api_call(self, model: Any, messages: Any, kwargs: dict[str, Any]) -> None:
        with contextlib.suppress(Exception):
            call_id = str(kwargs.get("litellm_call_id"))
            if call_id in self._open or call_id == "None":  # a retry by litellm itself; nothing to find it by
                return
            asked = _asked(messages, kwargs)
            call = begin_call(model, asked.messages, asked.parameters)
            if call is not None:
                call.exchange = asked.exchange
                self._open[call_id] = call
            if len(self._open) > self._sweep_at:  # of streams that were left early
                long_ago = time.time() - GIVE_UP_S
                for known, open_call in list(self._open.items()):
                    if open_call.done and open_call.started_at < long_ago:
                        self._open.pop(known, None)
                self._sweep_at = 2 * len(self._open) + 1_000

    def log_post_api_call(self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any) -> None:
        """Note a sync call's response where it arrives, for litellm drops reports once 10,000 are waiting."""
        with contextlib.suppress(Exception):
            raw = kwargs.get("original_response")
            call = self._open.get(str(kwargs.get("litellm_call_id")))
            if call is not None and call.otherwise is None and isinstance(raw, str) and '"choices"' in raw:
                call.latency_s = max(0.0, time.time() - call.started_at)
                call.otherwise = functools.partial(_finish_unreported, call, raw)

    async def async_post_call_success_deployment_hook(self, request_data: Any, response: Any, call_type: Any) -> None:
        """Note an async call's response where it arrives: litellm cancels reports under way when a loop ends."""
        with contextlib.suppress(Exception):
            call = self._open.get(str(request_data.get("litellm_call_id")))
            if call is not None:
                call.latency_s = max(0.0, time.time() - call.started_at)
                call.otherwise = functools.partial(_finish_unreported, call, response)

    def log_success_event(self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any) -> None:
        self._report(kwargs, response_obj, start_time, end_time)

    def log_failure_event(self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any) -> None:
        self._report(kwargs, response_obj, start_time, end_time)

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        self._report(kwargs, response_obj, start_time, end_time)

    def _describe(self, call: Call, payload: Mapping[str, Any]) -> None:
        """Note what else the report says."""

    async def async_log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        self._report(kwargs, response_obj, start_time, end_time)

    def _report(self, kwargs: dict[str, Any], response: Any, start_time: Any, end_time: Any) -> None:
        try:
            payload = kwargs.get("standard_logging_object")
            if not isinstance(payload, Mapping):
                return  # a chunk of a stream; the whole is reported at its end
            call_id = str(kwargs.get("litellm_call_id"))
            call = self._open.pop(call_id, None)
            if call is None:  # answered from a cache, or refused before it was sent
                if call_id in self._reported:
                    return  # litellm reports some streams of the Responses API twice
                call = begin_call(
                    payload.get("model"), payload.get("messages"), _parameters(payload.get("model_parameters"))
                )
            if call is not None:
                self._describe(call, payload)
                self._reported[call_id] = None
                while len(self._reported) > _REMEMBERED:
                    self._reported.pop(next(iter(self._reported)), None)
                _finish(call, payload)
        except Exception as problem:
            if api.recorder is not None:
                api.recorder.counts.add("internal_error", f"a litellm call was not recorded: {described(problem)}")


class _ProxyHooks(_Hooks):
    """The hooks within litellm's proxy: also who asked, and what the proxy refused before it asked any model."""

    def _describe(self, call: Call, payload: Mapping[str, Any]) -> None:
        metadata = _mapping(payload.get("metadata"))
        named = {**metadata, **_mapping(metadata.get("requester_metadata"))}
        name = next((named[key] for key in _NAMES if isinstance(named.get(key), str) and named[key]), None)
        if name:
            call.name = text_of(name)[:256]
        request = call.request
        session = payload.get("session_id") or payload.get("trace_id")
        if session:
            request.request_id = short_id(session)
        user = payload.get("end_user") or metadata.get("user_api_key_end_user_id")
        request.user = text_of(user) if user else request.user
        labels = payload.get("request_tags")
        request.tags.update({text_of(label): True for label in labels if label} if isinstance(labels, list) else {})
        about = {
            "group": payload.get("model_group"),
            "provider": payload.get("custom_llm_provider"),
            "key": metadata.get("user_api_key_alias"),
            "team": metadata.get("user_api_key_team_alias"),
        }
        request.tags.update((key, value) for key, value in about.items() if value)

    async def async_post_call_failure_hook(
        self, request_data: Any, original_exception: Any, user_api_key_dict: Any, traceback_str: Any = None
    ) -> None:
        """A request that failed within the proxy. One that failed at its model is reported as any other call."""
        with contextlib.suppress(Exception):
            call_id = str(request_data.get("litellm_call_id"))
            if call_id in self._open or call_id in self._reported:
                return
            sent = {key: request_data[key] for key in _OF_A_REQUEST if key in request_data}
            call = begin_call(request_data.get("model") or "", request_data.get("messages"), sent)
            if call is not None:
                self._reported[call_id] = None
                user = getattr(user_api_key_dict, "end_user_id", None) or request_data.get("user")
                call.request.user = text_of(user) if user else None
                end_call(call, failure=Failure(original_exception))


class _Asked(NamedTuple):
    messages: Any
    parameters: dict[str, Any]
    exchange: Exchange | None


def _asked(messages: Any, kwargs: dict[str, Any]) -> _Asked:
    """What a call asks: messages and parameters as of a chat completion, or the body of another API that it was made by."""
    parameters = _parameters(kwargs.get("optional_params"))
    body = (kwargs.get("additional_args") or {}).get("complete_input_dict")
    kind = str(kwargs.get("call_type"))
    if kind.endswith("responses") and isinstance(body, Mapping):
        if "input" not in body:  # a model without that API, asked by a chat completion
            return _Asked(kwargs.get("input") or messages, parameters, None)
        return _Asked(None, {}, Exchange("openai.responses", Snapshot(body, WHOLE_CHARS, WHOLE_NODES).value))
    if kind == "anthropic_messages" and isinstance(body, Mapping) and "max_tokens" in body:
        return _Asked(None, {}, Exchange("anthropic.messages", Snapshot(body, WHOLE_CHARS, WHOLE_NODES).value))
    return _Asked(messages, parameters, None)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _parameters(given: Any) -> dict[str, Any]:
    kept = {key: value for key, value in (given or {}).items() if key not in _TRANSPORT}
    if not kept.get("extra_body"):
        kept.pop("extra_body", None)
    return kept


def _hidden(messages: Any) -> bool:
    """Whether the application told litellm to keep questions and answers out of its logs."""
    first = messages[0] if isinstance(messages, list) and messages else None
    return isinstance(first, Mapping) and first.get("content") == "redacted-by-litellm"


def _finish(call: Call, payload: Mapping[str, Any]) -> None:
    failure, response, exchange = None, payload.get("response"), call.exchange
    counted = bool(payload.get("prompt_tokens"))
    if exchange is not None:
        if _hidden(payload.get("messages")):
            call.exchange = None
        elif isinstance(response, Mapping) and not response.get("choices"):
            exchange.heard, response = response or None, None
    choices = response.get("choices") if isinstance(response, Mapping) else None
    call.reasoning = thought(choices) if isinstance(choices, list) else None
    if payload.get("status") == "failure":
        about = payload.get("error_information") or {}
        failure = Failure.reported(
            str(about.get("error_class") or "Error"),
            str(about.get("error_message") or payload.get("error_str") or ""),
            str(about.get("traceback") or ""),
        )
    start, end = payload.get("startTime"), payload.get("endTime")
    end_call(
        call,
        None if failure or response is None else _output(response),
        model=payload.get("model"),
        # What litellm reports is what was asked, with images cut short: of use only where it was told to hide it all.
        messages=as_messages(payload.get("messages")) if _hidden(payload.get("messages")) else None,
        # Zeros mean that nobody counted: a call that never got an answer, a stream without usage.
        input_tokens=payload.get("prompt_tokens") if counted else None,
        output_tokens=payload.get("completion_tokens") if counted else None,
        # None where litellm knows no price, which is not 0.
        cost_usd=None if failure and not payload.get("response_cost") else payload.get("response_cost"),
        started_at=start,
        latency_s=end - start if isinstance(start, float) and isinstance(end, float) else None,
        failure=failure,
    )


def _finish_unreported(call: Call, response: Any) -> None:
    whole = json.loads(response) if isinstance(response, str) else Snapshot(response).value
    usage = whole.get("usage") or {}
    hidden = getattr(response, "_hidden_params", None) or {}
    end_call(
        call,
        _output(whole),
        input_tokens=usage.get("prompt_tokens"),
        output_tokens=usage.get("completion_tokens"),
        cost_usd=hidden.get("response_cost"),  # litellm has yet to work it out for a sync call
        latency_s=call.latency_s,
    )


def _output(response: Any) -> Any:
    """The answer of a chat or text completion; of anything else, such as embeddings, the response as it is."""
    choices = response.get("choices") if isinstance(response, Mapping) else None
    return answers_of(choices) if choices else response
