"""OpenTelemetry traces: which convention a span follows, and what it says as a step."""

from typing import Any, Literal

from qbawa.ingest.formats import genai, openinference, otlp_call, traceloop
from qbawa.ingest.formats.otlp_spans import Span, json_of, step_ids
from qbawa.ingest.formats.step_rows import Origin, step_row
from qbawa.ingest.journal_lines import Step

Role = Literal["call", "entity", "other", "plain"]
"""A model call; a task, an agent, a tool or the like; other work by a convention; a span of something else."""

_GENAI_AROUND = {
    "invoke_agent": ("gen_ai.agent.name",),
    "create_agent": ("gen_ai.agent.name",),
    "invoke_workflow": ("gen_ai.workflow.name",),
    "execute_tool": ("gen_ai.tool.name",),
}
"""Operations that are no model call, and what names them."""
_GENAI_MODELS = ("gen_ai.request.model", "gen_ai.response.model")


_CONTENT = (
    *("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.prompt", "gen_ai.completion", "input.value"),
    *("output.value", "llm.input_messages", "llm.output_messages", "llm.prompts", "ai.prompt", "request_data"),
)
_EVENTS = ("gen_ai.user.message", "gen_ai.choice", "gen_ai.client.inference.operation.details")


def is_otlp(record: dict[str, Any]) -> bool:
    return isinstance(record.get("resourceSpans"), list)


def role(span: Span) -> Role:
    """What a span stands for, by its own attributes."""
    if span.digest:
        return span.digest.role  # type: ignore[return-value]
    attributes = span.attributes
    if attributes.get("logfire.span_type") == "pending_span":
        return "plain"  # says only that another span has begun
    kind = attributes.get("openinference.span.kind")
    if kind is not None:
        return "call" if str(kind).upper() == "LLM" else "entity"
    if "traceloop.span.kind" in attributes:
        return "entity"
    if not any(key.startswith("gen_ai.") for key in attributes):
        return "plain"
    operation = attributes.get("gen_ai.operation.name")
    if operation in _GENAI_AROUND:
        return "entity"
    if operation or any(attributes.get(name) for name in _GENAI_MODELS):
        return "call"
    if "gen_ai.agent.name" in attributes or "gen_ai.tool.name" in attributes:
        return "entity"
    return "call" if any(key.startswith(("gen_ai.prompt", "gen_ai.input.messages")) for key in attributes) else "other"


def entity_name(span: Span) -> str | None:
    """What a task, an agent, a tool or the like is called, without the words that its convention puts around it."""
    attributes = span.attributes
    if "openinference.span.kind" in attributes:
        kind = str(attributes["openinference.span.kind"]).upper()
        name = span.first("agent.name", "graph.node.id", *(("tool.name",) if kind == "TOOL" else ()))
        return _text(name) or span.name
    if "traceloop.span.kind" in attributes:
        return _text(attributes.get("traceloop.entity.name")) or span.name
    named_by = _GENAI_AROUND.get(
        str(attributes.get("gen_ai.operation.name")), ("gen_ai.agent.name", "gen_ai.tool.name")
    )
    return _text(span.first(*named_by)) or span.name


def own_entity(span: Span) -> str | None:
    """The task, agent or node in which a model call was made, as far as its span says so itself."""
    if span.digest:
        return span.digest.entity
    metadata = json_of(span.attributes.get("metadata"))
    if isinstance(metadata, dict) and _text(metadata.get("langgraph_node")):
        return str(metadata["langgraph_node"])
    path = _text(span.attributes.get("traceloop.entity.path"))
    if path:
        return path.rpartition(".")[2] or path
    return _text(span.first("gen_ai.agent.name", "traceloop.workflow.name"))


def has_content(span: Span) -> bool:
    """Whether a model call's span says what was asked or answered."""
    if span.digest:
        return span.digest.has_content
    return any(key.startswith(_CONTENT) for key in span.attributes) or any(name in _EVENTS for name, _ in span.events)


def kind_of(span: Span) -> str:
    """`agent`, `task`, `chain` …; `span` where no convention says so."""
    kind = span.first("traceloop.span.kind", "openinference.span.kind") or span.attributes.get("gen_ai.operation.name")
    words = {"invoke_agent": "agent", "create_agent": "agent", "execute_tool": "tool", "invoke_workflow": "workflow"}
    return words.get(str(kind), str(kind).lower()) if isinstance(kind, str) else "span"


def step_of(span: Span, origin: Origin) -> Step:
    """The step that a span describes, under the name that it has itself. Raises BadRecordError."""
    if "openinference.span.kind" in span.attributes:
        return otlp_call.completed(openinference.step_of(span, origin), span, is_call=role(span) == "call")
    if "traceloop.span.kind" in span.attributes:
        return traceloop.step_of(span, origin)
    if role(span) != "plain":
        return otlp_call.completed(genai.step_of(span, origin), span, is_call=role(span) == "call")
    tags = {key: value for key, value in span.attributes.items() if _is_short(value)}
    return step_row(
        origin,
        **step_ids(span),
        step=span.name,
        pipeline=span.service,
        started_at=span.started_at,
        ended_at=span.ended_at,
        error=span.error(),
        tags=tags,
        user=_text(span.first("user.id", "enduser.id")),
    )


def _is_short(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 200)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
