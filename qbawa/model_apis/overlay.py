"""Small changes to a request in the form of its own API, where that is possible without another meaning."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

PLACES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "openai.responses": {
        "max_tokens": ("max_output_tokens",),
        "max_completion_tokens": ("max_output_tokens",),
        "parallel_tool_calls": ("parallel_tool_calls",),
        "reasoning_effort": ("reasoning", "effort"),
        "temperature": ("temperature",),
        "top_p": ("top_p",),
    },
    "anthropic.messages": {
        "max_tokens": ("max_tokens",),
        "max_completion_tokens": ("max_tokens",),
        "stop": ("stop_sequences",),
        "temperature": ("temperature",),
        "top_p": ("top_p",),
    },
    "google.generate_content": {
        "max_tokens": ("generationConfig", "maxOutputTokens"),
        "max_completion_tokens": ("generationConfig", "maxOutputTokens"),
        "seed": ("generationConfig", "seed"),
        "stop": ("generationConfig", "stopSequences"),
        "temperature": ("generationConfig", "temperature"),
        "top_p": ("generationConfig", "topP"),
    },
}
"""Where each API has the parameters of a chat completion whose values mean the same there."""


def with_parameters(
    api: str, body: Mapping[str, Any], parameters: Mapping[str, Any], *, over: bool = True
) -> dict[str, Any] | None:
    """The request with these parameters of a chat completion; None where the API has no such parameter by name alone.

    A null takes a parameter away, also one that only this API has. With `over` false, what the request says already stays.
    """
    changed = copy.deepcopy(dict(body))
    for name, value in parameters.items():
        place = PLACES.get(api, {}).get(name)
        if place is None and value is None:
            changed.pop(name, None)  # a field of this API by its own name
            continue
        if place is None:
            return None
        *path, last = place
        inner: Any = changed
        for key in path:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                return None
        if value is None:
            inner.pop(last, None)
        elif over or last not in inner:
            inner[last] = [value] if name == "stop" and isinstance(value, str) else value
    return changed


def with_system(api: str, body: Mapping[str, Any], text: str) -> dict[str, Any] | None:
    """The request under another system message; None where its own stands among the turns."""
    turns = body.get("input") if api == "openai.responses" else None
    among = [turn.get("role") for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    if "system" in among or "developer" in among:
        return None
    places: dict[str, dict[str, Any]] = {
        "openai.responses": {"instructions": text},
        "anthropic.messages": {"system": text},
        "google.generate_content": {"systemInstruction": {"parts": [{"text": text}]}},
    }
    return {**body, **places[api]} if api in places else None
