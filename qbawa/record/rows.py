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
Row = dict[str, Any]
Hook = Callable[[Row], Row | None]

# Identifiers, times and numbers are ours; no pattern may touch them. All else comes from the application.
_OURS = frozenset(
    "v kind recording_id request_id parent_id pipeline step input_tokens output_tokens cost_usd started_at latency_s "
    "llm_calls score at".split()
)


class Feedback(NamedTuple):
    """What someone thought of a request's outcome."""

    request_id: str
    score: float | None
    comment: str | None
    at: float


def rows_of(item: Step | Call | Request | Feedback) -> list[Row]:
    """The rows that one recorded thing becomes: a step with several model calls also yields one row for each of them."""
    if isinstance(item, Step):
        return _step_rows(item)
    if isinstance(item, Call):
        return [_call_row(item)]
    if isinstance(item, Feedback):
        row = {"v": VERSION, "kind": "feedback", **item._asdict()}
        row["at"] = _time(item.at)
        return [row]
    return [
        {
            "v": VERSION,
            "kind": "request",
            "request_id": item.request_id,
            "pipeline": item.pipeline,
            "started_at": _time(item.started_at),
            "latency_s": item.latency_s,
            "user": item.user,
            "tags": dict(item.tags),
            "error": item.failure.as_dict() if item.failure else None,
        }
    ]


def encode(row: Row, redactor: Redactor, hook: Hook | None = None) -> bytes | None:
    """One line, without newline, or None where the hook wants the row dropped. Raises what the hook raises."""
    if hook:
        changed = hook(row)
        if changed is None:
            return None
        row = Snapshot(changed, max_chars=1 << 24).value
    head = {key: value for key, value in row.items() if key in _OURS}
    body = {key: value for key, value in row.items() if key not in _OURS}
    text = _dump(body)
    if redactor.may_hold(text):
        text = _dump(redactor.clean(body))
    line = f"{_dump(head)[:-1]},{text[1:]}"
    try:
        return line.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 cannot carry
        return line.encode("utf-8", "replace")


def _step_rows(step: Step) -> list[Row]:
    with context.calls_lock:
        # From here on a call that is still open becomes a row of its own when it reports.
        step.written = True
        calls = [call for call in step.calls or () if call.done]
        number = len(step.calls or ())
    merged = calls[0] if number == 1 and calls and (calls[0].failure is None or step.failure) else None
    row = _base(step, merged)
    row["inputs"] = step.inputs
    row["output"] = merged.output if merged and step.opaque else step.output
    row["error"] = step.failure.as_dict() if step.failure else None
    row["llm_calls"] = number
    return [row] if merged else [row, *map(_call_row, calls)]


def _call_row(call: Call) -> Row:
    row = _base(call, call)
    row["inputs"] = {}
    row["output"] = call.output
    row["error"] = call.failure.as_dict() if call.failure else None
    row["llm_calls"] = 1
    return row


def _base(item: Step | Call, call: Call | None) -> Row:
    request = item.request
    tags = {str(key): Snapshot(value).value for key, value in dict(request.tags).items()} if request.tags else {}
    cut = (*item.cut, *(call.cut if call is not None and call is not item else ()))
    if cut:
        tags["qbawa.cut"] = ",".join(dict.fromkeys(cut))
    return {
        "v": VERSION,
        "kind": "step",
        "recording_id": item.recording_id,
        "request_id": request.request_id,
        "parent_id": item.parent_id,
        "pipeline": request.pipeline,
        "step": item.name,
        "inputs": None,
        "messages": call.messages if call else None,
        "output": None,
        "model": call.model if call else None,
        "parameters": call.parameters if call else None,
        "input_tokens": call.input_tokens if call else None,
        "output_tokens": call.output_tokens if call else None,
        "cost_usd": call.cost_usd if call else None,
        "started_at": _time(item.started_at),
        "latency_s": item.latency_s,
        "error": None,
        "tags": tags,
        "user": request.user,
        "llm_calls": 0,
    }


_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")).encode


def _dump(row: Row) -> str:
    try:
        return _encode(row)
    except (ValueError, TypeError):  # NaN, an infinity, an integer too long to print, something odd in a tag
        return _encode(json_safe(Snapshot(row, max_chars=1 << 25).value))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
