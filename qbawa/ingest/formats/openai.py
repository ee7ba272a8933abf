"""Requests and responses as model APIs take and give them, wherever a log holds them."""

from dataclasses import dataclass, replace
from typing import Any

from qbawa.errors import InputError
from qbawa.ingest.formats.step_rows import BadRecordError, message_list
from qbawa.model_apis.answers import answer_of as canonical
from qbawa.model_apis.answers import reasoning_of
from qbawa.model_apis.any_form import answer_in, conversation
from qbawa.model_apis.canonical import Asked, detect_request_api, detect_response_api, read_request, read_response
from qbawa.model_apis.chat import unknown_parts
from qbawa.model_apis.frameworks import is_chat


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks. `request` is the body itself where it is no chat completion."""

    asked: Asked
    api: str
    request: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a response says, canonically."""

    output: Any = None
    reasoning: str | None = None
    model: str | None = None
    input_tokens: Any = None
    output_tokens: Any = None
    created: Any = None
    id: str | None = None
    error: dict[str, Any] | None = None


def question_of(request: dict[str, Any]) -> Question:
    """What a request to any API asks. Raises BadRecordError where it asks nothing."""
    if isinstance(request.get("messages"), str):
        request = {**request, "messages": message_list(request["messages"])}
    api = detect_request_api(request)
    if api is None:
        raise BadRecordError("missing_field", "messages, input, contents or prompt in the request")
    try:
        asked = read_request(api, request)
    except InputError as error:
        if api != "openai.chat":
            raise BadRecordError("wrong_type", str(error)) from None
        messages = message_list(request.get("messages"))
        rest = {key: value for key, value in request.items() if key not in ("messages", "model") and value is not None}
        asked = Asked(messages, rest, unknown_parts(messages))
    if api == "openai.chat" and not all(is_chat(message) for message in asked.messages):
        # Of a framework, or with an object as content; what nobody knows is kept as it is.
        talk = conversation(request.get("messages"))
        asked = replace(asked, messages=talk.messages, untranslated=talk.untranslated) if talk else asked
    return Question(asked, api, None if api == "openai.chat" else request)


def answer_of(response: Any) -> Answer:
    """What a response of any API says; a bare text or message is an answer too."""
    if response is None or isinstance(response, str):
        return Answer(response)
    if not isinstance(response, dict):
        raise BadRecordError("wrong_type", f"the response is {response!r:.60}, not an object or a text")
    if isinstance(response.get("body"), dict):
        response = response["body"]  # as the batch API wraps it
    if response.get("error"):
        return Answer(model=response.get("model"), error=error_of(response["error"]))
    api = detect_response_api(response)
    if api is None:
        found = answer_in(response)
        if found is not None:
            return Answer(found.output, found.reasoning, found.model, found.input_tokens, found.output_tokens,
                          id=_text(response.get("id")))  # fmt: skip
        if "content" in response or "tool_calls" in response:
            return Answer(message_output(response), reasoning_of(response), id=_text(response.get("id")))
        raise BadRecordError("missing_field", "choices, candidates, output or content in the response")
    try:
        answered = read_response(api, response)
    except InputError as error:
        raise BadRecordError("wrong_type", str(error)) from None
    return Answer(
        answered.output,
        answered.reasoning,
        answered.model,
        answered.input_tokens,
        answered.output_tokens,
        response.get("created", response.get("created_at")),
        _text(response.get("id")),
    )


def message_output(message: Any) -> Any:
    """The canonical answer of an assistant's message; anything else as it is."""
    return canonical(message) if isinstance(message, dict) else message


def error_of(error: Any) -> dict[str, Any]:
    """A failure as type, message and traceback."""
    if isinstance(error, dict):
        kind = error.get("type") or error.get("code") or "error"
        return {"type": str(kind), "message": str(error.get("message", "")), "traceback": ""}
    return {"type": "error", "message": str(error), "traceback": ""}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
