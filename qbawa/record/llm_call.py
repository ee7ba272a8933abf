"""Model calls, by hand: for clients that neither litellm nor the openai package stands behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qbawa.record import api, threads
from qbawa.record.context import Call, Step, implicit_request
from qbawa.record.exceptions import Failure
from qbawa.record.snapshot import Snapshot, described, text_of


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


def as_messages(messages: Any) -> Any:
    """Messages as a list of objects; a bare prompt is the one user message that it is."""
    if messages is None:
        return None
    copy = Snapshot(messages).value
    if isinstance(copy, list) and all(isinstance(message, dict) for message in copy):
        return copy
    return [{"role": "user", "content": copy}]


def answer_of(message: Any) -> Any:
    """What an OpenAI-style assistant message says, in canonical form: its text, or a message where it says more."""
    from qbawa.model_apis import answers  # not while the application starts

    return answers.answer_of(message) if isinstance(message, Mapping) else message


def answers_of(choices: Sequence[Any]) -> Any:
    """The answer of a chat or text completion; a list where several were asked for."""
    answers = [answer_of(choice["message"]) if choice.get("message") else choice.get("text") for choice in choices]
    return answers[0] if len(answers) == 1 else answers
