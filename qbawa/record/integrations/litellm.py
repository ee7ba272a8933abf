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
from typing import Any

from qbawa.record import api
from qbawa.record.context import Call
from qbawa.record.exceptions import Failure
from qbawa.record.exchange import answers_of, as_messages
from qbawa.record.llm_call import begin_call, end_call
from qbawa.record.recorder import GIVE_UP_S
from qbawa.record.snapshot import Snapshot, described
from qbawa.record.writer import log

_installed = False


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
    _installed = True


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
        self._sweep_at = 1_000

    def log_pre_api_call(self, model: Any, messages: Any, kwargs: dict[str, Any]) -> None:
        with contextlib.suppress(Exception):
            call_id = str(kwargs.get("litellm_call_id"))
            if call_id in self._open or call_id == "None":  # a retry by litellm itself; nothing to find it by
                return
            call = begin_call(model, messages, kwargs.get("optional_params"))
            if call is not None:
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

    async def async_log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        self._report(kwargs, response_obj, start_time, end_time)

    def _report(self, kwargs: dict[str, Any], response: Any, start_time: Any, end_time: Any) -> None:
        try:
            payload = kwargs.get("standard_logging_object")
            if not isinstance(payload, Mapping):
                return  # a chunk of a stream; the whole is reported at its end
            call = self._open.pop(str(kwargs.get("litellm_call_id")), None)
            if call is None:  # answered from a cache, or refused before it was sent
                call = begin_call(payload.get("model"), payload.get("messages"), payload.get("model_parameters"))
            if call is not None:
                _finish(call, payload)
        except Exception as problem:
            if api.recorder is not None:
                api.recorder.counts.add("internal_error", f"a litellm call was not recorded: {described(problem)}")


def _finish(call: Call, payload: Mapping[str, Any]) -> None:
    failure = None
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
        None if failure else _output(payload.get("response")),
        model=payload.get("model"),
        messages=as_messages(payload.get("messages")),
        parameters=payload.get("model_parameters"),
        # litellm reports zeros for a call that never got an answer.
        input_tokens=payload.get("prompt_tokens") or (None if failure else 0),
        output_tokens=payload.get("completion_tokens") or (None if failure else 0),
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
