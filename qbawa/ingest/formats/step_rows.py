"""Values of a foreign log, turned into the same rows that the recorder makes."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Raw

from qbawa.errors import QbawaError
from qbawa.ids import content_id
from qbawa.ingest.journal_lines import NULL, Feedback, Step


class BadRecordError(QbawaError):
    """A record cannot be understood; it goes to quarantine. `reason` is one of `qbawa.ingest.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Origin:
    """What a format knows about a record besides its content."""

    digest: str
    """Of the record's text: the id of what has none of its own."""
    step: str | None
    """Instead of the step that the record names."""
    fallback_at: datetime
    """When the file was written, for records without a time."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Steps by the ids of what the file holds, where the tree of all says them."""


def step_row(
    origin: Origin,
    *,
    step: str,
    recording_id: str | None = None,
    request_id: str | None = None,
    started_at: Any = None,
    ended_at: Any = None,
    latency_s: Any = None,
    inputs: dict[str, Any] | None = None,
    messages: list[Any] | None = None,
    output: Any = None,
    model: Any = None,
    parameters: dict[str, Any] | None = None,
    input_tokens: Any = None,
    output_tokens: Any = None,
    cost_usd: Any = None,
    error: dict[str, Any] | None = None,
    tags: dict[str, Any] | None = None,
    user: Any = None,
    parent_id: str | None = None,
    pipeline: str | None = None,
    api: str | None = None,
    request: dict[str, Any] | None = None,
    reasoning: str | None = None,
) -> Step:
    """One execution of a step. Raises BadRecordError where a value is of the wrong type."""
    began = moment(started_at) if started_at not in (None, "") else None
    ended = moment(ended_at) if ended_at not in (None, "") else None
    if latency_s in (None, "") and began and ended:
        latency_s = max((ended - began).total_seconds(), 0.0)
    own = content_id("recording", origin.step, origin.digest)
    if not inputs and messages:
        question = last_question(messages)
        inputs = {"question": question} if question else {}
    return Step(
        v=1,
        recording_id=_id(recording_id) or own,
        request_id=_id(request_id) or own,
        step=origin.step or step,
        started_at=began or ended or origin.fallback_at,
        parent_id=_id(parent_id),
        pipeline=pipeline,
        inputs=_raw(inputs or {}),
        messages=_raw(messages),
        output=_raw(output),
        model=text_or_none(model, "model"),
        parameters=_raw(parameters or None),
        input_tokens=count(input_tokens, "input tokens"),
        output_tokens=count(output_tokens, "output tokens"),
        cost_usd=amount(cost_usd, "cost"),
        latency_s=amount(latency_s, "latency"),
        error=_raw(error),
        tags=_raw({key: value for key, value in (tags or {}).items() if value not in (None, "", [], {})}),
        user=text_or_none(user, "user"),
        api=api,
        request=_raw(request),
        reasoning=reasoning,
    )


def feedback_row(request_id: Any, at: Any, score: Any, comment: str | None) -> Feedback:
    """One opinion on a request. Raises BadRecordError where a value is of the wrong type."""
    if not isinstance(request_id, str) or not request_id:
        raise BadRecordError("missing_field", "the request that the feedback is about")
    if isinstance(score, bool):
        score = float(score)
    if score is not None and (not isinstance(score, int | float) or not math.isfinite(score)):
        raise BadRecordError("wrong_type", f"score is {score!r:.60}, not a number")
    return Feedback(v=1, request_id=request_id, at=moment(at), score=score, comment=comment or None)


def moment(value: Any) -> datetime:
    """A point in time in UTC from ISO text or a number since 1970 in seconds, milli-, micro- or nanoseconds."""
    if isinstance(value, datetime):
        return value
    try:
        if isinstance(value, str) and not re.fullmatch(r"[0-9.]+", value):
            found = datetime.fromisoformat(value)
            return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            seconds = float(value)
            # Any time from 1973 on is unambiguous: each unit is a thousand times the next.
            for _ in range(3):
                if seconds > 1e11:
                    seconds /= 1_000
            return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise BadRecordError("wrong_type", f"{value!r:.60} is no time")


def count(value: Any, name: str) -> int | None:
    """A number of tokens."""
    number = amount(value, name)
    if number is not None and (number != int(number) or number > 2**53):
        raise BadRecordError("wrong_type", f"{name} are {value!r:.60}, not a whole number")
    return None if number is None else int(number)


def amount(value: Any, name: str) -> float | None:
    """A number of at least 0, also where it is written as text."""
    if value is None or value == "":
        return None
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise BadRecordError("wrong_type", f"{name} is {value!r:.60}, not a number of at least 0")
    return number


def text_or_none(value: Any, name: str) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, str | int):
        return str(value)
    raise BadRecordError("wrong_type", f"{name} is {value!r:.60}, not a text")


def message_list(value: Any, name: str = "messages") -> list[Any]:
    """A list of chat messages, or the text of the one user message."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if isinstance(value, list) and all(isinstance(message, dict) for message in value):
        return value
    raise BadRecordError("wrong_type", f"{name} must be a list of messages, not {value!r:.60}")


def last_question(messages: list[Any]) -> str | None:
    """The text of the last user message: what templates of other strategies find as `question`."""
    for message in reversed(messages):
        if message.get("role") == "user":
            return content_text(message.get("content"))
    return None


def content_text(content: Any) -> str | None:
    """The text of a message's content, whose parts may be text among other things."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        texts = [part for part in parts if isinstance(part, str)]
        return "\n".join(texts) or None
    return None


def _id(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, str | int) and len(str(value)) <= 256:
        return str(value)
    raise BadRecordError("wrong_type", f"an id is {value!r:.60}")


def _raw(value: Any) -> Raw:
    return NULL if value is None else Raw(msgspec.json.encode(value))
