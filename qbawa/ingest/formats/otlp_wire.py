"""What an exporter of OpenTelemetry sends, as lines for the journal: OTLP requests in protobuf or JSON, and the answers."""

import base64
import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from qbawa.ingest.formats.otlp_protobuf import NoMessageError, parse
from qbawa.ingest.formats.otlp_spans import MAX_DEPTH, PROJECTS, hex_id, raw_spans, to_line
from qbawa.ingest.formats.step_rows import BadRecordError
from qbawa.record.redact import Redactor

Encoding = Literal["protobuf", "json"]
ENCODINGS: dict[str, Encoding] = {"application/x-protobuf": "protobuf", "application/json": "json"}
CONTENT_TYPES: dict[Encoding, bytes] = {encoding: name.encode() for name, encoding in ENCODINGS.items()}
MAX_SPAN_BYTES = 32 << 20
"""Of a journal line; a longer span is refused, since no line beyond 64 MiB is read again."""
MAX_PARTS = 100_000
"""Of one kind in one request: spans, their resources and scopes, attributes of a span. Exporters send hundreds; of empty
ones a body could hold millions, and nobody else be served for a minute."""
MAX_BRACKETS = 2_000_000
"""In a body of JSON, for the same reason; 32 MiB of real spans have a million."""
_lone_surrogate = re.compile(rb"(\\u[dD][89abAB]..)(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]..")
_redactor = Redactor()


class BadBodyError(ValueError):
    """A body that is no OTLP request."""


class TooLargeError(ValueError):
    """A body that is larger than may be once it is unpacked."""


@dataclass(slots=True)
class Received:
    """The spans of a request: a line of the journal each, without secrets; and what was refused of them."""

    lines: list[bytes] = field(default_factory=list)
    refused: int = 0
    why: str = ""
    """Of the first that was refused."""

    def refuse(self, why: str) -> None:
        self.refused += 1
        self.why = self.why or why


def read_request(body: bytes, encoding: Encoding) -> Received:
    """The spans of an export. Raises BadBodyError where the body is none."""
    received = Received()
    for line in _of_protobuf(body, received) if encoding == "protobuf" else _of_json(body, received):
        try:
            encoded = orjson.dumps(line)
            if _redactor.may_hold(encoded.decode()):
                clean = {name: _redactor.clean(line[name]) for name in ("name", "message", "attributes", "events")}
                encoded = orjson.dumps({**line, **clean})
        except (TypeError, ValueError, RecursionError) as error:
            received.refuse(f"span {line['name']!r:.60}: {error!s:.100}")
            continue
        if len(encoded) > MAX_SPAN_BYTES:
            received.refuse(f"span {line['name']!r:.60}: {len(encoded):,} bytes; {MAX_SPAN_BYTES >> 20} MiB at most")
        else:
            received.lines.append(encoded)
    return received


def unpacked(body: bytes, limit: int) -> bytes:
    """What a gzip body holds. Raises BadBodyError where it is none, TooLargeError where that is more than `limit` bytes."""
    parts, size = [], 0
    while body:
        packed = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            parts.append(packed.decompress(body, limit - size + 1))
        except zlib.error as error:
            raise BadBodyError(f"the body is no gzip: {error}") from None
        size += len(parts[-1])
        if size > limit:
            raise TooLargeError
        if not packed.eof:
            raise BadBodyError("the gzip body ends in the middle")
        body = packed.unused_data
    return b"".join(parts)


def accepted(received: Received, encoding: Encoding) -> bytes:
    """ExportTraceServiceResponse: a partial success where spans were refused."""
    if not received.refused:
        return b"" if encoding == "protobuf" else b"{}"
    if encoding == "json":
        partial = {"rejectedSpans": str(received.refused), "errorMessage": received.why}
        return orjson.dumps({"partialSuccess": partial})
    return _field(1, b"\x08" + _varint(received.refused) + _field(2, received.why.encode()))


def failed(message: str, encoding: Encoding | None) -> bytes:
    """google.rpc.Status, as OTLP answers whatever is not accepted."""
    if encoding == "protobuf":
        return _field(2, message.encode())
    return orjson.dumps({"message": message})


def _of_protobuf(body: bytes, received: Received) -> Iterator[dict[str, Any]]:
    try:
        request = parse(body)
    except NoMessageError as error:
        raise BadBodyError(f"the body is no ExportTraceServiceRequest: {error}") from None
    now = time.time_ns()
    resources = request.resource_spans
    scopes = 0 if len(resources) > MAX_PARTS else sum(len(resource.scope_spans) for resource in resources)
    count = 0 if scopes > MAX_PARTS else sum(len(s.spans) for resource in resources for s in resource.scope_spans)
    if max(len(resources), scopes, count) > MAX_PARTS:
        raise BadBodyError(f"the body has more than {MAX_PARTS:,} spans, or resources and scopes without any")
    for resource in resources:
        service = None
        if resource.HasField("resource"):
            described = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            service = next((described[name] for name in PROJECTS if described.get(name)), None)
        for scope in resource.scope_spans:
            for span in scope.spans:
                trace, own, parent = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
                if len(trace) != 32 or len(own) != 16 or not trace.strip("0") or not own.strip("0"):
                    received.refuse(f"span {span.name!r:.60}: a trace id has 16 bytes and a span id 8, not all zero")
                    continue
                began, ended = span.start_time_unix_nano, span.end_time_unix_nano
                status = span.status
                try:
                    yield {
                        "v": 1,
                        "kind": "span",
                        "request_id": trace,
                        "recording_id": f"{trace}.{own}",
                        "parent_id": f"{trace}.{parent}" if len(parent) == 16 and parent.strip("0") else None,
                        "name": span.name or "span",
                        "started_ns": _time(began or ended or now),
                        "ended_ns": _time(ended) or None,
                        "edge": span.kind >= 2,
                        "failed": status.code == 2,
                        "message": status.message,
                        "service": service,
                        "scope": scope.scope.name or None,
                        "attributes": _plain(span.attributes, 0),
                        "events": [{"name": e.name, "attributes": _plain(e.attributes, 0)} for e in span.events],
                    }
                except BadRecordError as error:
                    received.refuse(f"span {span.name!r:.60}: {error}")


def _time(ns: int) -> int:
    if ns >= 2**63:
        raise BadRecordError("wrong_type", f"{ns} is no time")
    return ns


def _plain(pairs: Any, depth: int) -> dict[str, Any]:
    """Plain values of key-value pairs. Raises BadRecordError for what is nested too deep."""
    found: dict[str, Any] = {}
    if len(pairs) > MAX_PARTS:
        raise BadRecordError("too_large", f"{len(pairs):,} attributes")
    for pair in pairs:
        value = pair.value
        kind = value.WhichOneof("value")
        if kind == "string_value":
            found[pair.key] = value.string_value
        else:
            found[pair.key] = None if kind is None else _other(value, kind, depth)
    return found


def _other(value: Any, kind: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise BadRecordError("too_deep", f"an attribute of more than {MAX_DEPTH} levels")
    if kind == "array_value":
        items = value.array_value.values
        if len(items) > MAX_PARTS:
            raise BadRecordError("too_large", f"an attribute of {len(items):,} values")
        return [
            _other(item, item.WhichOneof("value"), depth + 1) if item.WhichOneof("value") else None for item in items
        ]
    if kind == "kvlist_value":
        return _plain(value.kvlist_value.values, depth + 1)
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    return getattr(value, kind)


def _of_json(body: bytes, received: Received) -> Iterator[dict[str, Any]]:
    if body.count(b"{") + body.count(b"[") > MAX_BRACKETS:
        raise BadBodyError(f"the body has more than {MAX_BRACKETS:,} objects and lists")
    try:
        record = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # Exporters that cut long texts leave half a surrogate pair behind, which is no reason to refuse a whole batch.
        mended = _lone_surrogate.sub(rb"\\ufffd", body)
        if mended == body:
            raise BadBodyError(f"the body is no JSON: {error}") from None
        try:
            record = orjson.loads(mended)
        except orjson.JSONDecodeError as still:
            raise BadBodyError(f"the body is no JSON: {still}") from None
    if not isinstance(record, dict) or not isinstance(record.get("resourceSpans", []), list):
        raise BadBodyError("the body is no ExportTraceServiceRequest: an object with the list resourceSpans")
    now = time.time_ns()
    for raw, service, scope in raw_spans(record):
        if not (hex_id(raw.get("traceId"), 16) and hex_id(raw.get("spanId"), 8)):
            received.refuse(f"span {raw.get('name')!r:.60}: traceId has 32 hex digits and spanId 16, not all zero")
            continue
        try:
            line = to_line(raw, service, scope)
        except BadRecordError as error:
            received.refuse(f"span {raw.get('name')!r:.60}: {error}")
            continue
        line["started_ns"] = line["started_ns"] or line["ended_ns"] or now
        yield line


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])
