"""Langfuse exports: observations, traces and scores, in the names of its API (camelCase) or its files (snake_case)."""

import json
import re
from collections.abc import Iterator
from typing import Any

from qbawa.ingest.formats.openai import message_output
from qbawa.ingest.formats.step_rows import BadRecordError, Origin, feedback_row, step_row
from qbawa.ingest.journal_lines import Feedback, Step

_MODEL_CALLS = ("GENERATION", "EMBEDDING")
_capital = re.compile(r"(?<=[a-z])(?=[A-Z])")


def is_langfuse(record: dict[str, Any]) -> bool:
    kind = _kind(_snake(record))
    return kind is not None


def read_langfuse(record: dict[str, Any], origin: Origin) -> Iterator[Step | Feedback | BadRecordError]:
    """An observation or trace as a step, a score as feedback; a page of the API or full trace as all that it holds."""
    record = _snake(record)
    kind = _kind(record)
    if kind == "page":
        yield from _each(record["data"], origin)
    elif kind == "score":
        yield _score(record)
    elif kind == "observation":
        yield _observation(record, origin)
    elif kind == "trace":
        yield _trace(record, origin)
        yield from _each(record.get("observations"), origin, trace=record)
        yield from _each(record.get("scores"), origin, trace=record)
    else:
        raise BadRecordError("unknown_kind", "neither observation nor trace nor score")


def _each(
    items: Any, origin: Origin, trace: dict[str, Any] | None = None
) -> Iterator[Step | Feedback | BadRecordError]:
    """What nested records say. A list of bare ids, as the API gives for unexpanded traces, says nothing."""
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict):
            own = {"traceId": trace["id"], "userId": trace.get("user_id")} if trace else {}
            try:
                yield from read_langfuse({**own, **item}, origin)
            except BadRecordError as error:
                yield error


def _kind(record: dict[str, Any]) -> str | None:
    if isinstance(record.get("data"), list) and "meta" in record:
        return "page"
    if "id" not in record:
        return None
    if record.get("trace_id") and "name" in record and ("value" in record or "string_value" in record):
        return "score"
    if "start_time" in record and "type" in record:
        return "observation"
    if (
        "timestamp" in record
        and "trace_id" not in record
        and record.keys() & {"session_id", "user_id", "observations", "bookmarked"}
    ):
        return "trace"
    return None


def _observation(record: dict[str, Any], origin: Origin) -> Step:
    usage = _object(record, "usage_details") or _object(record, "usage")
    cost = _object(record, "cost_details")
    is_call = record["type"] in _MODEL_CALLS
    inputs, messages = _asked(record.get("input"))
    return step_row(
        origin,
        step=record.get("name") or str(record["type"]).lower(),
        recording_id=record["id"],
        request_id=record.get("trace_id") or record["id"],
        parent_id=record.get("parent_observation_id") or record.get("trace_id"),
        pipeline=record.get("trace_name"),
        started_at=record["start_time"],
        ended_at=record.get("end_time"),
        inputs=inputs,
        messages=messages,
        output=_said(record.get("output")),
        model=_first(record, "model", "provided_model_name", "model_id") if is_call else None,
        parameters=_object(record, "model_parameters"),
        input_tokens=_first(record, "prompt_tokens", "input_usage") if "input" not in usage else usage["input"],
        output_tokens=_first(record, "completion_tokens", "output_usage") if "output" not in usage else usage["output"],
        cost_usd=cost["total"] if "total" in cost else _first(record, "total_cost", "calculated_total_cost"),
        error=_error(record),
        tags=_tags(record),
        user=record.get("user_id"),
    )


def _trace(record: dict[str, Any], origin: Origin) -> Step:
    """The request itself: the step that its observations stand below."""
    inputs, messages = _asked(record.get("input"))
    return step_row(
        origin,
        step=record.get("name") or "trace",
        recording_id=record["id"],
        request_id=record["id"],
        pipeline=record.get("name"),
        started_at=record["timestamp"],
        latency_s=record.get("latency"),
        inputs=inputs,
        messages=messages,
        output=_said(record.get("output")),
        tags=_tags(record),
        user=record.get("user_id"),
    )


def _score(record: dict[str, Any]) -> Feedback:
    """The number as it is; a category, which has no order, in the comment."""
    value = record.get("value")
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    category = record.get("string_value") if record.get("data_type") == "CATEGORICAL" else None
    name = f"{record['name']} = {category}" if category else str(record["name"])
    comment = f"{name}: {record['comment']}" if record.get("comment") else name
    at = _first(record, "timestamp", "created_at", "updated_at")
    if at is None:
        raise BadRecordError("missing_field", "timestamp of the score")
    return feedback_row(record["trace_id"], at, None if category else value, comment)


def _asked(value: Any) -> tuple[dict[str, Any] | None, list[Any] | None]:
    """Inputs and messages in an observation's input."""
    value = _json(value)
    if _are_messages(value):
        return None, value
    if isinstance(value, dict) and _are_messages(value.get("messages")):
        rest = {key: inner for key, inner in value.items() if key not in ("messages", "model", "tools")}
        return rest or None, value["messages"]
    if value in (None, ""):
        return None, None
    return (value if isinstance(value, dict) else {"input": value}), None


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) and "role" in m for m in value)


def _said(value: Any) -> Any:
    value = _json(value)
    return message_output(value) if isinstance(value, dict) and "role" in value else value


def _error(record: dict[str, Any]) -> dict[str, Any] | None:
    if record.get("level") != "ERROR":
        return None
    return {"type": "ERROR", "message": str(record.get("status_message") or ""), "traceback": ""}


def _tags(record: dict[str, Any]) -> dict[str, Any]:
    labels = _json(record.get("tags"))
    tags = {str(label): True for label in labels} if isinstance(labels, list) else {}
    names = ("environment", "release", "version", "session_id")
    return {**_object(record, "metadata"), **tags, **{name: record.get(name) for name in names}}


def _object(record: dict[str, Any], name: str) -> dict[str, Any]:
    """An object, which the files of some exports hold as JSON text."""
    value = _json(record.get(name))
    return value if isinstance(value, dict) else {}


def _first(record: dict[str, Any], *names: str) -> Any:
    return next((record[name] for name in names if record.get(name) not in (None, "")), None)


def _json(value: Any) -> Any:
    if not isinstance(value, str) or value[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _snake(record: dict[str, Any]) -> dict[str, Any]:
    return {_capital.sub("_", key).lower(): value for key, value in record.items()}
