"""Spans by OpenInference's conventions, as Phoenix and its instrumentations write them."""

import re
from dataclasses import replace
from typing import Any

from qbawa.ingest.formats.otlp_spans import Span, json_of, step_ids
from qbawa.ingest.formats.step_rows import Origin, step_row
from qbawa.ingest.journal_lines import Step
from qbawa.model_apis.answers import answer_of, reasoning_of
from qbawa.model_apis.any_form import Question, answer_in, conversation, question_in, tool_of
from qbawa.model_apis.shapes import ACCOUNTING, TRANSPORT, Answered, Asked

_INDEX = re.compile(r"(\d+)(?:\.(.*))?$")
_SAID_ELSEWHERE = frozenset({"model", "messages", "contents", "input", "instructions", "system", "prompt", "config"})


def step_of(span: Span, origin: Origin) -> Step:
    """The step that an OpenInference span describes; only the kind LLM is a model call."""
    attributes = span.attributes
    is_call = str(attributes.get("openinference.span.kind")).upper() == "LLM"
    question, answer = call_of(attributes) if is_call else (None, None)
    value = _typed(attributes, "input")
    variables = json_of(attributes.get("llm.prompt_template.variables"))
    inputs = variables if isinstance(variables, dict) else None
    if inputs is None and question is None and value is not None:
        inputs = value if isinstance(value, dict) else {"input": value}
    parameters = json_of(attributes.get("llm.invocation_parameters"))
    metadata = json_of(attributes.get("metadata"))
    labels = attributes.get("tag.tags")
    output = _typed(attributes, "output")
    return step_row(
        origin,
        **step_ids(span),
        step=span.name,
        pipeline=span.service,
        started_at=span.started_at,
        ended_at=span.ended_at,
        inputs=inputs,
        messages=question.asked.messages if question else None,
        output=answer.output if answer else output,
        model=attributes.get("llm.model_name") if is_call else None,
        parameters=question.asked.parameters if question else parameters if isinstance(parameters, dict) else None,
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
        api=question.api if question else None,
        request=question.request if question else None,
        reasoning=answer.reasoning if answer else None,
    )


def call_of(attributes: dict[str, Any]) -> tuple[Question | None, Answered | None]:
    """What a model call's span asked and answered: by the bodies that it holds whole, else by its messages."""
    return _question(attributes), _answer(attributes)


def _question(attributes: dict[str, Any]) -> Question | None:
    parameters = json_of(attributes.get("llm.invocation_parameters"))
    parameters = parameters if isinstance(parameters, dict) else {}
    body = _typed(attributes, "input")
    whole = question_in({**parameters, **body}) if isinstance(body, dict) else None
    found = conversation([_message(item) for item in _indexed(attributes, "llm.input_messages")])
    tools = [tool_of(t) for t in (_tool(item) for item in _indexed(attributes, "llm.tools")) if t is not None]
    if whole is None or (found is not None and len(found.messages) > len(whole.asked.messages)):
        if found is None:
            return None
        left_out = TRANSPORT | ACCOUNTING | _SAID_ELSEWHERE
        rest = {k: v for k, v in parameters.items() if k not in left_out and v is not None}
        if not isinstance(rest.get("tools", []), list):
            del rest["tools"]
        whole = Question(Asked(found.messages, rest, found.untranslated))
    if tools and (whole.request is None or "tools" not in whole.asked.parameters):
        asked = replace(whole.asked, parameters={**whole.asked.parameters, "tools": tools})
        whole = replace(whole, asked=asked)
    return whole


def _answer(attributes: dict[str, Any]) -> Answered | None:
    body = _typed(attributes, "output")
    whole = answer_in(body) if isinstance(body, dict | list) else None
    if whole is not None and whole.output is not None:
        return whole
    found = conversation([_message(item) for item in _indexed(attributes, "llm.output_messages")])
    if found is None or not found.messages:
        return None
    said = [answer_of(message) for message in found.messages]
    return Answered(said[0] if len(said) == 1 else said, reasoning_of(found.messages[0]))


def _tool(item: dict[str, Any]) -> dict[str, Any] | None:
    value = json_of(item.get("tool.json_schema"))
    return value if isinstance(value, dict) else None


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
