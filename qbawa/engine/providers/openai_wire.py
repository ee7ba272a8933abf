"""The body of an OpenAI-compatible request and the meaning of its response; one place for both providers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson

from qbawa.engine.calls import Answer, Json, Limits, ModelCall
from qbawa.engine.error_classes import classify, malformed
from qbawa.engine.logprobs import clean_logprobs
from qbawa.engine.providers.native import answer_text, found_in
from qbawa.engine.token_usage import MAX_TOKENS
from qbawa.errors import FinalError, ProviderError

SCHEMA = "response_schema"
"""Our parameter for a JSON schema of the answer; sent as OpenAI's `response_format`."""
MOST_TOKENS = 1 << 26
"""No model reads or writes as many in one call; a larger count is a mistake, and believing it would hold up all others."""
_NOT_YOURS = frozenset({"model", "messages", "stream", "api_key", "api_base", "base_url", "stream_options"})


def request_params(call: ModelCall, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the body besides model and messages. The call's parameters win over the model's `extra`.

    Raises FinalError for a parameter that would change where the request goes or how its answer reads.
    """
    params = merged_params(call.params, extra)
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


def merged_params(own: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """A call's parameters over the model's `extra`. A maximum of the call's replaces the model's, however it is called."""
    if any(own.get(name) is not None for name in MAX_TOKENS):
        extra = {name: value for name, value in extra.items() if name not in MAX_TOKENS}
    return {name: value for name, value in {**extra, **own}.items() if value is not None}


def parse_json(data: bytes) -> Json:
    """The JSON value of a body. Raises ValueError where there is none, also for one that nests without end.

    Lone surrogates and huge numbers are no JSON to orjson; they still come with an answer that was paid for.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            return json.loads(data)
        except RecursionError:
            raise ValueError("nested too deeply") from None


def read_response(body: Json) -> Answer:
    """The answer in a parsed 200 body of any shape.

    Raises ProviderError for anything that is not a whole answer; the error says what was counted, since it is billed.
    """
    input_tokens, output_tokens = read_usage(body)
    try:
        text, logprobs = _read_answer(body)
    except ProviderError as error:
        error.count(input_tokens, output_tokens)
        raise
    return Answer(text=text, input_tokens=input_tokens, output_tokens=output_tokens, logprobs=logprobs)


def read_usage(body: Json) -> tuple[int | None, int | None]:
    """Input and output tokens that a body of any shape counts; None for what it does not count.

    Reasoning that a provider keeps out of `completion_tokens` stands in the total, and is billed as output.
    """
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return None, None
    input_tokens = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    output_tokens = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    if input_tokens == output_tokens == 0:
        return None, None  # litellm's way to say that nobody counted; no prompt has no tokens
    total = _count(usage.get("total_tokens"))
    if total is not None and input_tokens is not None and output_tokens is not None:
        output_tokens = max(output_tokens, total - input_tokens)
    return input_tokens, output_tokens


def _read_answer(body: Json) -> tuple[str, list[Json] | None]:
    if not isinstance(body, dict):
        raise malformed(f"a JSON {type(body).__name__} instead of an object")
    if body.get("error"):
        raise classify(200, body["error"])
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise malformed("no choices")
    if not isinstance(choices[0].get("message"), dict):
        raise malformed("a choice without a message")
    return answer_text(found_in("openai.chat", body)), _logprobs(choices[0].get("logprobs"))


def read_limits(headers: Mapping[str, str]) -> Limits | None:
    """The limits that a provider's headers name (OpenAI's and Anthropic's spelling), None where none."""
    requests = headers.get("x-ratelimit-limit-requests") or headers.get("anthropic-ratelimit-requests-limit")
    tokens = headers.get("x-ratelimit-limit-tokens") or headers.get("anthropic-ratelimit-tokens-limit")
    if not requests and not tokens:
        return None
    return Limits(_number(requests), _number(tokens))


def _logprobs(found: Json) -> list[Json] | None:
    return clean_logprobs(found.get("content")) if isinstance(found, dict) else None


def _count(value: Json) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS else None


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value else None
    except ValueError:
        return None
    return number if number and 0 < number < 1e12 else None
