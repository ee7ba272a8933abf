"""What a step was asked in one request: the thing that strategies answer and judges look at."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qbawa.errors import InputError

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """The recorded inputs of one step execution, and its messages where it was a single model call."""

    request_id: str
    step: str
    inputs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    messages: Sequence[Message] | None = field(default=None, hash=False)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Question":
        """The question in a row of `recordings`, whose inputs and messages are JSON text.

        Raises InputError where they are not JSON of the right shape.
        """
        inputs = _decode(row, "inputs", dict) or {}
        messages = _decode(row, "messages", list)
        if messages is not None and not all(isinstance(message, dict) for message in messages):
            raise InputError(f"Recording of request {row['request_id']}: `messages` must be a list of objects.")
        return cls(row["request_id"], row["step"], inputs, messages or None)


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
