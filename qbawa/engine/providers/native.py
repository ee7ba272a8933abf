"""Requests in the form of the API that they were made for, to models whose server speaks it.

A recorded request of another API than chat completions is sent again as it was. Where the strategy's model speaks that API
no word of it is translated; where it does not, the call's messages and parameters say the same, unless something in it has
no equivalent there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from qbawa.engine.calls import Answer, Json, ModelCall, ModelSettings
from qbawa.engine.error_classes import classify, malformed, readable
from qbawa.errors import FinalError, InputError, ProviderError, TransientError
from qbawa.model_apis.canonical import Answered, read_request
from qbawa.model_apis.canonical import read_response as read_any_response
from qbawa.model_apis.overlay import with_parameters
from qbawa.model_apis.tool_answers import calls_of
from qbawa.text import shorten

RESPONSES, MESSAGES, GENERATE = "openai.responses", "anthropic.messages", "google.generate_content"
_OPENAI = ("openai", "hosted_vllm", "openai_like", "custom_openai")
_BY_PREFIX = {"anthropic": MESSAGES, "gemini": GENERATE}
_TRANSPORT = frozenset({"stream", "stream_options", "background", "model"})
_FILTERED = frozenset({"content_filter", "refusal", "safety", "prohibited_content", "blocklist", "recitation", "spii"})
_CUT_OFF = frozenset({"length", "max_tokens", "max_output_tokens"})


def wire_name(model: str, settings: ModelSettings) -> str:
    """The name in the request's body: litellm's `openai/` and `hosted_vllm/` prefixes are addresses, not names."""
    name = settings.litellm_model or model
    prefix, slash, rest = name.partition("/")
    return rest if slash and prefix in _OPENAI else name


def speaks_openai(model: str, settings: ModelSettings) -> bool:
    """Whether the model's server has OpenAI's form: its own base_url does, or it is OpenAI's."""
    prefix, slash, _ = (settings.litellm_model or model).partition("/")
    if slash and prefix in _OPENAI:
        return True
    # With a litellm name of another provider the address is that provider's own, in its own form.
    return settings.base_url is not None and settings.litellm_model is None


def native_api(model: str, settings: ModelSettings) -> str | None:
    """The API besides chat completions that a model's server speaks."""
    if speaks_openai(model, settings):
        return RESPONSES
    prefix, slash, _ = (settings.litellm_model or model).partition("/")
    return _BY_PREFIX.get(prefix) if slash else None


def unfaithful(call: ModelCall, settings: ModelSettings | None) -> str | None:
    """Why a call's model cannot be asked what was recorded; None where it can."""
    if call.native is None or (settings is not None and native_api(call.model, settings) == call.native.api):
        return None
    only = read_request(call.native.api, call.native.body).untranslated
    if not only:
        return None
    return (
        f"The question was asked of {call.native.api} with {shorten(', '.join(only), 200)}, for which model '{call.model}' has "
        "no place. Replay it with a model of that API, or give the strategy a prompt."
    )


def native_body(call: ModelCall, settings: ModelSettings) -> dict[str, Any] | None:
    """The request to send in its own form, without `model`; None where a chat completion says the same.

    Raises FinalError where neither does.
    """
    if call.native is None:
        return None
    why = unfaithful(call, settings)
    if why is not None:
        raise FinalError("unfaithful", why)
    if native_api(call.model, settings) != call.native.api:
        return None
    body = {name: value for name, value in call.native.body.items() if name not in _TRANSPORT}
    for name, value in settings.extra.items():
        placed = with_parameters(call.native.api, body, {name: value}, over=False)
        body = {name: value, **body} if placed is None else placed
    return body


def read_native(api: str, body: Json) -> Answer:
    """The answer in a parsed 200 body of this API. Raises ProviderError for anything that is not a whole answer."""
    if isinstance(body, dict) and body.get("error"):
        raise classify(200, body["error"])
    found = found_in(api, body)
    try:
        text = answer_text(found)
    except ProviderError as error:
        error.count(found.input_tokens, found.output_tokens)
        raise
    return Answer(text, found.input_tokens, found.output_tokens)


def found_in(api: str, body: Json) -> Answered:
    """What a response of this API holds. Raises TransientError where it is none."""
    try:
        return read_any_response(api, body)
    except InputError as error:
        raise malformed(readable(str(error))) from None


def answer_text(found: Answered) -> str:
    """An answer as the text that is kept: words as they are, tool calls and several answers as JSON.

    Raises FinalError where the provider withheld it or it was cut off before its first word.
    """
    finish = (found.finish_reason or "").lower()
    own_words = finish == "refusal" and bool(found.output)
    if finish in _FILTERED and not own_words and not isinstance(found.output, dict | list):
        raise FinalError("refused", "The provider's content filter withheld the answer.")
    if found.output is None or found.output == "":
        if finish in _CUT_OFF:
            raise FinalError("cut_off", "The model spent max_tokens before its first word. Raise max_tokens.")
        if found.output is None:
            raise TransientError("empty", "The model answered with nothing.")
    return kept_answer(found.output)


def kept_answer(output: Any) -> str:
    """A canonical answer (docs/recording.md) as text: of equal answers the same one. Raises TransientError for another value."""
    if isinstance(output, dict) and set(output) <= {"role", "content", "refusal"} and not output.get("content"):
        output = output.get("refusal")  # the model's own words: people and judges should see them
    if isinstance(output, str):
        text = readable(output)
        # Words that look like a tool call are none.
        return text if calls_of(text) is None else orjson.dumps({"content": text, "role": "assistant"}).decode()
    if not (_is_message(output) or (isinstance(output, list) and all(map(_is_answer, output)))):
        raise malformed(f"content that is a JSON {type(output).__name__}")
    try:
        return orjson.dumps(output, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:
        raise malformed("an answer that is no JSON") from None


def _is_answer(value: Any) -> bool:
    return value is None or isinstance(value, str) or _is_message(value)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and value.get("role") == "assistant" and isinstance(value.get("content"), str | None)


def native_headers(api: str, key: str | None, body: Mapping[str, Any]) -> dict[str, str]:
    """Headers by which a server knows who asks, and in which version of the API."""
    if api == GENERATE:
        return {"x-goog-api-key": key} if key else {}
    headers = {"anthropic-version": "2023-06-01"} | ({"x-api-key": key} if key else {})
    betas = body.get("betas")
    return headers | ({"anthropic-beta": ",".join(map(str, betas))} if isinstance(betas, list) and betas else {})
