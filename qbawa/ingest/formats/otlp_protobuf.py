"""The part of OpenTelemetry's protobuf messages that is read here: a request that exports traces.

Field numbers are those of opentelemetry-proto 1.x (common, resource, trace, collector/trace), where they never change.
Fields that are not named here (links, trace state, counts of what was dropped) are passed over. In a pool of its own,
so that it meets no other copy of these messages in the same process.
"""

from functools import cache
from typing import Any

_STRING, _BOOL, _INT64, _DOUBLE, _BYTES, _ENUM, _FIXED64 = 9, 8, 3, 1, 12, 5, 6  # an enum reads as an int32
_ONE_OF = {"AnyValue": "value"}
_MESSAGES: dict[str, tuple[tuple[str, int, int | str, bool], ...]] = {
    # name, number, type or message, whether repeated
    "AnyValue": (
        ("string_value", 1, _STRING, False),
        ("bool_value", 2, _BOOL, False),
        ("int_value", 3, _INT64, False),
        ("double_value", 4, _DOUBLE, False),
        ("array_value", 5, "ArrayValue", False),
        ("kvlist_value", 6, "KeyValueList", False),
        ("bytes_value", 7, _BYTES, False),
    ),
    "ArrayValue": (("values", 1, "AnyValue", True),),
    "KeyValueList": (("values", 1, "KeyValue", True),),
    "KeyValue": (("key", 1, _STRING, False), ("value", 2, "AnyValue", False)),
    "Resource": (("attributes", 1, "KeyValue", True),),
    "Scope": (("name", 1, _STRING, False),),
    "Event": (("name", 2, _STRING, False), ("attributes", 3, "KeyValue", True)),
    "Status": (("message", 2, _STRING, False), ("code", 3, _ENUM, False)),
    "Span": (
        ("trace_id", 1, _BYTES, False),
        ("span_id", 2, _BYTES, False),
        ("parent_span_id", 4, _BYTES, False),
        ("name", 5, _STRING, False),
        ("kind", 6, _ENUM, False),
        ("start_time_unix_nano", 7, _FIXED64, False),
        ("end_time_unix_nano", 8, _FIXED64, False),
        ("attributes", 9, "KeyValue", True),
        ("events", 11, "Event", True),
        ("status", 15, "Status", False),
    ),
    "ScopeSpans": (("scope", 1, "Scope", False), ("spans", 2, "Span", True)),
    "ResourceSpans": (("resource", 1, "Resource", False), ("scope_spans", 2, "ScopeSpans", True)),
    "ExportTraceServiceRequest": (("resource_spans", 1, "ResourceSpans", True),),
}


_INSIDE = {
    name: {number: kind for _, number, kind, _ in fields if isinstance(kind, str)} for name, fields in _MESSAGES.items()
}
UNCOUNTED_BYTES, MAX_FIELDS = 1 << 20, 2_000_000
"""A body of more bytes than the first is looked through before it is parsed: empty messages, of which 32 MiB hold 16
million, would take two gigabytes and half a minute. Real spans have a field to every 20 bytes or more."""


class NoMessageError(ValueError):
    """The bytes are no such message."""


def parse(data: bytes) -> Any:
    """The message ExportTraceServiceRequest. Raises NoMessageError."""
    request, error = _request()
    if len(data) > UNCOUNTED_BYTES and _has_more_fields(data, MAX_FIELDS):
        raise NoMessageError(f"more than {MAX_FIELDS:,} fields")
    try:
        return request.FromString(data)
    except (error, UnicodeDecodeError, RecursionError, ValueError) as wrong:
        raise NoMessageError(str(wrong)) from None


def _has_more_fields(data: bytes, most: int) -> bool:
    """Whether a request has more fields than that, known or not; False where it is none, as the parser will say."""
    waiting, count = [(0, len(data), "ExportTraceServiceRequest")], 0
    try:
        while waiting:
            at, end, message = waiting.pop()
            inside = _INSIDE[message]
            while at < end:
                count += 1
                if count > most:
                    return True
                tag, at = _varint(data, at)
                wire = tag & 7
                if wire == 2:
                    size, at = _varint(data, at)
                    kind = inside.get(tag >> 3)
                    if kind is not None and size:
                        waiting.append((at, min(at + size, end), kind))
                    at += size
                elif wire == 0:
                    _, at = _varint(data, at)
                elif wire in (1, 5):
                    at += 8 if wire == 1 else 4
                else:
                    break
    except IndexError:
        pass
    return False


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins there, and where it has ended."""
    found = data[at]
    if found < 128:
        return found, at + 1
    found, shift = found & 127, 7
    while True:
        at += 1
        byte = data[at]
        found |= (byte & 127) << shift
        if byte < 128 or shift > 63:
            return found, at + 1
        shift += 7


@cache
def _request() -> tuple[Any, type[Exception]]:
    """The class of the message, and what it raises for other bytes."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="qbawa/otlp.proto", package="qbawa", syntax="proto3")
    for name, fields in _MESSAGES.items():
        described = file.message_type.add(name=name)
        if name in _ONE_OF:
            described.oneof_decl.add(name=_ONE_OF[name])
        for field, number, kind, repeated in fields:
            added = described.field.add(name=field, number=number, label=3 if repeated else 1)
            if isinstance(kind, str):
                added.type, added.type_name = 11, f".qbawa.{kind}"
            else:
                added.type = kind
            if name in _ONE_OF:
                added.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = message_factory.GetMessageClass(pool.FindMessageTypeByName("qbawa.ExportTraceServiceRequest"))
    return found, message.DecodeError
