"""Spans of an OTLP JSON export with their attributes as plain values."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qbawa.ingest.formats.step_rows import BadRecordError, moment


@dataclass(frozen=True, slots=True)
class Span:
    """One span with its attributes as plain values."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    started_at: Any
    ended_at: Any
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    failed: bool
    message: str
    service: str | None

    def first(self, *keys: str) -> Any:
        """The first of these attributes that there is."""
        return next((self.attributes[key] for key in keys if self.attributes.get(key) not in (None, "")), None)

    def error(self) -> dict[str, Any] | None:
        """The failure that ended the span, by its status, its exception event and `error.type`."""
        exception = next((a for name, a in self.events if name == "exception"), {})
        if not self.failed and "error.type" not in self.attributes:
            return None
        return {
            "type": str(self.attributes.get("error.type") or exception.get("exception.type") or "error"),
            "message": str(exception.get("exception.message") or self.message),
            "traceback": str(exception.get("exception.stacktrace") or ""),
        }


def spans(record: dict[str, Any]) -> Iterator[Span | BadRecordError]:
    """Every span of an OTLP export, or why it is none."""
    for resource in _objects(record, "resourceSpans"):
        described = attributes_of(_object(resource, "resource").get("attributes"))
        service = described.get("openinference.project.name") or described.get("service.name")
        for scope in _objects(resource, "scopeSpans"):
            for raw in _objects(scope, "spans"):
                try:
                    yield _span(raw, service if isinstance(service, str) else None)
                except BadRecordError as error:
                    yield error


def attributes_of(pairs: Any) -> dict[str, Any]:
    """Plain values of OTLP key-value pairs."""
    if not isinstance(pairs, list):
        return {}
    return {str(pair.get("key")): _value(pair.get("value")) for pair in pairs if isinstance(pair, dict)}


def json_of(value: Any) -> Any:
    """The value, read where it is JSON text: most exporters allow attributes nothing structured."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def step_ids(span: Span) -> dict[str, Any]:
    """recording_id, request_id and parent_id: span ids are unique within their trace only."""
    parent = f"{span.trace_id}.{span.parent_id}" if span.parent_id else None
    return {"recording_id": f"{span.trace_id}.{span.span_id}", "request_id": span.trace_id, "parent_id": parent}


def _span(raw: dict[str, Any], service: str | None) -> Span:
    for name in ("traceId", "spanId"):
        if not isinstance(raw.get(name), str) or not raw[name]:
            raise BadRecordError("missing_field", f"{name} of the span '{raw.get('name')!s:.60}'")
    status = _object(raw, "status")
    events = [(str(event.get("name")), attributes_of(event.get("attributes"))) for event in _objects(raw, "events")]
    began = _nanoseconds(raw.get("startTimeUnixNano"))
    ended = _nanoseconds(raw.get("endTimeUnixNano"))
    return Span(
        raw["traceId"], raw["spanId"], raw.get("parentSpanId") or None, str(raw.get("name") or "span"), began, ended,
        attributes_of(raw.get("attributes")), events, status.get("code") in (2, "STATUS_CODE_ERROR"),
        str(status.get("message") or ""), service,
    )  # fmt: skip


def _nanoseconds(value: Any) -> Any:
    return None if value in (None, 0, "0", "") else moment(value)


def _value(value: Any) -> Any:
    """The plain value of an OTLP AnyValue; 64-bit integers come as text."""
    if not isinstance(value, dict):
        return None
    if "intValue" in value:
        try:
            return int(value["intValue"])
        except (TypeError, ValueError):
            return None
    if "arrayValue" in value:
        return [_value(item) for item in _object(value, "arrayValue").get("values") or []]
    if "kvlistValue" in value:
        return attributes_of(_object(value, "kvlistValue").get("values"))
    return next((value[key] for key in ("stringValue", "boolValue", "doubleValue", "bytesValue") if key in value), None)


def _object(record: dict[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def _objects(record: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    value = record.get(name)
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))
