"""What spans of model calls say besides their messages, in whichever attribute: tools on offer, parameters, cost."""

import math
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Raw

from qbawa.errors import InputError
from qbawa.ingest.formats.otlp_spans import Span, json_of
from qbawa.ingest.journal_lines import NULL, Step
from qbawa.model_apis.any_form import tool_of
from qbawa.model_apis.canonical import detect_request_api, detect_response_api, read_request, read_response

_COSTS = ("llm.cost.total", "gen_ai.usage.cost", "gen_ai.cost.total_cost", "gen_ai.usage.total_cost", "operation.cost")
# As chat completions call them; the others have the same names.
_RENAMED = {"stop_sequences": "stop", "choice.count": "n"}
# The transport's business, or said elsewhere in the row.
_LEFT_OUT = frozenset(
    {"model", "stream", "stream_options", "messages", "input", "instructions", "prompt", "extra_headers", "timeout"}
)
_BODIES = (("input.value", "output.value"), ("request_data", "response_data"))
"""Where instrumentations (OpenInference, Logfire) put the request as it was sent and the response as it came."""


def completed(step: Step, span: Span, *, is_call: bool) -> Step:
    """The step with the tools that were on offer among its parameters, and its cost; no model where it is no call."""
    if not is_call:
        return msgspec.structs.replace(step, model=None, input_tokens=None, output_tokens=None, cost_usd=None)
    step = _by_bodies(step, span)
    parameters = msgspec.json.decode(step.parameters) if step.parameters != NULL else {}
    if not isinstance(parameters, dict):
        parameters = {}
    asked_of = parameters.get("model")
    parameters = {_RENAMED.get(k, k): v for k, v in parameters.items() if k not in _LEFT_OUT and v is not None}
    tools = tools_of(span)
    if tools and not parameters.get("tools"):
        parameters["tools"] = tools
    schema = json_of(span.attributes.get("gen_ai.request.structured_output_schema"))
    if isinstance(schema, dict):
        parameters.pop("structured_output_schema", None)
        parameters["response_format"] = _response_format(schema)
    return msgspec.structs.replace(
        step,
        # A call that failed has no model that answered.
        model=step.model or (asked_of if isinstance(asked_of, str) else None),
        parameters=Raw(msgspec.json.encode(parameters)) if parameters else NULL,
        cost_usd=step.cost_usd if step.cost_usd is not None else _cost(span),
    )


def _by_bodies(step: Step, span: Span) -> Step:
    """The step as the call's own request and response say it, where the span has them: flattened attributes lose parts."""
    known: dict[str, Any] = {}
    for asked_in, answered_in in _BODIES:
        body, response = json_of(span.attributes.get(asked_in)), json_of(span.attributes.get(answered_in))
        api = detect_request_api(body)
        if api is not None and step.api is None and _has_roles(body):
            with suppress(InputError):
                asked = read_request(api, body)
                known |= {"messages": _raw(asked.messages), "api": api}
                known |= {"parameters": _raw({**_invocation(step), **asked.parameters})}
                known |= {"request": _raw(body)} if api != "openai.chat" else {}
                if isinstance(body.get("model"), str) and step.model is None:
                    known["model"] = body["model"]
        if (
            isinstance(response, dict)
            and set(response) <= {"message", "usage"}
            and isinstance(response.get("message"), dict)
        ):
            response = {
                "choices": [{"message": response["message"]}],
                "usage": response.get("usage"),
            }  # Logfire's short form
        answering = detect_response_api(response)
        if answering is not None:
            with suppress(InputError):
                answered = read_response(answering, response)
                if answered.output is not None:
                    known["output"] = _raw(answered.output)
                known["reasoning"] = step.reasoning or answered.reasoning
                known["input_tokens"] = step.input_tokens if step.input_tokens is not None else answered.input_tokens
                known["output_tokens"] = (
                    step.output_tokens if step.output_tokens is not None else answered.output_tokens
                )
    return msgspec.structs.replace(step, **known) if known else step


def _has_roles(body: dict[str, Any]) -> bool:
    """Whether a request's messages are a model API's own; frameworks put theirs in the same attribute."""
    messages = body.get("messages", [])
    return isinstance(messages, list) and all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages)


def _invocation(step: Step) -> dict[str, Any]:
    found = msgspec.json.decode(step.parameters) if step.parameters != NULL else None
    return found if isinstance(found, dict) else {}


def _raw(value: Any) -> Raw:
    return NULL if value is None else Raw(msgspec.json.encode(value))


def tools_of(span: Span) -> list[dict[str, Any]]:
    """The definitions of tools that a call had, as chat completions write them."""
    attributes = span.attributes
    found = json_of(attributes.get("gen_ai.tool.definitions"))
    if not found:
        found = _numbered(attributes, "llm.tools.", ".tool.json_schema") or _flat_functions(attributes)
    if not found:
        found = attributes.get("ai.prompt.tools") or _pydantic_ai(json_of(attributes.get("model_request_parameters")))
    if isinstance(found, dict):
        found = [found]
    if not isinstance(found, list):
        return []
    return [tool_of(tool) for tool in map(json_of, found) if isinstance(tool, dict)]


def _numbered(attributes: dict[str, Any], before: str, after: str) -> list[Any]:
    found = {}
    for key, value in attributes.items():
        if key.startswith(before) and key.endswith(after):
            place = key[len(before) : len(key) - len(after)]
            if place.isdecimal() and len(place) < 10:
                found[int(place)] = value
    return [found[place] for place in sorted(found)]


def _flat_functions(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    """Tools of OpenLLMetry before it followed the GenAI conventions: `llm.request.functions.0.name` and so on."""
    before, found = "llm.request.functions.", list[dict[str, Any]]()
    while name := attributes.get(f"{before}{len(found)}.name"):
        place = f"{before}{len(found)}."
        tool = {"name": name, "description": attributes.get(f"{place}description")}
        found.append({**tool, "parameters": json_of(attributes.get(f"{place}parameters"))})
    return found


def _pydantic_ai(parameters: Any) -> list[Any]:
    if not isinstance(parameters, dict):
        return []
    kinds = (parameters.get("function_tools"), parameters.get("output_tools"))
    return [tool for tools in kinds if isinstance(tools, list) for tool in tools]


def _response_format(schema: dict[str, Any]) -> dict[str, Any]:
    if "json_schema" in schema or schema.get("type") in ("json_schema", "json_object", "text"):
        return schema if "type" in schema else {"type": "json_schema", **schema}
    return {"type": "json_schema", "json_schema": {"name": str(schema.get("title") or "answer"), "schema": schema}}


def _cost(span: Span) -> float | None:
    for name in _COSTS:
        value = span.attributes.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
            return float(value)
    return None
