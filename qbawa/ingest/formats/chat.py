"""Chat logs: messages with their response, OpenAI request and response pairs, NVIDIA's five fields."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from qbawa.ingest.formats.openai import answer_of, error_of, question_of
from qbawa.ingest.formats.step_rows import BadRecordError, Origin, message_list, step_row
from qbawa.ingest.journal_lines import Step
from qbawa.model_apis import chat

_ASKS = (*sorted(chat.FIELDS), "system")
"""What a log of messages says beside them about the same question."""
_NVIDIA = {"timestamp", "workload_id", "client_id", "request", "response"}


def is_chat(record: dict[str, Any]) -> bool:
    return isinstance(record.get("messages"), list) or ("messages" in record and "response" in record)


def is_openai(record: dict[str, Any]) -> bool:
    request = record.get("request")
    return "response" in record and isinstance(request, dict) and not is_nvidia(record)


def is_nvidia(record: dict[str, Any]) -> bool:
    return record.keys() >= _NVIDIA


def read_chat(record: dict[str, Any], origin: Origin) -> Iterator[Step]:
    """`{"messages": […], "response": …}`; without a response, a last message of the assistant is the answer."""
    messages = message_list(record.get("messages"))
    question = question_of({**{name: record[name] for name in _ASKS if name in record}, "messages": messages})
    messages = question.asked.messages
    if "response" in record or "error" in record:
        response = answer_of(record.get("response"))
    else:
        response = answer_of(None)
        if messages and messages[-1].get("role") == "assistant":
            response = answer_of({"choices": [{"message": messages[-1]}], **_some(record, "usage", "id", "model")})
            messages = messages[:-1]
            question = replace(question, request=None)
    error = error_of(record["error"]) if record.get("error") else response.error
    yield step_row(
        origin,
        step=_name(record, "step", "workload_id", "name") or "chat",
        recording_id=_name(record, "recording_id", "id") or response.id,
        request_id=_name(record, "request_id"),
        started_at=_first(record, "started_at", "timestamp", "created_at", "created", "time") or response.created,
        latency_s=record.get("latency_s"),
        messages=messages,
        output=response.output,
        model=record.get("model") or response.model,
        parameters={**question.asked.parameters, **(_object(record, "parameters") or {})},
        input_tokens=_first(record, "input_tokens") if "input_tokens" in record else response.input_tokens,
        output_tokens=_first(record, "output_tokens") if "output_tokens" in record else response.output_tokens,
        cost_usd=record.get("cost_usd"),
        error=error,
        tags=_object(record, "tags") or _object(record, "metadata"),
        user=record.get("user"),
        api=None if question.api == "openai.chat" else question.api,
        request=question.request,
        reasoning=response.reasoning,
    )


def read_openai(record: dict[str, Any], origin: Origin) -> Iterator[Step]:
    """`{"request": {…}, "response": {…}}`, as a proxy or the batch API logs them."""
    yield _pair(record, origin, step=_name(record, "step", "name") or "chat", tags=_object(record, "tags"))


def read_nvidia(record: dict[str, Any], origin: Origin) -> Iterator[Step]:
    """The five fields of NVIDIA's data flywheel; the workload is the step, the client a tag."""
    workload = _name(record, "workload_id")
    if not workload:
        raise BadRecordError("missing_field", "workload_id")
    yield _pair(record, origin, step=workload, tags={"client_id": record["client_id"]})


def _pair(record: dict[str, Any], origin: Origin, *, step: str, tags: dict[str, Any] | None) -> Step:
    request = record["request"]
    if not isinstance(request, dict):
        raise BadRecordError("wrong_type", f"the request is {request!r:.60}, not an object")
    request = request["body"] if isinstance(request.get("body"), dict) else request
    question = question_of(request)
    response = answer_of(record["response"])
    metadata = request.get("metadata")
    return step_row(
        origin,
        step=step,
        recording_id=_name(record, "id") or response.id,
        request_id=_name(record, "request_id", "custom_id"),
        started_at=_first(record, "timestamp", "created_at", "time") or response.created,
        latency_s=record.get("latency_s"),
        messages=question.asked.messages,
        output=response.output,
        model=request.get("model") or response.model,
        parameters=question.asked.parameters,
        input_tokens=response.input_tokens,
        output_tokens=response.output_tokens,
        cost_usd=record.get("cost_usd"),
        error=error_of(record["error"]) if record.get("error") else response.error,
        tags={**(metadata if isinstance(metadata, dict) else {}), **(tags or {})},
        user=record.get("user") or request.get("user"),
        api=question.api,
        request=question.request,
        reasoning=response.reasoning,
    )


def _first(record: dict[str, Any], *names: str) -> Any:
    return next((record[name] for name in names if record.get(name) not in (None, "")), None)


def _name(record: dict[str, Any], *names: str) -> str | None:
    value = _first(record, *names)
    if value is None or isinstance(value, str | int):
        return None if value is None else str(value)
    raise BadRecordError("wrong_type", f"{' or '.join(names)} is {value!r:.60}, not a text")


def _object(record: dict[str, Any], name: str) -> dict[str, Any] | None:
    value = record.get(name)
    if value is None or isinstance(value, dict):
        return value
    raise BadRecordError("wrong_type", f"{name} is {value!r:.60}, not an object")


def _some(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: record[name] for name in names if name in record}
