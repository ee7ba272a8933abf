"""What a step was asked in one request: the thing that strategies answer and judges look at."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qbawa.engine.calls import Native
from qbawa.engine.token_usage import MAX_TOKENS
from qbawa.errors import InputError
from qbawa.record.snapshot import MARK

Message = Mapping[str, Any]

COLUMNS = ("request_id", "step", "recording_id", "inputs", "messages", "parameters", "api", "request", "tags")
"""What a question needs of `recordings`."""
NOT_ASKED = frozenset({
    "stream", "stream_options", "store", "metadata", "user", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "service_tier", "timeout", "max_retries", "num_retries", "extra_headers", "extra_query",
    "extra_body", "api_key", "api_base", "base_url", "api_version", "custom_llm_provider",
})  # fmt: skip
"""Recorded parameters that say how a request travels, not what it asks; a replay does without them."""


@dataclass(frozen=True, slots=True)
class Question:
    """All that was asked in one execution of a step: its inputs and, where it was a single model call, what that said."""

    request_id: str
    step: str
    inputs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    messages: Sequence[Message] | None = field(default=None, hash=False)
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Of the recorded call, tools and response format among them; without those in `NOT_ASKED`."""
    native: Native | None = field(default=None, hash=False)
    """The request as it was sent, where that was not a chat completion."""
    incomplete: str | None = None
    """Why the messages are not all that was asked; they cannot be sent again as they were."""
    lost: tuple[str, ...] = ()
    """Parameters that the recorder could not keep whole."""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Question":
        """The question in a row of `recordings` (`COLUMNS`; what is absent is null), which holds JSON text.

        Raises InputError where it is not JSON of the right shape.
        """
        inputs = _decode(row, "inputs", dict) or {}
        messages = _decode(row, "messages", list)
        if messages is not None and not all(isinstance(message, dict) for message in messages):
            raise InputError(f"Recording of request {row['request_id']}: `messages` must be a list of objects.")
        recorded = _decode(row, "parameters", dict) or {}
        further = recorded.get("extra_body")
        recorded = {**recorded, **(further if isinstance(further, dict) else {})}
        parameters = {name: value for name, value in recorded.items() if name not in NOT_ASKED and value is not None}
        body = _decode(row, "request", dict)
        native = Native(row["api"], body) if body is not None and row.get("api") else None
        cut = str((_decode(row, "tags", dict) or {}).get("qbawa.cut") or "").split(",")
        lost = tuple(name for name, value in parameters.items() if _marked(value)) or ("parameters",) * (
            "parameters" in cut
        )
        return cls(
            row["request_id"],
            row["step"],
            inputs,
            messages or None,
            parameters,
            native,
            _incomplete(messages, cut),
            lost,
        )

    def asked_with(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters of a call that asks this question: the recorded ones, and `own` over them; null takes one away."""
        kept = dict(self.parameters)
        if any(name in own for name in MAX_TOKENS):
            kept = {name: value for name, value in kept.items() if name not in MAX_TOKENS}
        return {name: value for name, value in {**kept, **own}.items() if value is not None}


def _incomplete(messages: Any, cut: Sequence[str]) -> str | None:
    if "messages" in cut:
        return "its messages were too long for the recorder, which cut them"
    return "its messages hold what the recorder could not keep as it was" if _marked(messages) else None


def _marked(value: Any) -> bool:
    if isinstance(value, dict):
        return MARK in value or any(map(_marked, value.values()))
    return isinstance(value, list) and any(map(_marked, value))


def _decode(row: Mapping[str, Any], column: str, shape: type) -> Any:
    text = row.get(column)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"Recording of request {row['request_id']}: `{column}` is not JSON ({error}).") from None
    if value is not None and not isinstance(value, shape):
        found, wanted = type(value).__name__, shape.__name__
        raise InputError(
            f"Recording of request {row['request_id']}: `{column}` holds a {found}, it must be a {wanted}."
        )
    return value
