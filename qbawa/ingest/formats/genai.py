"""Spans by OpenTelemetry's semantic conventions for generative AI, the present ones and those before 1.37."""

from typing import Any

from qbawa.errors import InputError
from qbawa.ingest.formats.content import message_output
from qbawa.ingest.formats.otlp_spans import Span, json_of, step_ids
from qbawa.ingest.formats.step_rows import BadRecordError, Origin, step_row
from qbawa.ingest.journal_lines import Step
from qbawa.model_apis.answers import reasoning_of
from qbawa.model_apis.any_form import conversation
from qbawa.model_apis.genai import messages_of, system_message
from qbawa.model_apis.shapes import Untranslated

_ROLES = {"gen_ai.system.message": "system", "gen_ai.user.message": "user", "gen_ai.assistant.message": "assistant"}
_DETAILS = "gen_ai.client.inference.operation.details"


def step_of(span: Span, origin: Origin) -> Step:
    """The step that a GenAI span describes: a model call, or an agent's or a tool's work around it."""
    details = next((attributes for name, attributes in span.events if name == _DETAILS), {})
    attributes = {**details, **span.attributes}
    operation = str(attributes.get("gen_ai.operation.name") or "")
    asked, answered = _messages(attributes, span)
    calls_model = operation not in ("execute_tool", "invoke_agent", "create_agent", "invoke_workflow")
    inputs, output = None, message_output(answered[0]) if answered else None
    if operation == "execute_tool":
        inputs = {"arguments": json_of(attributes.get("gen_ai.tool.call.arguments"))}
        output = json_of(attributes.get("gen_ai.tool.call.result"))
    model = attributes.get("gen_ai.request.model") or attributes.get("gen_ai.response.model")
    prefix = "gen_ai.request."
    return step_row(
        origin,
        **step_ids(span),
        step=_name(span, operation, model, attributes),
        pipeline=span.service,
        started_at=span.started_at,
        ended_at=span.ended_at,
        inputs=inputs,
        messages=asked or None,
        output=output,
        model=model if calls_model else None,
        parameters={
            k.removeprefix(prefix): v for k, v in attributes.items() if k.startswith(prefix) and k != f"{prefix}model"
        },
        input_tokens=_either(attributes, "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
        if calls_model
        else None,
        output_tokens=_either(attributes, "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
        if calls_model
        else None,
        error=span.error(),
        tags={
            "provider": attributes.get("gen_ai.provider.name") or attributes.get("gen_ai.system"),
            "conversation": attributes.get("gen_ai.conversation.id"),
        },
        user=span.first("user.id", "enduser.id"),
        reasoning=reasoning_of(answered[0]) if answered and isinstance(answered[0], dict) else None,
    )


def _messages(attributes: dict[str, Any], span: Span) -> tuple[list[Any], list[Any]]:
    """Messages asked and answered, wherever this version of the conventions keeps them."""
    asked, answered = _list(attributes, "gen_ai.input.messages"), _list(attributes, "gen_ai.output.messages")
    instructions = _list(attributes, "gen_ai.system_instructions")
    if instructions:
        asked = [system_message(instructions), *asked]
    if asked or answered:
        return asked, answered
    # Before 1.37 messages were events; OpenLLMetry flattens them into attributes.
    for name, event in span.events:
        if name in _ROLES:
            asked.append({"role": _ROLES[name], **_json_object(event)})
        elif name == "gen_ai.tool.message":
            asked.append({"role": "tool", "content": event.get("content"), "tool_call_id": event.get("id")})
        elif name == "gen_ai.choice":
            message = json_of(event.get("message"))
            answered.append(message if isinstance(message, dict) else {"role": "assistant", **_json_object(event)})
    return asked or _flat(attributes, "gen_ai.prompt"), answered or _flat(attributes, "gen_ai.completion")


def _flat(attributes: dict[str, Any], prefix: str) -> list[dict[str, Any]]:
    """Messages of attributes such as `gen_ai.prompt.0.content`."""
    found: list[dict[str, Any]] = []
    while (role := attributes.get(f"{prefix}.{len(found)}.role")) or f"{prefix}.{len(found)}.content" in attributes:
        found.append({"role": role or "assistant", "content": attributes.get(f"{prefix}.{len(found)}.content")})
    return found


def _list(attributes: dict[str, Any], name: str) -> list[Any]:
    value = json_of(attributes.get(name))
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRecordError("wrong_type", f"{name} is {value!r:.60}, not a list")
    if name == "gen_ai.system_instructions":
        return value
    try:
        found = conversation(value)
        return found.messages if found else messages_of(value, name, Untranslated())
    except InputError as error:
        raise BadRecordError("wrong_type", str(error)) from None


def _name(span: Span, operation: str, model: Any, attributes: dict[str, Any]) -> str:
    """Span names are `{operation} {model}` by convention; the model is no part of the step."""
    if operation and model and span.name == f"{operation} {model}":
        return str(attributes.get("gen_ai.agent.name") or operation)
    return span.name


def _either(attributes: dict[str, Any], new: str, old: str) -> Any:
    return attributes[new] if new in attributes else attributes.get(old)


def _json_object(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key in ("content", "role", "tool_calls", "name")}
