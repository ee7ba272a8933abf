"""Spans by OpenInference's conventions, as Phoenix and its instrumentations write them."""

import re
from typing import Any

from qbawa.ingest.formats.openai import message_output
from qbawa.ingest.formats.otlp_spans import Span, json_of, step_ids
from qbawa.ingest.formats.step_rows import Origin, step_row
from qbawa.ingest.journal_lines import Step

_INDEX = re.compile(r"(\d+)(?:\.(.*))?$")


def step_of(span: Span, origin: Origin) -> Step:
    """The step that an OpenInference span describes; only the kind LLM is a model call."""
    attributes = span.attributes
    is_call = str(attributes.get("openinference.span.kind")).upper() == "LLM"
    messages = [_message(item) for item in _indexed(attributes, "llm.input_messages")]
    answers = [_message(item) for item in _indexed(attributes, "llm.output_messages")]
    value = _typed(attributes, "input")
    variables = json_of(attributes.get("llm.prompt_template.variables"))
    inputs = variables if isinstance(variables, dict) else None
    if inputs is None and not messages and value is not None:
        inputs = value if isinstance(value, dict) else {"input": value}
    parameters = json_of(attributes.get("llm.invocation_parameters"))
    metadata = json_of(attributes.get("metadata"))
    labels = attributes.get("tag.tags")
    return step_row(
        origin,
        **step_ids(span),
        step=span.name,
        pipeline=span.service,
        started_at=span.started_at,
        ended_at=span.ended_at,
        inputs=inputs,
        messages=messages or None,
        output=message_output(answers[0]) if answers else _typed(attributes, "output"),
        model=attributes.get("llm.model_name") if is_call else None,
        parameters=parameters if isinstance(parameters, dict) else None,
        input_tokens=attributes.get("llm.token_count.prompt") if is_call else None,
        output_tokens=attributes.get("llm.token_count.completion") if is_call else None,
        cost_usd=attributes.get("llm.cost.total") if is_call else None,
        error=span.error(),
        tags={
            **(metadata if isinstance(metadata, dict) else {}),
            **{str(label): True for label in (labels if isinstance(labels, list) else [])},
            "session": attributes.get("session.id"),
        },
        user=attributes.get("user.id"),
    )


def _indexed(attributes: dict[str, Any], prefix: str) -> list[dict[str, Any]]:
    """Objects that were flattened into `prefix.<index>.<key>` attributes, in the order of their indices."""
    found: dict[int, dict[str, Any]] = {}
    for key, value in attributes.items():
        if key.startswith(f"{prefix}.") and (match := _INDEX.match(key, len(prefix) + 1)):
            found.setdefault(int(match[1]), {})[match[2] or ""] = value
    return [found[index] for index in sorted(found)]


def _message(item: dict[str, Any]) -> dict[str, Any]:
    """A chat message from its flattened `message.*` attributes."""
    message: dict[str, Any] = {"role": item.get("message.role"), "content": item.get("message.content")}
    contents = [_content(part) for part in _indexed(item, "message.contents")]
    if contents:
        texts = [part["text"] for part in contents if part["type"] == "text"]
        message["content"] = "\n".join(texts) if len(texts) == len(contents) else contents
    calls = [
        {
            "id": call.get("tool_call.id"),
            "type": "function",
            "function": {
                "name": call.get("tool_call.function.name"),
                "arguments": call.get("tool_call.function.arguments"),
            },
        }
        for call in _indexed(item, "message.tool_calls")
    ]
    if calls:
        message["tool_calls"] = calls
    for name in ("tool_call_id", "name"):
        if item.get(f"message.{name}"):
            message[name] = item[f"message.{name}"]
    return message


def _content(part: dict[str, Any]) -> dict[str, Any]:
    kind = part.get("message_content.type") or "text"
    if kind == "image":
        return {"type": "image_url", "image_url": {"url": part.get("message_content.image.image.url")}}
    return {"type": kind, "text": str(part.get("message_content.text") or "")}


def _typed(attributes: dict[str, Any], side: str) -> Any:
    """`input.value` or `output.value`, read as JSON where its MIME type says so."""
    value = attributes.get(f"{side}.value")
    return json_of(value) if attributes.get(f"{side}.mime_type") == "application/json" else value
