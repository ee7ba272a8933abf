"""Model calls, by hand: for clients that neither litellm nor the openai package stands behind."""

from __future__ import annotations

import contextvars
from collections.abc import Mapping, Sequence
from typing import Any

from qbawa.record import api, threads
from qbawa.record.context import Call, Step, implicit_request
from qbawa.record.exceptions import Failure
from qbawa.record.exchange import as_messages
from qbawa.record.snapshot import described, text_of


class Framework:
    """A framework's call of a model, under way. `recorded` once a client beneath it has begun a call of its own."""

    __slots__ = ("recorded",)

    def __init__(self) -> None:
        self.recorded = False


framework: contextvars.ContextVar[Framework | None] = contextvars.ContextVar("qbawa_framework", default=None)


def llm_call(
    *,
    model: str,
    messages: Sequence[Mapping[str, Any]] | str,
    output: Any = None,
    parameters: Mapping[str, Any] | None = None,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    cost_usd: float | None = None,
    latency_s: float = 0.0,
    error: BaseException | None = None,
) -> None:
    """Record one model call that has just ended, in the current step. Never raises.

    The only call of a step becomes part of the step's row; of several, each becomes a row below it.
    """
    call = begin_call(model, messages, parameters)
    if call is not None:
        end_call(
            call,
            output,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost_usd=cost_usd,
            latency_s=latency_s,
            failure=Failure(error) if error is not None else None,
        )


def begin_call(model: Any, messages: Any, parameters: Any) -> Call | None:
    """A call that begins now in the current step; None where nothing is recorded. Never raises."""
    recorder = api.recorder
    if recorder is None:
        return None
    above = framework.get()
    if above is not None:
        above.recorded = True
    try:
        here = threads.here() or implicit_request(recorder)
        if not (here.request if isinstance(here, Step) else here).sampled:
            return None
        return Call(recorder, here, text_of(model), as_messages(messages), dict(parameters or {}))
    except Exception as problem:
        recorder.counts.add("internal_error", f"a model call was not recorded: {described(problem)}")
        return None


def end_call(call: Call, output: Any = None, **outcome: Any) -> None:
    """`Call.end`, which must not raise into the application."""
    try:
        call.end(output, **outcome)
    except Exception as problem:
        call.recorder.counts.add("internal_error", f"a model call was not recorded: {described(problem)}")
