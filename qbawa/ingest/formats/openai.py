"""Requests and responses of OpenAI's two APIs, which most other providers and gateways speak too."""

from dataclasses import dataclass
from typing import Any

from qbawa.ingest.formats.step_rows import BadRecordError, content_text, message_list

_NOT_PARAMETERS = frozenset({"messages", "model", "input", "instructions", "prompt", "user", "metadata", "stream", "n"})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a response says. `output` is text, or the whole assistant message where it holds more than text."""

    output: Any = None
    model: str | None = None
    input_tokens: Any = None
    output_tokens: Any = None
    created: Any = None
    id: str | None = None
    error: dict[str, Any] | None = None


def question_of(request: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Messages and parameters of a request. Raises BadRecordError where there are no messages."""
    if "messages" in request:
        messages = message_list(request["messages"])
    elif "input" in request:
        messages = message_list(request["input"], "input")
        if request.get("instructions"):
            messages = [{"role": "system", "content": request["instructions"]}, *messages]
    elif "prompt" in request:
        messages = message_list(request["prompt"], "prompt")
    else:
        raise BadRecordError("missing_field", "messages, input or prompt in the request")
    return messages, {key: value for key, value in request.items() if key not in _NOT_PARAMETERS and value is not None}


def answer_of(response: Any) -> Answer:
    """What a response of the chat, completion or responses API says; a bare text or message is an answer too."""
    if response is None or isinstance(response, str):
        return Answer(response)
    if not isinstance(response, dict):
        raise BadRecordError("wrong_type", f"the response is {response!r:.60}, not an object or a text")
    if isinstance(response.get("body"), dict):
        response = response["body"]  # as the batch API wraps it
    if response.get("error"):
        return Answer(model=response.get("model"), error=error_of(response["error"]))
    usage = response.get("usage") or {}
    if not isinstance(usage, dict):
        raise BadRecordError("wrong_type", f"usage is {usage!r:.60}, not an object")
    return Answer(
        _output(response),
        response.get("model"),
        usage.get("prompt_tokens", usage.get("input_tokens")),
        usage.get("completion_tokens", usage.get("output_tokens")),
        response.get("created", response.get("created_at")),
        response.get("id") if isinstance(response.get("id"), str) else None,
    )


def message_output(message: Any) -> Any:
    """The text of an assistant message; the message itself where it holds more, such as tool calls."""
    if not isinstance(message, dict):
        return message
    more = [key for key, value in message.items() if value and key not in ("role", "content", "annotations", "refusal")]
    if more:
        return message
    text = content_text(message.get("content"))
    return message.get("refusal") if text is None and message.get("refusal") else text


def error_of(error: Any) -> dict[str, Any]:
    """A failure as type, message and traceback."""
    if isinstance(error, dict):
        kind = error.get("type") or error.get("code") or "error"
        return {"type": str(kind), "message": str(error.get("message", "")), "traceback": ""}
    return {"type": "error", "message": str(error), "traceback": ""}


def _output(response: dict[str, Any]) -> Any:
    choices = response.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return message_output(choices[0]["message"]) if "message" in choices[0] else choices[0].get("text")
    if isinstance(response.get("output"), list):
        return _responses_output(response["output"])
    if "content" in response:
        return message_output(response)
    raise BadRecordError("missing_field", "choices, output or content in the response")


def _responses_output(items: list[Any]) -> Any:
    """Of the responses API: the text where there is only text, else all items but the reasoning."""
    items = [item for item in items if isinstance(item, dict) and item.get("type") != "reasoning"]
    if all(item.get("type", "message") == "message" for item in items):
        return "\n".join(filter(None, (content_text(item.get("content")) for item in items))) or None
    return items
