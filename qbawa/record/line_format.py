"""The line format of the journal, version 1; docs/recording.md describes every field."""

from __future__ import annotations

import functools
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

    @property
    def size(self) -> int:
        return 200 + len(self.comment or "")


class Row(NamedTuple):
    """One line to be. `head`: identifiers, times and numbers, encoded, which no pattern may touch. `body`: the rest."""

    head: str
    body: dict[str, Any]


def rows_of(item: Step | Call | Request | Feedback) -> list[Row]:
    """The rows that one recorded thing becomes; a step with several model calls also yields a row for each of them."""
    if isinstance(item, Step):
        return _step_rows(item)
    if isinstance(item, Call):
        item.settle()
        return [_row(item, item, 1)]
    start = f'{{"v":{VERSION},"kind":'
    if isinstance(item, Feedback):
        head = f'{start}"feedback","request_id":{_dump(item.request_id)},"at":"{_time(item.at)}",'
        return [Row(head, {"score": item.score, "comment": item.comment})]
    head = (
        f'{start}"request","request_id":{_dump(item.request_id)},"pipeline":{_name(item.pipeline)},'
        f'"started_at":"{_time(item.started_at)}","latency_s":{item.latency_s!r},'
    )
    error = item.failure.as_dict() if item.failure else None
    return [Row(head, {"user": item.user, "tags": _tags(item), "error": error})]


def encode(row: Row, redactor: Redactor, hook: Hook | None = None) -> bytes | None:
    """One line, without newline, or None where the hook wants the row dropped. Raises what the hook raises."""
    head, body = row
    if hook:
        ours = json.loads(f"{head[:-1]}}}")
        changed = hook({**ours, **body})
        if changed is None:
            return None
        copy = Snapshot(changed, max_chars=1 << 24).value
        head = f"{_dump({key: copy[key] for key in ours if key in copy})[:-1]},"
        body = {key: value for key, value in copy.items() if key not in ours}
    text = _dump(body)
    if redactor.may_hold(text):
        text = _dump(redactor.clean(body))
    line = head + text[1:]
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
    for call in calls:
        call.settle()
    # A failed call that the step got over explains neither its output nor an error of its own.
    merged = calls[0] if number == len(calls) == 1 and (calls[0].failure is None or step.failure) else None
    row = _row(step, merged, number)
    if merged and step.opaque:  # the step returned a stream: what came out of it is known by now
        row.body["output"] = merged.output
    return [row] if merged else [row, *(_row(call, call, 1) for call in calls)]


def _row(item: Step | Call, call: Call | None, llm_calls: int) -> Row:
    request = item.request
    parent = f'"{item.parent_id}"' if item.parent_id else "null"
    usage = '"input_tokens":null,"output_tokens":null,"cost_usd":null,'
    if call:
        numbers = {"input_tokens": call.input_tokens, "output_tokens": call.output_tokens, "cost_usd": call.cost_usd}
        usage = f"{_dump(numbers)[1:-1]},"
    # By hand, since this runs for every step: a third of the time of building and encoding a dict.
    head = (
        f'{{"v":{VERSION},"kind":"step","recording_id":"{item.recording_id}","request_id":{_name(request.request_id)},'
        f'"parent_id":{parent},"pipeline":{_name(request.pipeline)},'
        f'"step":{_name(item.name)},"started_at":"{_time(item.started_at)}","latency_s":{item.latency_s!r},'
        f'"llm_calls":{llm_calls},{usage}'
    )
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
    if call and call.reasoning:
        body["reasoning"] = call.reasoning
    if call and call.body:
        body["call"] = call.body
    elif call and call.api == "openai.chat":
        body["api"] = call.api
    cut = item.cut if call is None or call is item else item.cut + call.cut
    if cut:
        body["tags"]["qbawa.cut"] = ",".join(dict.fromkeys(cut))
    return Row(head, body)


def _tags(request: Request) -> dict[str, Any]:
    tags = Snapshot(dict(request.tags)).value if request.tags else {}
    return tags if type(tags) is dict else {}


_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")).encode


def _dump(value: Any) -> str:
    try:
        return _encode(value)
    except (ValueError, TypeError):  # NaN, an infinity, an integer too long to print, a user that is no text
        return _encode(json_safe(Snapshot(value, max_chars=1 << 25).value))


@functools.lru_cache(maxsize=1_000)
def _name(name: str) -> str:
    return _dump(name)


@functools.lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _time(seconds: float) -> str:
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1e6):06d}+00:00"
