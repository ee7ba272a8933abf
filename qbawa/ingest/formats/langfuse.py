"""Langfuse: observations, traces and scores of its API and blob export, and what "download JSON" writes.

Names are those of the API (camelCase) or of the files (snake_case). An observation that is a model call may hold the bodies
of any provider's API and the messages of any framework (qbawa/model_apis); its instrumentation's attributes are in metadata.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qbawa.ingest.formats.content import Unread, answered, asked, json_value, message_output, tools_in
from qbawa.ingest.formats.openinference import call_of
from qbawa.ingest.formats.otlp_spans import json_of
from qbawa.ingest.formats.step_names import Node
from qbawa.ingest.formats.step_rows import BadRecordError, Origin, feedback_row, step_row
from qbawa.ingest.journal_lines import Feedback, Step
from qbawa.model_apis.any_form import question_in
from qbawa.model_apis.genai import system_message

_MODEL_CALLS = ("GENERATION", "EMBEDDING")
_capital = re.compile(r"(?<=[a-z])(?=[A-Z])")
# What instrumentation notes among the parameters without its being one.
_NO_PARAMETERS = frozenset(
    {"model", "id", "created_at", "metadata", "user", "is_stream", "stream", "billing", "system", "mode", "object",
     "finishReason", "maxRetries", "maxSteps", "background", "truncation", "service_tier", "instructions"}
)  # fmt: skip
_RENAMED = {
    "maxTokens": "max_tokens", "max_output_tokens": "max_completion_tokens", "maxOutputTokens": "max_completion_tokens",
    "stop_sequences": "stop", "choice.count": "n", "toolChoice": "tool_choice", "topP": "top_p",
    "frequencyPenalty": "frequency_penalty", "presencePenalty": "presence_penalty", "topK": "top_k",
}  # fmt: skip
# A response of the Responses API says again what was asked.
_SAID_AGAIN = (
    "model", "instructions", "tools", "tool_choice", "text", "reasoning", "temperature", "top_p", "max_output_tokens",
    "parallel_tool_calls", "previous_response_id", "conversation", "max_tool_calls", "top_logprobs", "prompt",
)  # fmt: skip


def is_langfuse(record: dict[str, Any]) -> bool:
    kind = _kind(_snake(record))
    return kind is not None


def read_langfuse(record: dict[str, Any], origin: Origin) -> Iterator[Step | Feedback | BadRecordError]:
    """An observation or trace as a step, a score as feedback; a page of the API or full trace as all that it holds."""
    record = _snake(record)
    kind = _kind(record)
    if kind == "page":
        yield from _page(record["data"], origin)
    elif kind == "score":
        yield _score(record)
    elif kind == "observation":
        yield from _observations([record], origin)
    elif kind == "trace":
        yield from _trace(record, record.get("observations"), origin)
    elif kind == "download":
        yield from _trace(_snake(record["trace"]), record["observations"], origin)
    else:
        raise BadRecordError("unknown_kind", "neither observation nor trace nor score")


def _kind(record: dict[str, Any]) -> str | None:
    if isinstance(record.get("data"), list) and "meta" in record:
        return "page"
    if isinstance(record.get("trace"), dict) and isinstance(record.get("observations"), list):
        return "download"
    if "id" not in record:
        return None
    if record.get("trace_id") and "name" in record and ("value" in record or "string_value" in record):
        return "score"
    if "start_time" in record and "type" in record:
        return "observation"
    if (
        "timestamp" in record
        and "trace_id" not in record
        and record.keys() & {"session_id", "user_id", "observations", "bookmarked"}
    ):
        return "trace"
    return None


def _page(items: list[Any], origin: Origin) -> Iterator[Step | Feedback | BadRecordError]:
    """What a page says; its observations are named by the tree that they make."""
    records = [_snake(item) for item in items if isinstance(item, dict)]
    observations = [record for record in records if _kind(record) == "observation"]
    yield from _observations(observations, origin)
    for record in records:
        if record not in observations:
            try:
                yield from read_langfuse(record, origin)
            except BadRecordError as error:
                yield error


def _trace(trace: dict[str, Any], observations: Any, origin: Origin) -> Iterator[Step | Feedback | BadRecordError]:
    """The trace itself, its observations and its scores. A list of bare ids, as the API gives them unexpanded, says nothing."""
    if not isinstance(trace.get("id"), str):
        raise BadRecordError("missing_field", "id of the trace")
    own = {"trace_id": trace["id"], "user_id": trace.get("user_id"), "trace_name": trace.get("name")}
    listed = observations if isinstance(observations, list) else []
    records = [{**own, **_snake(item)} for item in listed if isinstance(item, dict)]
    calls = any(record.get("type") in _MODEL_CALLS for record in records)
    try:
        yield _request(trace, origin, has_calls=calls)
    except BadRecordError as error:
        yield error
    yield from _observations(records, origin)
    for name in ("scores", "corrections"):
        for item in trace[name] if isinstance(trace.get(name), list) else []:
            if isinstance(item, dict):
                try:
                    yield _score({**own, **_snake(item)})
                except BadRecordError as error:
                    yield error


def _observations(records: Sequence[dict[str, Any]], origin: Origin) -> Iterator[Step | Feedback | BadRecordError]:
    by_id = {record["id"]: record for record in records if isinstance(record.get("id"), str)}
    calls = any(record.get("type") in _MODEL_CALLS for record in records)
    for record in records:
        try:
            if _kind(record) != "observation":
                raise BadRecordError("unknown_kind", f"no observation; keys: {', '.join(record)[:120]}")
            yield from _observation(record, origin, by_id, has_calls=calls)
        except BadRecordError as error:
            yield error


def nodes_of(record: dict[str, Any]) -> Iterator[Node]:
    """What a record holds as a tree, for the names of its steps."""
    record = _snake(record)
    kind = _kind(record)
    if kind == "page":
        for item in record["data"]:
            if isinstance(item, dict):
                yield from nodes_of(item)
    elif kind == "observation" and isinstance(record.get("id"), str):
        yield _node(record)
    elif kind in ("trace", "download"):
        trace = _snake(record["trace"]) if kind == "download" else record
        if isinstance(trace.get("id"), str):
            yield Node(trace["id"], None, str(trace.get("name") or "trace"), "trace")
        for item in record["observations"] if isinstance(record.get("observations"), list) else []:
            if isinstance(item, dict):
                yield from nodes_of({"traceId": trace.get("id"), **item})


def _node(record: dict[str, Any]) -> Node:
    metadata = _object(record, "metadata")
    attributes = _attributes(metadata)
    kind = "call" if record.get("type") in _MODEL_CALLS else str(record.get("type") or "span").lower()
    task = metadata.get("langgraph_node")
    name = record.get("name")
    if kind == "agent":
        name = attributes.get("gen_ai.agent.name") or name
    models = (_first(record, "model", "provided_model_name", "model_id"), attributes.get("gen_ai.request.model"))
    model = next((m for m in reversed(models) if isinstance(m, str) and str(name).endswith(m)), None)
    parent = record.get("parent_observation_id") or record.get("trace_id")
    return Node(
        record["id"], parent if isinstance(parent, str) else None, str(name or kind), kind, model,
        task if isinstance(task, str) else None,
    )  # fmt: skip


def _observation(
    record: dict[str, Any], origin: Origin, by_id: Mapping[str, dict[str, Any]], *, has_calls: bool
) -> Iterator[Step | BadRecordError]:
    usage = _object(record, "usage_details") or _object(record, "usage")
    cost = _object(record, "cost_details")
    is_call = record["type"] in _MODEL_CALLS
    unread = Unread(f"observation '{record.get('name')}' ({record['id']!s:.64})")
    content = _call(record, by_id, unread) if is_call else _work(record, quoted=False, may_ask=not has_calls)
    said = content.pop("said", None)
    input_tokens = _first(record, "prompt_tokens", "input_usage") if "input" not in usage else usage["input"]
    output_tokens = _first(record, "completion_tokens", "output_usage") if "output" not in usage else usage["output"]
    if is_call and said is not None and not input_tokens and not output_tokens:
        input_tokens, output_tokens = said.input_tokens, said.output_tokens
    elif not usage and not input_tokens and not output_tokens:
        input_tokens = output_tokens = None  # zeros of what counted nothing
    model = _first(record, "model", "provided_model_name", "model_id") if is_call else None
    price = cost["total"] if "total" in cost else _first(record, "total_cost", "calculated_total_cost")
    if not cost and not float(price or 0):
        price = None  # what had no price stands there as 0
    if not is_call and has_calls:
        # What an agent counts, its calls below it have counted.
        input_tokens = output_tokens = price = None
    yield step_row(
        origin,
        step=origin.names.get(str(record["id"])) or record.get("name") or str(record["type"]).lower(),
        recording_id=record["id"],
        request_id=record.get("trace_id") or record["id"],
        parent_id=record.get("parent_observation_id") or record.get("trace_id"),
        pipeline=record.get("trace_name"),
        started_at=record["start_time"],
        ended_at=record.get("end_time"),
        model=model or (said.model if said is not None else None),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cost_usd=price,
        error=_error(record),
        tags=_tags(record),
        user=record.get("user_id"),
        **content,
    )
    yield from unread.errors()


def _call(record: dict[str, Any], by_id: Mapping[str, dict[str, Any]], unread: Unread) -> dict[str, Any]:
    """What a generation asked and answered."""
    metadata = _object(record, "metadata")
    attributes = _attributes(metadata)
    also, answer = call_of(attributes)
    value, output = json_value(record.get("input")), json_value(record.get("output"))
    value = _said_again(value, output)
    said, answer = answered(output, unread, answer)
    content = asked(value, unread, also)
    parameters = (
        {**_parameters(record), **(content.get("parameters") or {})}
        if not content.get("request")
        else content["parameters"]
    )
    if "tools" not in parameters:
        tools = _tools(record, metadata, attributes) or (also.asked.parameters.get("tools") if also else None)
        parameters = {**parameters, **({"tools": tools} if tools else {})}
    messages = content.get("messages")
    if messages and messages[0].get("role") not in ("system", "developer"):
        messages = [*_inherited_instructions(record, by_id), *messages]
    return {**content, **said, "messages": messages, "parameters": parameters, "said": answer}


def _said_again(value: Any, output: Any) -> Any:
    """Items alone become the request that they were, where the response says what else was asked."""
    if not isinstance(output, dict) or output.get("object") != "response":
        return value
    if not isinstance(value, str | list) or (isinstance(value, list) and question_in(value) is None):
        return value
    return {"input": value, **{name: output[name] for name in _SAID_AGAIN if output.get(name) not in (None, [], {}, 0)}}


def _inherited_instructions(record: dict[str, Any], by_id: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Instructions that stand at the agent above alone."""
    seen: set[str] = set()
    at: dict[str, Any] | None = record
    while at is not None and at["id"] not in seen:
        seen.add(at["id"])
        parts = json_of(_attributes(_object(at, "metadata")).get("gen_ai.system_instructions"))
        if isinstance(parts, list) and parts:
            return [system_message(parts)]
        at = by_id.get(str(at.get("parent_observation_id")))
    return []


def _tools(record: dict[str, Any], metadata: dict[str, Any], attributes: dict[str, Any]) -> list[dict[str, Any]]:
    for value in (metadata.get("tools"), attributes.get("gen_ai.tool.definitions"), attributes.get("ai.prompt.tools")):
        if found := tools_in(value):
            return found
    return tools_in(record.get("tool_definitions"))


def _parameters(record: dict[str, Any]) -> dict[str, Any]:
    """Those that were set; exports hold them as text, and empty ones as well."""
    found: dict[str, Any] = {}
    for name, value in _object(record, "model_parameters").items():
        value = json_value(value)
        if isinstance(value, str) and value in ("true", "false"):
            value = value == "true"
        if value in (None, "", -1) or value == {} or name in _NO_PARAMETERS or value == {"arrayValue": {}}:
            continue
        if name == "toolChoice" and isinstance(value, dict) and set(value) == {"type"}:
            value = value["type"]
        found[_RENAMED.get(name, name)] = value
    return found


def _work(record: dict[str, Any], *, quoted: bool, may_ask: bool) -> dict[str, Any]:
    """What a span, an agent, a tool or the trace was given and gave; messages where no call below it has them."""
    value = json_value(record.get("input"), quoted=quoted)
    output = json_value(record.get("output"), quoted=quoted)
    said = message_output(output) if isinstance(output, dict) and "role" in output else output
    if may_ask and isinstance(value, list | dict):
        question = question_in(value["messages"] if isinstance(value, dict) and "messages" in value else value)
        if question is not None:
            rest = (
                {k: v for k, v in value.items() if k not in ("messages", "model", "tools")}
                if isinstance(value, dict)
                else {}
            )
            return {"inputs": rest or None, "messages": question.asked.messages, "output": said}
    if value in (None, ""):
        return {"output": said}
    return {"inputs": value if isinstance(value, dict) else {"input": value}, "output": said}


def _request(trace: dict[str, Any], origin: Origin, *, has_calls: bool) -> Step:
    """The request itself: the step that its observations stand below."""
    timestamp = trace.get("timestamp") or trace.get("created_at")
    return step_row(
        origin,
        step=origin.names.get(trace["id"]) or trace.get("name") or "trace",
        recording_id=trace["id"],
        request_id=trace["id"],
        pipeline=trace.get("name"),
        started_at=timestamp,
        latency_s=trace.get("latency"),
        **_work(trace, quoted=True, may_ask=not has_calls),
        tags=_tags(trace),
        user=trace.get("user_id"),
    )


def _score(record: dict[str, Any]) -> Feedback:
    """The number as it is; a category, which has no order, and a person's correction in the comment."""
    value = record.get("value")
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    kind = record.get("data_type")
    said = (
        record.get("string_value")
        if kind == "CATEGORICAL"
        else record.get("long_string_value")
        if kind == "CORRECTION"
        else None
    )
    name = f"{record.get('name')} = {said}" if said else str(record.get("name"))
    comment = f"{name}: {record['comment']}" if record.get("comment") else name
    at = _first(record, "timestamp", "created_at", "updated_at")
    if at is None:
        raise BadRecordError("missing_field", "timestamp of the score")
    return feedback_row(record.get("trace_id"), at, None if said else value, comment)


def _error(record: dict[str, Any]) -> dict[str, Any] | None:
    if record.get("level") != "ERROR":
        return None
    return {"type": "ERROR", "message": str(record.get("status_message") or ""), "traceback": ""}


def _tags(record: dict[str, Any]) -> dict[str, Any]:
    labels = json_value(record.get("tags"))
    tags = {str(label): True for label in labels} if isinstance(labels, list) else {}
    names = ("environment", "release", "version", "session_id")
    # Attributes say again what the row says, and more than a tag should hold.
    metadata = {
        k: v
        for k, v in _object(record, "metadata").items()
        if k not in ("attributes", "resourceAttributes", "scope", "tools")
    }
    return {**metadata, **tags, **{name: record.get(name) for name in names}}


def _attributes(metadata: dict[str, Any]) -> dict[str, Any]:
    """Attributes of the span that an observation was made of, where OpenTelemetry brought it."""
    value = json_value(metadata.get("attributes"))
    return value if isinstance(value, dict) else {}


def _object(record: dict[str, Any], name: str) -> dict[str, Any]:
    """An object, which the files of some exports hold as JSON text."""
    value = json_value(record.get(name), quoted=True)
    return value if isinstance(value, dict) else {}


def _first(record: dict[str, Any], *names: str) -> Any:
    return next((record[name] for name in names if record.get(name) not in (None, "")), None)


def _snake(record: dict[str, Any]) -> dict[str, Any]:
    return {_capital.sub("_", key).lower(): value for key, value in record.items()}
