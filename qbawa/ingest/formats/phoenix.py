"""Spans as Phoenix exports them: of its REST API, or rows of its data frames with columns such as `context.span_id`."""

from collections.abc import Iterator
from typing import Any

from qbawa.ingest.formats import openinference
from qbawa.ingest.formats.content import json_value
from qbawa.ingest.formats.otlp_spans import Span
from qbawa.ingest.formats.step_names import Node
from qbawa.ingest.formats.step_rows import BadRecordError, Origin, moment
from qbawa.ingest.journal_lines import Feedback, Step


def is_phoenix(record: dict[str, Any]) -> bool:
    data = record.get("data")
    if isinstance(data, list) and data and "meta" not in record:
        return isinstance(data[0], dict) and _is_span(data[0])
    return _is_span(record)


def _is_span(record: dict[str, Any]) -> bool:
    context = record.get("context")
    return "context.span_id" in record or (isinstance(context, dict) and "span_id" in context and "trace_id" in context)


def nodes_of(record: dict[str, Any]) -> Iterator[Node]:
    """The spans of a record as a tree, for the names of their steps."""
    for raw in _spans(record):
        span = _span(raw)
        kind = str(span.attributes.get("openinference.span.kind") or "span").lower()
        name = span.first("agent.name", "graph.node.id") or span.name
        yield Node(_key(span), _parent(span), str(name), "call" if kind == "llm" else kind)


def read_phoenix(record: dict[str, Any], origin: Origin) -> Iterator[Step | Feedback | BadRecordError]:
    """Each span as a step."""
    import msgspec

    for raw in _spans(record):
        try:
            span = _span(raw)
            step = openinference.step_of(span, origin)
            name = None if origin.step else origin.names.get(_key(span))
            yield msgspec.structs.replace(step, step=name) if name else step
        except BadRecordError as error:
            yield error


def _spans(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    data = record.get("data")
    items = data if isinstance(data, list) and not _is_span(record) else [record]
    yield from (item for item in items if isinstance(item, dict) and _is_span(item))


def _key(span: Span) -> str:
    return f"{span.trace_id}.{span.span_id}"


def _parent(span: Span) -> str | None:
    return f"{span.trace_id}.{span.parent_id}" if span.parent_id else None


def _span(raw: dict[str, Any]) -> Span:
    context = raw.get("context")
    context = context if isinstance(context, dict) else {}
    attributes = flattened(json_value(raw.get("attributes")))
    for key, value in raw.items():
        if key.startswith("attributes.") and value is not None:
            attributes |= flattened(value, key.removeprefix("attributes."))
    if raw.get("span_kind"):
        attributes.setdefault("openinference.span.kind", raw["span_kind"])
    events = json_value(raw.get("events"))
    named = [
        (str(event.get("name")), flattened(event.get("attributes")))
        for event in (events if isinstance(events, list) else [])
        if isinstance(event, dict)
    ]
    began, ended = raw.get("start_time"), raw.get("end_time")
    return Span(
        trace_id=str(raw.get("context.trace_id") or context.get("trace_id") or ""),
        span_id=str(raw.get("context.span_id") or context.get("span_id") or ""),
        parent_id=raw.get("parent_id") or None,
        name=str(raw.get("name") or "span"),
        started_at=moment(began) if began else None,
        ended_at=moment(ended) if ended else None,
        attributes=attributes,
        events=named,
        failed=str(raw.get("status_code")).upper() == "ERROR",
        message=str(raw.get("status_message") or ""),
        service=None,
    )


def flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested attributes with dotted names, lists of objects by their indices."""
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for key, inner in value.items():
            found |= flattened(inner, f"{prefix}.{key}" if prefix else str(key))
        return found
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        found = {}
        for number, item in enumerate(value):
            found |= flattened(item, f"{prefix}.{number}")
        return found
    return {prefix: value} if prefix and value is not None else {}
