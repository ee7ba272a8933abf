"""How many tokens a call will probably use: the running mean of what calls of its kind have used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qbawa.engine.types import ModelCall

CHARS_PER_TOKEN = 4.0
UNKNOWN_OUTPUT = 512
"""Output tokens expected before the first answer, where the call sets no maximum."""
_MEMORY = 500
"""Calls that the running mean looks back on."""


@dataclass(slots=True)
class _Means:
    calls: int = 0
    tokens_per_char: float = 1 / CHARS_PER_TOKEN
    output_tokens: float = 0.0


class Expectation:
    """Running means for one model, apart for each purpose: verdicts are short where answers are long."""

    def __init__(self) -> None:
        self._means: dict[str, _Means] = {}

    def tokens(self, call: ModelCall) -> tuple[float, float]:
        """Input and output tokens that the call will probably use."""
        means = self._means.get(call.purpose)
        most = max_tokens(call.params)
        chars = text_length(call.messages)
        if means is None:
            return chars / CHARS_PER_TOKEN, most if most is not None else UNKNOWN_OUTPUT
        return chars * means.tokens_per_char, min(means.output_tokens, most or means.output_tokens)

    def learn(self, call: ModelCall, input_tokens: int, output_tokens: int) -> None:
        means = self._means.setdefault(call.purpose, _Means())
        means.calls += 1
        weight = 1 / min(means.calls, _MEMORY)
        means.tokens_per_char += weight * (input_tokens / max(1, text_length(call.messages)) - means.tokens_per_char)
        means.output_tokens += weight * (output_tokens - means.output_tokens)


def text_length(messages: tuple[Mapping[str, Any], ...]) -> int:
    """Characters of text in chat messages; pictures count as none, the running mean makes up for them."""
    total = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            total += len(content)
        elif isinstance(content, list):
            total += sum(len(part.get("text") or "") for part in content if isinstance(part, dict))
    return total


def max_tokens(params: Mapping[str, Any]) -> float | None:
    """The most output tokens that a call allows, None where it sets no limit."""
    for name in ("max_completion_tokens", "max_tokens"):
        value = params.get(name)
        if isinstance(value, int | float) and value > 0:
            return float(value)
    return None
