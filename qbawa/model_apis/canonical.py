"""The door of the room: bodies of four APIs read into one canonical form (docs/recording.md has the table)."""

from collections.abc import Callable
from typing import Any, NamedTuple

from qbawa.errors import InputError
from qbawa.model_apis import anthropic, chat, google, responses
from qbawa.model_apis.meaning import meaning
from qbawa.model_apis.shapes import Answered, Api, Asked, kind_of

__all__ = [
    "APIS", "Answered", "Api", "Asked", "detect_request_api", "detect_response_api", "meaning", "read_request",
    "read_response",
]  # fmt: skip


class _Readers(NamedTuple):
    request: Callable[[Any], Asked]
    response: Callable[[Any], Answered]


APIS: dict[str, _Readers] = {
    "openai.chat": _Readers(chat.read_request, chat.read_response),
    "openai.responses": _Readers(responses.read_request, responses.read_response),
    "anthropic.messages": _Readers(anthropic.read_request, anthropic.read_response),
    "google.generate_content": _Readers(google.read_request, google.read_response),
}
_BLOCKS = frozenset({"tool_use", "tool_result", "thinking", "image", "document", "server_tool_use"})


def read_request(api: str, body: Any) -> Asked:
    """What a request's body asks. Raises InputError where it is no request of that API."""
    readers = _readers(api)
    try:
        return readers.request(body)
    except RecursionError:
        raise InputError("The request is nested too deep.") from None


def read_response(api: str, body: Any) -> Answered:
    """What a response's body answers. Raises InputError where it is no response of that API."""
    readers = _readers(api)
    try:
        return readers.response(body)
    except RecursionError:
        raise InputError("The response is nested too deep.") from None


def detect_request_api(value: Any) -> Api | None:
    """The API that a request's body is for, by its shape; None where it is no such body."""
    if not isinstance(value, dict):
        return None
    if "contents" in value and "messages" not in value:
        return "google.generate_content"
    if isinstance(value.get("messages"), list):
        return "anthropic.messages" if _is_anthropic(value) else "openai.chat"
    if isinstance(value.get("input"), str | list):
        return "openai.responses"
    return "openai.chat" if isinstance(value.get("prompt"), str) else None


def detect_response_api(value: Any) -> Api | None:
    """The API that a response's body came from, by its shape; None where it is no such body."""
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("choices"), list):
        return "openai.chat"
    if isinstance(value.get("candidates"), list) or "promptFeedback" in value or "prompt_feedback" in value:
        return "google.generate_content"
    if isinstance(value.get("output"), list) and (
        value.get("object") == "response" or all(isinstance(i, dict) and kind_of(i) for i in value["output"])
    ):
        return "openai.responses"
    content = value.get("content")
    if isinstance(content, list) and (kind_of(value) == "message" or "stop_reason" in value):
        kinds = {kind_of(part) for part in content if isinstance(part, dict)}
        # A message of the Responses API is one item of an answer.
        return None if kinds & {"output_text", "input_text", "refusal"} else "anthropic.messages"
    return None


def _is_anthropic(body: dict[str, Any]) -> bool:
    kinds = {
        kind_of(part)
        for message in body["messages"]
        if isinstance(message, dict) and isinstance(message.get("content"), list)
        for part in message["content"]
        if isinstance(part, dict)
    }
    if kinds & {"", "tool-call", "tool-result", "image_url"}:
        return False  # of Bedrock's Converse, of the AI SDK, of a chat completion with a `system` beside it
    if body.keys() & {"system", "stop_sequences", "anthropic_version", "thinking"}:
        return True
    tools = body.get("tools")
    if any("input_schema" in tool for tool in (tools if isinstance(tools, list) else []) if isinstance(tool, dict)):
        return True
    return bool(kinds & _BLOCKS)


def _readers(api: str) -> _Readers:
    if api not in APIS:
        raise InputError(f"There is no API '{api}'. APIs: {', '.join(APIS)}.")
    return APIS[api]
