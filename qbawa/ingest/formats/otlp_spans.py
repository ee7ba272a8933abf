"""Spans with their attributes as plain values: of an OTLP JSON export, and of the journal's lines of the kind `span`."""

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from qbawa.ingest.formats.step_rows import BadRecordError, moment

EDGES = ("SPAN_KIND_SERVER", "SPAN_KIND_CLIENT", "SPAN_KIND_PRODUCER", "SPAN_KIND_CONSUMER", 2, 3, 4, 5)
"""Kinds of spans at the edge of a process, which are named after what goes over the wire."""
PROJECTS = ("openinference.project.name", "service.name")
"""Attributes of a resource that name the pipeline, the first there is."""
MAX_DEPTH = 50
"""Of lists and objects in an attribute; protobuf itself ends there."""


class Digest(msgspec.Struct, frozen=True):
    """What was seen of a span when all of it was at hand, where no more than its name is left."""

    role: str
    has_content: bool
    rank: int
    entity: str | None = None


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
    is_edge: bool = False
    """Whether it is the work of a server or a client, named after what goes over the wire."""
    scope: str | None = None
    """The instrumentation that made it."""
    digest: Digest | None = None
    """Where this is not the whole span."""

    @property
    def recording_id(self) -> str:
        """Span ids are unique within their trace only."""
        return f"{self.trace_id}.{self.span_id}"

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


def raw_spans(record: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str | None, str | None]]:
    """Every object of an OTLP JSON export that should be a span, with the names of its service or project and scope."""
    for resource in objects(record, "resourceSpans"):
        described = attributes_of(_object(resource, "resource").get("attributes"))
        service = next((described[name] for name in PROJECTS if described.get(name)), None)
        for scope in objects(resource, "scopeSpans"):
            made_by = _object(scope, "scope").get("name")
            for raw in objects(scope, "spans"):
                yield raw, service if isinstance(service, str) else None, made_by if isinstance(made_by, str) else None


def attributes_of(pairs: Any, depth: int = 0) -> dict[str, Any]:
    """Plain values of OTLP key-value pairs. Raises BadRecordError for what is nested too deep."""
    if not isinstance(pairs, list):
        return {}
    return {str(pair.get("key")): _value(pair.get("value"), depth) for pair in pairs if isinstance(pair, dict)}


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
    return {"recording_id": span.recording_id, "request_id": span.trace_id, "parent_id": parent}


def to_line(raw: dict[str, Any], service: str | None, scope: str | None) -> dict[str, Any]:
    """The journal's line of a span of an OTLP JSON export. Raises BadRecordError where it is none."""
    span = _span(raw, service, scope)
    return {
        "v": 1,
        "kind": "span",
        "request_id": span.trace_id,
        "recording_id": span.recording_id,
        "parent_id": f"{span.trace_id}.{span.parent_id}" if span.parent_id else None,
        "name": span.name,
        "started_ns": nanoseconds(raw.get("startTimeUnixNano")),
        "ended_ns": nanoseconds(raw.get("endTimeUnixNano")),
        "edge": span.is_edge,
        "failed": span.failed,
        "message": span.message,
        "service": span.service,
        "scope": span.scope,
        "attributes": span.attributes,
        "events": [{"name": name, "attributes": attributes} for name, attributes in span.events],
    }


def from_line(line: bytes) -> Span:
    """The span of a line of the kind `span`. Raises msgspec.DecodeError and BadRecordError where it is none."""
    item = _line(line)
    trace = item.request_id
    own, parent = item.recording_id[len(trace) + 1 :], item.parent_id and item.parent_id[len(trace) + 1 :]
    return Span(
        trace, own, parent, item.name, item.started_ns and moment(item.started_ns), item.ended_ns and moment(item.ended_ns),
        item.attributes or {}, [(event.name, event.attributes or {}) for event in item.events or ()], item.failed,
        item.message, item.service, item.edge, item.scope, item.digest,
    )  # fmt: skip


class _Event(msgspec.Struct):
    name: str = ""
    attributes: dict[str, Any] | None = None


class _Line(msgspec.Struct):
    request_id: str
    recording_id: str
    parent_id: str | None = None
    name: str = "span"
    started_ns: int | None = None
    ended_ns: int | None = None
    edge: bool = False
    failed: bool = False
    message: str = ""
    service: str | None = None
    scope: str | None = None
    attributes: dict[str, Any] | None = None
    events: list[_Event] | None = None
    digest: Digest | None = None


_line = msgspec.json.Decoder(_Line).decode


def nanoseconds(value: Any) -> int | None:
    """A time of OTLP JSON, which writes 64-bit integers as text. Raises BadRecordError where it is none."""
    try:
        number = int(value or 0)
    except (TypeError, ValueError, OverflowError):
        raise BadRecordError("wrong_type", f"{value!r:.60} is no time") from None
    if not 0 <= number < 2**63:
        raise BadRecordError("wrong_type", f"{value!r:.60} is no time")
    return number or None


def hex_id(value: Any, length: int) -> str | None:
    """An id of that many bytes as hex digits; None for what is none, or stands for none by consisting of zeros.

    OTLP JSON says hex digits; exporters that leave it to protobuf's own JSON write base64.
    """
    if not isinstance(value, str):
        return None
    found = value.lower()
    if not re.fullmatch(rf"[0-9a-f]{{{2 * length}}}", found):
        try:
            data = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return None
        if len(data) != length:
            return None
        found = data.hex()
    return found if found.strip("0") else None


def _span(raw: dict[str, Any], service: str | None, scope: str | None) -> Span:
    for name in ("traceId", "spanId"):
        if not isinstance(raw.get(name), str) or not raw[name]:
            raise BadRecordError("missing_field", f"{name} of the span '{raw.get('name')!s:.60}'")
    status = _object(raw, "status")
    events = [(str(event.get("name")), attributes_of(event.get("attributes"))) for event in objects(raw, "events")]
    return Span(
        hex_id(raw["traceId"], 16) or raw["traceId"], hex_id(raw["spanId"], 8) or raw["spanId"],
        hex_id(raw.get("parentSpanId"), 8) or _text(raw.get("parentSpanId")), _text(raw.get("name")) or "span",
        _moment(raw.get("startTimeUnixNano")), _moment(raw.get("endTimeUnixNano")),
        attributes_of(raw.get("attributes")), events,
        status.get("code") in (2, "STATUS_CODE_ERROR"), str(status.get("message") or ""), service,
        raw.get("kind") in EDGES if isinstance(raw.get("kind"), str | int) else False, scope,
    )  # fmt: skip


def _moment(value: Any) -> Any:
    return None if value in (None, 0, "0", "") else moment(value)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip("0") else None


def _value(value: Any, depth: int) -> Any:
    """The plain value of an OTLP AnyValue; 64-bit integers come as text."""
    if depth > MAX_DEPTH:
        raise BadRecordError("too_deep", f"an attribute of more than {MAX_DEPTH} levels")
    if not isinstance(value, dict):
        return None
    if "intValue" in value:
        try:
            return int(value["intValue"])
        except (TypeError, ValueError, OverflowError):
            return None
    if "arrayValue" in value:
        items = _object(value, "arrayValue").get("values")
        return [_value(item, depth + 1) for item in items] if isinstance(items, list) else []
    if "kvlistValue" in value:
        return attributes_of(_object(value, "kvlistValue").get("values"), depth + 1)
    return next((value[key] for key in ("stringValue", "boolValue", "doubleValue", "bytesValue") if key in value), None)


def _object(record: dict[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def objects(record: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """The objects in the list that stands under a name."""
    value = record.get(name)
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))
