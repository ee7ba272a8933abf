"""A trace of an application with a task, an agent and model calls, as an exporter sends it, and bodies that say it."""

from __future__ import annotations

import gzip
import json
from typing import Any

TRACE = "0af7651916cd43dd8448eb211c80319c"
BEGAN = 1_795_261_557_000_000_000
PROTOBUF, JSON = "application/x-protobuf", "application/json"


def span(number: int, parent: int | None, name: str, attributes: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One span as OTLP JSON; ids are made from the numbers."""
    found = {
        "traceId": TRACE,
        "spanId": f"{number:016x}",
        "name": name,
        "kind": 1,
        "startTimeUnixNano": str(BEGAN + number * 1_000_000),
        "endTimeUnixNano": str(BEGAN + number * 2_000_000),
        "attributes": [{"key": key, "value": value(item)} for key, item in attributes.items()],
        "status": {},
    }
    return found | ({"parentSpanId": f"{parent:016x}"} if parent else {}) | more


def value(item: Any) -> dict[str, Any]:
    """An OTLP value."""
    if isinstance(item, bool):
        return {"boolValue": item}
    if isinstance(item, int):
        return {"intValue": str(item)}
    if isinstance(item, float):
        return {"doubleValue": item}
    if isinstance(item, list):
        return {"arrayValue": {"values": [value(one) for one in item]}}
    return {"stringValue": item}


def model_call(number: int, parent: int | None, asked: str, answered: str, **attributes: Any) -> dict[str, Any]:
    said = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-x",
        "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": asked}]}]),
        "gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": answered}]}]),
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 7,
    }
    return span(number, parent, "chat gpt-x", said | {k.replace("__", "."): v for k, v in attributes.items()}, kind=3)


def one_trace() -> list[dict[str, Any]]:
    """A server's span around a function of the application, around a task with a call, and an agent with two and a tool."""
    task = {"traceloop.span.kind": "task", "traceloop.entity.name": "extract"}
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "reviewer"}
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search", "gen_ai.tool.call.result": "3 hits"}
    return [
        span(1, None, "POST /contracts", {"http.route": "/contracts"}, kind=2),
        span(2, 1, "handle", {"customer": "c7"}),
        span(3, 2, "extract.task", task),
        model_call(4, 3, "Extract!", "Three clauses."),
        span(5, 2, "invoke_agent reviewer", agent),
        model_call(6, 5, "Review!", "Search first."),
        span(7, 5, "execute_tool search", tool),
        span(8, 5, "retry", {}),
        model_call(9, 8, "Review again!", "Fine."),
        span(10, 1, "SELECT contracts", {"db.system": "postgresql"}, kind=3),
    ]


def export(spans: list[dict[str, Any]], service: str = "contracts") -> dict[str, Any]:
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "app"}, "spans": spans}]}]}


def json_body(spans: list[dict[str, Any]]) -> bytes:
    return json.dumps(export(spans)).encode()


def protobuf_body(spans: list[dict[str, Any]]) -> bytes:
    """The same in protobuf, written by hand: field numbers are those of opentelemetry-proto."""
    resource = _field(1, _pair("service.name", {"stringValue": "contracts"}))
    scope = _field(1, _field(1, b"app")) + b"".join(_field(2, _span(one)) for one in spans)
    return _field(1, _field(1, resource) + _field(2, scope))


def packed(body: bytes) -> bytes:
    return gzip.compress(body, 1)


def _span(one: dict[str, Any]) -> bytes:
    parts = [_field(1, bytes.fromhex(one["traceId"])), _field(2, bytes.fromhex(one["spanId"]))]
    parts += [_field(4, bytes.fromhex(one["parentSpanId"]))] if "parentSpanId" in one else []
    parts += [_field(5, one["name"].encode()), b"\x30" + _varint(one["kind"])]
    parts += [b"\x39" + int(one["startTimeUnixNano"]).to_bytes(8, "little")]
    parts += [b"\x41" + int(one["endTimeUnixNano"]).to_bytes(8, "little")]
    parts += [_field(9, _pair(pair["key"], pair["value"])) for pair in one["attributes"]]
    return b"".join(parts)


def _pair(key: str, item: dict[str, Any]) -> bytes:
    return _field(1, key.encode()) + _field(2, _value(item))


def _value(item: dict[str, Any]) -> bytes:
    ((kind, found),) = item.items()
    if kind == "stringValue":
        return _field(1, found.encode())
    if kind == "boolValue":
        return b"\x10" + _varint(int(found))
    if kind == "intValue":
        return b"\x18" + _varint(int(found))
    assert kind == "arrayValue", kind
    return _field(5, b"".join(_field(1, _value(one)) for one in found["values"]))


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])
