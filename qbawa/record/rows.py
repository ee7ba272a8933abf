"""The line format of the journal, version 1; docs/recording.md describes every field."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from qbawa.record import context
from qbawa.record.context import Call, Request, Step
from qbawa.record.redact import Redactor
from qbawa.record.snapshot import Snapshot, json_safe

VERSION = 1
Hook = Callable[[dict[str, Any]], dict[str, Any] | None]


class Feedback(NamedTuple):
    """What someone thought of a request's outcome."""

    request_id: str
    score: float | None
    comment: str | None
    at: float


class Row(NamedTuple):
    """One line to be. `head` is ours: identifiers, times, numbers, which no pattern may touch. `body` is the user's."""

    head: dict[str, Any]
    body: dict[str, Any]


def rows_of(item: Step | Call | Request | Feedback) -> list[Row]:
    """The rows that one recorded thing becomes; a step with several model calls also yields a row for each of them."""
    if isinstance(item, Step):
        return _step_rows(item)
    if isinstance(item, Call):
        return [_call_row(item)]
    if isinstance(item, Feedback):
        head = {"v": VERSION, "kind": "feedback", "request_id": item.request_id, "at": _time(item.at)}
        return [Row(head, {"score": item.score, "comment": item.comment})]
    head = {
        "v": VERSION,
        "kind": "request",
        "request_id": item.request_id,
        "pipeline": item.pipeline,
        "started_at": _time(item.started_at),
        "latency_s": item.latency_s,
    }
    error = item.failure.as_dict() if item.failure else None
    return [Row(head, {"user": item.user, "tags": _tags(item), "error": error})]


def encode(row: Row, redactor: Redactor, hook: Hook | None = None) -> bytes | None:
    """One line, without newline, or None where the hook wants the row dropped. Raises what the hook raises."""
    head, body = row
    if hook:
        changed = hook({**head, **body})
        if changed is None:
            return None
        copy = Snapshot(changed, max_chars=1 << 24).value
        head = {key: copy[key] for key in head if key in copy}
        body = {key: value for key, value in copy.items() if key not in head}
    text = _dump(body)
    if redactor.may_hold(text):
        text = _dump(redactor.clean(body))
    line = f"{_dump(head)[:-1]},{text[1:]}"
    try:
        return line.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 cannot carry
        return line.encode("utf-8", "replace")


def _step_rows(step: Step) -> list[Row]:
    if step.calls is None:
        step.written = True
        return [_row(step, None, 0)]
    with context.calls_lock:
        # From here on a call that is still open becomes a row of its own when it reports.
        step.written = True
        calls = [call for call in step.calls if call.done]
        number = len(step.calls)
    # A failed call that the step got over explains neither its output nor an error of its own.
    merged = calls[0] if number == len(calls) == 1 and (calls[0].failure is None or step.failure) else None
    row = _row(step, merged, number)
    if merged and step.opaque:  # the step returned a stream: what came out of it is known by now
        row.body["output"] = merged.output
    return [row] if merged else [row, *map(_call_row, calls)]


def _call_row(call: Call) -> Row:
    return _row(call, call, 1)


def _row(item: Step | Call, call: Call | None, llm_calls: int) -> Row:
    request = item.request
    head = {
        "v": VERSION,
        "kind": "step",
        "recording_id": item.recording_id,
        "request_id": request.request_id,
        "parent_id": item.parent_id,
        "pipeline": request.pipeline,
        "step": item.name,
        "started_at": _time(item.started_at),
        "latency_s": item.latency_s,
        "llm_calls": llm_calls,
        "input_tokens": call.input_tokens if call else None,
        "output_tokens": call.output_tokens if call else None,
        "cost_usd": call.cost_usd if call else None,
    }
    body = {
        "model": call.model if call else None,
        "inputs": item.inputs,
        "messages": call.messages if call else None,
        "parameters": call.parameters if call else None,
        "output": item.output,
        "error": item.failure.as_dict() if item.failure else None,
        "user": request.user,
        "tags": _tags(request),
    }
    cut = item.cut if call is None or call is item else item.cut + call.cut
    if cut:
        body["tags"]["qbawa.cut"] = ",".join(dict.fromkeys(cut))
    return Row(head, body)


def _tags(request: Request) -> dict[str, Any]:
    tags = Snapshot(dict(request.tags)).value if request.tags else {}
    return tags if type(tags) is dict else {}


_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")).encode


def _dump(row: dict[str, Any]) -> str:
    try:
        return _encode(row)
    except (ValueError, TypeError):  # NaN, an infinity, an integer too long to print, a user that is no text
        return _encode(json_safe(Snapshot(row, max_chars=1 << 25).value))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
