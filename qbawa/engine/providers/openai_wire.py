"""The body of an OpenAI-compatible request and the meaning of its response; one place for both providers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qbawa.engine.calls import Answer, Json, Limits, ModelCall
from qbawa.engine.error_classes import classify, malformed
from qbawa.errors import FinalError

SCHEMA = "response_schema"
"""Our parameter for a JSON schema of the answer; sent as OpenAI's `response_format`."""
_NOT_YOURS = frozenset({"model", "messages", "stream", "api_key", "api_base", "base_url", "n", "stream_options"})


def request_params(call: ModelCall, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the body besides model and messages. The call's parameters win over the model's `extra`.

    Raises FinalError for a parameter that would change where the request goes or how its answer reads.
    """
    params = {name: value for name, value in {**extra, **call.params}.items() if value is not None}
    strange = _NOT_YOURS & params.keys()
    if strange:
        raise FinalError(
            "bad_request",
            f"Parameters {sorted(strange)} of model '{call.model}' are the engine's own. Several answers: samples.",
        )
    schema = params.pop(SCHEMA, None)
    if schema is not None:
        params.setdefault(
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}},
        )
    return params


def read_response(body: Json) -> Answer:
    """The answer in a parsed 200 body. Raises ProviderError for anything that is not a whole answer."""
    if not isinstance(body, dict):
        raise malformed(f"a JSON {type(body).__name__} instead of an object")
    if body.get("error"):
        raise classify(200, body["error"])
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise malformed("no choices")
    choice = choices[0]
    message = choice.get("message")
    if not isinstance(message, dict):
        raise malformed("a choice without a message")
    text = message.get("content")
    if isinstance(text, list):  # some servers answer in parts
        text = "".join(part.get("text") or "" for part in text if isinstance(part, dict))
    finish = choice.get("finish_reason")
    if finish == "content_filter":
        raise FinalError("refused", "The provider's content filter withheld the answer.")
    if not text and message.get("refusal"):
        # The model's own refusal is an answer: people and judges should see it.
        text = str(message["refusal"])
    if not text and message.get("tool_calls"):
        raise FinalError("tool_call", "The model answered with a tool call instead of text.")
    if not text and finish == "length":
        raise FinalError("cut_off", "The model spent max_tokens before its first word. Raise max_tokens.")
    if not isinstance(text, str):
        raise malformed("a message without content")
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    input_tokens, output_tokens = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if input_tokens == output_tokens == 0:
        input_tokens = output_tokens = None  # litellm's way to say that nobody counted; no prompt has no tokens
    return Answer(
        text=text,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        logprobs=_logprobs(choice.get("logprobs")),
    )


def read_limits(headers: Mapping[str, str]) -> Limits | None:
    """The limits that a provider's headers name (OpenAI's and Anthropic's spelling), None where none."""
    requests = headers.get("x-ratelimit-limit-requests") or headers.get("anthropic-ratelimit-requests-limit")
    tokens = headers.get("x-ratelimit-limit-tokens") or headers.get("anthropic-ratelimit-tokens-limit")
    if not requests and not tokens:
        return None
    return Limits(_number(requests), _number(tokens))


def _logprobs(found: Json) -> list[Json] | None:
    content = found.get("content") if isinstance(found, dict) else None
    return content if isinstance(content, list) and content else None


def _count(value: Json) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value else None
    except ValueError:
        return None
    return number if number and 0 < number < 1e12 else None
