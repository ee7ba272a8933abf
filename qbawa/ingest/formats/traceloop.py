"""Spans of the Traceloop SDK (OpenLLMetry) around model calls: workflows, tasks, agents and tools."""

from typing import Any

from qbawa.ingest.formats.otlp_spans import Span, json_of, step_ids
from qbawa.ingest.formats.step_rows import Origin, step_row
from qbawa.ingest.journal_lines import Step

_PROPERTIES = "traceloop.association.properties."


def step_of(span: Span, origin: Origin) -> Step:
    """The function that the span was put around, with its arguments and what it returned."""
    properties = {k.removeprefix(_PROPERTIES): v for k, v in span.attributes.items() if k.startswith(_PROPERTIES)}
    user = properties.pop("user_id", None)
    return step_row(
        origin,
        **step_ids(span),
        step=span.name,
        pipeline=span.service,
        started_at=span.started_at,
        ended_at=span.ended_at,
        inputs=_inputs(json_of(span.attributes.get("traceloop.entity.input"))),
        output=json_of(span.attributes.get("traceloop.entity.output")),
        error=span.error(),
        tags=properties,
        user=user if isinstance(user, str | int) else None,
    )


def _inputs(value: Any) -> dict[str, Any] | None:
    """Arguments by name; those without one as a list under `args`."""
    if value in (None, "", {}):
        return None
    if not isinstance(value, dict):
        return {"input": value}
    if value.keys() <= {"args", "kwargs"}:
        named = value.get("kwargs") if isinstance(value.get("kwargs"), dict) else {}
        return {**({"args": value["args"]} if value.get("args") else {}), **(named or {})}
    if isinstance(value.get("inputs"), dict):  # LangChain's callbacks
        return value["inputs"]
    return value
