"""What a line says about a model call, read: the body of any API becomes messages, parameters and an answer."""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw

from qbawa.errors import InputError
from qbawa.ingest.formats.step_rows import last_question
from qbawa.ingest.journal_lines import NULL, BadLine, Row, Step
from qbawa.model_apis.answers import answer_of
from qbawa.model_apis.canonical import read_request, read_response

CHAT = "openai.chat"


def understood(item: Row | BadLine) -> Iterator[Row | BadLine]:
    """The item, its call read into the columns of a step; and why a body could not be read, if one could not.

    A step with an unreadable call stays: it keeps what else the line says, and the request as it was sent.
    """
    if not isinstance(item, Step):
        yield item
        return
    if item.call is not NULL and item.call != NULL:
        for read in _with_call(item):
            yield _with_question(read) if isinstance(read, Step) else read
    elif item.output is not NULL and _may_be_message(item):
        yield _with_question(msgspec.structs.replace(item, output=_canonical(item.output)))
    else:
        yield _with_question(item)


def _with_question(step: Step) -> Step:
    """The step; a model call outside any has its question as input, as imported calls do, so that a template may use it."""
    if memoryview(step.inputs) != b"{}" or step.messages == NULL:
        return step
    messages = _plain(step.messages)
    messages = [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []
    question = last_question(messages)
    return msgspec.structs.replace(step, inputs=_raw({"question": question})) if question else step


def _with_call(step: Step) -> Iterator[Step | BadLine]:
    call = _plain(step.call)
    if not isinstance(call, dict) or not isinstance(call.get("api"), str):
        yield step
        yield BadLine("unreadable_call", "`call` needs api, request and response")
        return
    api, request, response = call["api"], call.get("request"), call.get("response")
    known: dict[str, Any] = {"api": api}
    bad = []
    if api != CHAT and isinstance(request, dict):
        known["request"] = _raw(request)
    asked_for = request.get("model") if isinstance(request, dict) else None
    model = asked_for if isinstance(asked_for, str) else None
    try:
        asked = read_request(api, request)
        known |= {"messages": _raw(asked.messages), "parameters": _raw(asked.parameters or None)}
    except InputError as error:
        known["request"] = _raw(request)
        bad.append(str(error))
    if response is not None:
        try:
            answered = read_response(api, response)
            known |= {"output": _raw(answered.output), "reasoning": answered.reasoning}
            known |= {"input_tokens": answered.input_tokens, "output_tokens": answered.output_tokens}
            model = answered.model or model
        except InputError as error:
            bad.append(str(error))
    known["model"] = model
    # What the line says itself wins: the recorder was there, and a step's output is what the step returned.
    free = {name: value for name, value in known.items() if getattr(step, name) in (None, NULL)}
    yield msgspec.structs.replace(step, **free)
    if bad:
        yield BadLine("unreadable_call", f"{api}: {' '.join(bad)}")


def _may_be_message(step: Step) -> bool:
    """Whether the output of a model call is perhaps a message that calls tools, written before there was `call`."""
    return (
        step.messages != NULL
        and memoryview(step.output)[0] == ord("{")
        and b'"tool_calls"' in memoryview(step.output).tobytes()
    )


def _canonical(output: Raw) -> Raw:
    message = _plain(output)
    if not isinstance(message, dict) or message.get("role") != "assistant" or not message.get("tool_calls"):
        return output
    return _raw(answer_of(message))


def _plain(value: Raw) -> Any:
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def _raw(value: Any) -> Raw:
    return NULL if value is None else Raw(msgspec.json.encode(value))
