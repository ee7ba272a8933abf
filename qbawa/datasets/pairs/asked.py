"""What a question asked besides its messages: tools, which of them had to be called, the form of the reply."""

from __future__ import annotations

from typing import Any

import orjson

ASKED = ("tools", "functions", "tool_choice", "function_call", "parallel_tool_calls", "response_format")
"""Recorded parameters that say what could be answered; the others (lengths, temperatures) say how it was sampled."""


def asked_besides(recorded: str | None) -> str | None:
    """JSON object of what a call's recorded parameters asked besides the messages; None where that is nothing."""
    parameters = _object(recorded)
    further = parameters.get("extra_body")
    every = {**parameters, **(further if isinstance(further, dict) else {})}
    kept = {name: every[name] for name in ASKED if every.get(name) not in (None, [], {})}
    return orjson.dumps(kept).decode() if kept else None


def _object(text: str | None) -> dict[str, Any]:
    try:
        value = orjson.loads(text) if text else None
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
