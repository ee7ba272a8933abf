"""How many tokens calls will probably use: the running mean of what calls of their kind have used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qbawa.engine.calls import ModelCall

CHARS_PER_TOKEN = 4.0
HARD_MAX_TOKENS = 4_096
"""Sent as `max_tokens` under hard caps, where neither the call nor the model says how long an answer may be."""
UNKNOWN_OUTPUT = 1024.0
"""Output tokens expected before the first answer, where the call sets no maximum."""
MAX_TOKENS = ("max_completion_tokens", "max_tokens")
"""Parameters that limit an answer, the first that is set counts."""
_FIRST_GUESS = 20  # calls that the first guess counts for: one short answer must not let a burst of long ones loose
_DEVIATIONS = 2.0
_MEMORY = 500  # calls that the running mean looks back on


class TokenUsage:
    """Expected tokens of one model's calls, and of all of them that are under way together.

    Calls of one kind share a mean. A kind is a purpose and a `max_tokens`: verdicts are short where answers are long.
    """

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, float | None], _Kind] = {}

    def load(self, call: ModelCall) -> CallLoad:
        most = max_tokens(call.params)
        key = (call.purpose, most)
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind(output_tokens=UNKNOWN_OUTPUT if most is None else most, most=most)
        return CallLoad(kind, text_length(call.messages))


class CallLoad:
    """What one call asks of a token limit, as known at each moment; see `qbawa.engine.rate_limiter.Load`."""

    __slots__ = ("_chars", "_kind")

    def __init__(self, kind: _Kind, chars: int) -> None:
        self._kind = kind
        self._chars = chars

    @property
    def expected(self) -> tuple[float, float]:
        """Input and output tokens that the call will probably use."""
        return self._kind.tokens(self._chars)

    @property
    def tokens(self) -> float:
        return sum(self.expected)

    @property
    def set_aside(self) -> tuple[float, float]:
        """Input and output tokens to set dollars aside for: more than the mean, since a cap should not be passed.

        Where long answers take longer, those in flight are longer than those that have ended, and the last dollars would
        be given out on the word of the short ones; two standard deviations are enough for that, see docs/engine.md.
        """
        return self._kind.set_aside(self._chars)

    def start(self) -> None:
        self._kind.calls += 1
        self._kind.chars += self._chars

    def finish(self, used: tuple[float, float] | None) -> float:
        """By how much more than was set aside has been used: by this call, None where it failed, and by the others.

        What one answer teaches is applied to all calls of its kind still under way at once. So a wrong first guess
        costs one round trip, not the time until every call that began under it has ended.
        """
        kind = self._kind
        kind.calls -= 1
        kind.chars -= self._chars
        own = self.tokens
        if used is None:
            return -own
        before = kind.under_way()
        kind.learn(self._chars, *used)
        return sum(used) - own + kind.under_way() - before


@dataclass(slots=True)
class _Kind:
    output_tokens: float
    most: float | None = None
    """Output tokens that the calls allow."""
    seen: int = 0
    seen_mean: float = 0.0
    seen_variance: float = 0.0
    """Of output tokens, without the first guess."""
    tokens_per_char: float = 1 / CHARS_PER_TOKEN
    learned: int = _FIRST_GUESS
    calls: int = 0
    """Under way."""
    chars: int = 0
    """Of the prompts of those."""

    def tokens(self, chars: int) -> tuple[float, float]:
        return chars * self.tokens_per_char, self.output_tokens

    def set_aside(self, chars: int) -> tuple[float, float]:
        likely = self.output_tokens + _DEVIATIONS * math.sqrt(self.seen_variance)
        return chars * self.tokens_per_char, likely if self.most is None else min(likely, self.most)

    def under_way(self) -> float:
        return self.chars * self.tokens_per_char + self.calls * self.output_tokens

    def learn(self, chars: int, input_tokens: float, output_tokens: float) -> None:
        self.learned = min(self.learned + 1, _MEMORY)
        self.tokens_per_char += (input_tokens / max(1, chars) - self.tokens_per_char) / self.learned
        self.output_tokens += (output_tokens - self.output_tokens) / self.learned
        self.seen = min(self.seen + 1, _MEMORY)
        difference = output_tokens - self.seen_mean
        self.seen_mean += difference / self.seen
        self.seen_variance += (difference * (output_tokens - self.seen_mean) - self.seen_variance) / self.seen


def text_length(messages: tuple[Mapping[str, Any], ...]) -> int:
    """Characters of text in chat messages; pictures count as none, the running mean makes up for them."""
    total = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            total += len(content)
        elif isinstance(content, list):
            total += sum(len(str(part.get("text") or "")) for part in content if isinstance(part, dict))
    return total


def max_tokens(params: Mapping[str, Any]) -> float | None:
    """The most output tokens that a call allows, None where it sets no limit."""
    for name in MAX_TOKENS:
        value = params.get(name)
        if isinstance(value, int | float) and value > 0:
            return float(value)
    return None
