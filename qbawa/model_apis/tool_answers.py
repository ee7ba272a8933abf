"""Answers that call tools, read from the text that keeps them (`qbawa.model_apis.answers` has their form)."""

import json
from typing import Any


def calls_of(answer: str) -> list[dict[str, Any]] | None:
    """The tool calls of an answer, each {"name", "arguments"}; None for one that calls none."""
    message = _message(answer)
    if message is None:
        return None
    calls = [call.get("function") or call for call in message["tool_calls"] if isinstance(call, dict)]
    return [{"name": call.get("name"), "arguments": decoded(call.get("arguments"))} for call in calls]


def readable_answer(answer: str) -> Any:
    """A tool-call answer as an object that reads well, {"text"?, "tool_calls": [{"name", "arguments"}]}; any other as it is."""
    calls = calls_of(answer)
    if calls is None:
        return answer
    said = (_message(answer) or {}).get("content")
    return ({"text": said} if said else {}) | {"tool_calls": calls}


def decoded(value: Any) -> Any:
    """The JSON value in a text; what is no text, or no JSON, as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _message(answer: str) -> dict[str, Any] | None:
    if not answer.startswith("{") or '"tool_calls"' not in answer:
        return None
    value = decoded(answer)
    calls = value.get("tool_calls") if isinstance(value, dict) else None
    return value if isinstance(calls, list) and calls else None
