"""LiteLLM: its StandardLoggingPayload, as callbacks and log exporters write it, and the proxy's spend logs."""

from collections.abc import Iterator
from typing import Any

from qbawa.ingest.formats.content import Unread, answered, asked, json_value
from qbawa.ingest.formats.step_rows import BadRecordError, Origin, step_row
from qbawa.ingest.journal_lines import Step
from qbawa.model_apis.any_form import question_in
from qbawa.model_apis.canonical import detect_response_api

_NAMES = ("generation_name", "step", "trace_name", "task")


def is_litellm(record: dict[str, Any]) -> bool:
    if "standard_logging_object" in record:
        return isinstance(record["standard_logging_object"], dict)
    if "litellm_call_id" in record and "model_parameters" in record:
        return True
    return "call_type" in record and ("spend" in record or "response_cost" in record) and "startTime" in record


def read_litellm(record: dict[str, Any], origin: Origin) -> Iterator[Step | BadRecordError]:
    """One call with its cost, times and parameters; a call that failed with its error and no answer."""
    whole = record.get("standard_logging_object")
    record = whole if isinstance(whole, dict) else record
    is_spend = "spend" in record
    metadata = _object(record, "metadata")
    id = str(record.get("litellm_call_id") or record.get("request_id") or record.get("id") or "")
    unread = Unread(f"call {id[:64]}")
    failure = _failure(record, metadata)
    response = json_value(record.get("response"))
    said, answer = answered(response, unread) if not failure else ({"output": None}, None)
    content = _asked(record, unread)
    tokens = [record.get("prompt_tokens"), record.get("completion_tokens")]
    if not any(tokens):  # not counted: a stream without usage, or a failure
        tokens = [answer.input_tokens, answer.output_tokens] if answer else [None, None]
    counted = tokens[0] is not None or tokens[1] is not None
    cost = record.get("spend") if is_spend else record.get("response_cost")
    requester = metadata.get("requester_metadata")
    named = {**metadata, **(requester if isinstance(requester, dict) else {})}
    name = next((named[key] for key in _NAMES if isinstance(named.get(key), str) and named[key]), None)
    labels = json_value(record.get("request_tags"))
    session = record.get("trace_id") or record.get("session_id")
    yield step_row(
        origin,
        step=name or "chat",
        recording_id=id or None,
        # Calls of one session are one request of the application only where it said so by a trace.
        request_id=str(session) if session and not is_spend else id or None,
        started_at=record.get("startTime"),
        ended_at=record.get("endTime"),
        latency_s=None if record.get("endTime") else record.get("response_time"),
        model=(answer.model if answer else None) or record.get("model"),
        input_tokens=tokens[0],
        output_tokens=tokens[1],
        # 0 is what stands where nothing was counted.
        cost_usd=cost if cost or (counted and not failure) else None,
        error=failure,
        tags={
            **{str(label): True for label in (labels if isinstance(labels, list) else [])},
            "session": session,
            "provider": record.get("custom_llm_provider"),
            "key": metadata.get("user_api_key_alias"),
            "team": metadata.get("user_api_key_team_alias"),
        },
        user=record.get("end_user") or metadata.get("user_api_key_end_user_id") or record.get("user"),
        **{"api": detect_response_api(response), **{k: v for k, v in content.items() if v is not None}},
        **said,
    )
    yield from unread.errors()


def _asked(record: dict[str, Any], unread: Unread) -> dict[str, Any]:
    """The body of the proxy's request where a spend log keeps it; else messages with the model's parameters."""
    request = json_value(record.get("proxy_server_request"))
    if isinstance(request, dict) and isinstance(request.get("body"), dict):
        request = request["body"]
    if isinstance(request, dict) and question_in(request) is not None:
        return asked(request, unread)
    messages = json_value(record.get("messages"))
    if messages in (None, "", {}, []):
        return {}
    if isinstance(messages, dict) and "messages" in messages:
        messages = messages["messages"]
    parameters = {
        k: v
        for k, v in _object(record, "model_parameters").items()
        if k not in ("user", "metadata", "stream", "stream_options", "extra_body") and v is not None
    }
    if isinstance(messages, list | str):
        return asked({**parameters, **_prompt(messages, str(record.get("call_type")))}, unread)
    return asked(messages, unread)


def _prompt(messages: Any, call_type: str) -> dict[str, Any]:
    if "responses" in call_type:
        return {"input": messages}
    return {"messages": messages} if isinstance(messages, list) else {"prompt": messages}


def _failure(record: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any] | None:
    if record.get("status", metadata.get("status")) != "failure":
        return None
    about = _object(record, "error_information") or _object(metadata, "error_information")
    return {
        "type": str(about.get("error_class") or about.get("error_code") or "Error"),
        "message": str(about.get("error_message") or record.get("error_str") or ""),
        "traceback": str(about.get("traceback") or ""),
    }


def _object(record: dict[str, Any], name: str) -> dict[str, Any]:
    value = json_value(record.get(name))
    return value if isinstance(value, dict) else {}
