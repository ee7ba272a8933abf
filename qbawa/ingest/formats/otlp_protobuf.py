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


class NoMessageError(ValueError):
    """The bytes are no such message."""


def parse(data: bytes) -> Any:
    """The message ExportTraceServiceRequest. Raises NoMessageError."""
    request, error = _request()
    try:
        return request.FromString(data)
    except (error, UnicodeDecodeError, RecursionError, ValueError) as wrong:
        raise NoMessageError(str(wrong)) from None


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
