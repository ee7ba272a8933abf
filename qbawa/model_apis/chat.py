"""OpenAI's chat completions, which most servers and gateways speak: the canonical form itself."""

from typing import Any

from qbawa.errors import InputError
from qbawa.model_apis.answers import answer_of, joined, one_or_all, reasoning_of
from qbawa.model_apis.shapes import (
    ACCOUNTING,
    Answered,
    Asked,
    Untranslated,
    count_of,
    kind_of,
    mapping,
    objects,
    request_body,
    shown,
    string_or_none,
)

FIELDS = frozenset(
    {"audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens",
     "max_tokens", "modalities", "moderation", "n", "parallel_tool_calls", "prediction", "presence_penalty",
     "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning_effort", "response_format", "seed",
     "service_tier", "stop", "store", "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "verbosity",
     "web_search_options"}
)  # fmt: skip
"""What a chat completion can be asked for besides model and messages."""
PARTS = frozenset({"text", "image_url", "input_audio", "file", "refusal", "video_url"})


def read_request(body: Any) -> Asked:
    """The messages and parameters as they stand; a text completion's prompt is the one user message that it is."""
    asked = request_body(body, "The request")
    if "messages" in asked:
        messages = chat_messages(asked["messages"], "messages")
    elif isinstance(asked.get("prompt"), str):
        messages = [{"role": "user", "content": asked["prompt"]}]
    else:
        raise InputError(f"The request of a chat completion needs messages; it is {shown(body)}.")
    parameters = {k: v for k, v in asked.items() if k not in ACCOUNTING and k not in ("model", "messages", "prompt")}
    return Asked(messages, parameters, unknown_parts(messages))


def chat_messages(value: Any, where: str) -> list[dict[str, Any]]:
    """A list of chat messages, without the nulls that client libraries leave in them."""
    messages = []
    for place, message in objects(value, where):
        if not isinstance(message.get("role"), str):
            raise InputError(f"{place} needs a role; it is {shown(message)}.")
        messages.append({k: v for k, v in message.items() if v is not None or k == "content"})
    return messages


def unknown_parts(messages: list[dict[str, Any]]) -> tuple[str, ...]:
    """Where messages hold parts that chat completions do not know."""
    unknown = Untranslated()
    for number, message in enumerate(messages):
        content = message.get("content")
        for place, part in enumerate(content if isinstance(content, list) else []):
            kind = kind_of(part) if isinstance(part, dict) else ""
            if kind not in PARTS and not isinstance(part, str):
                unknown.add(f"messages[{number}].content[{place}]", kind or "a part without a type")
    return unknown.paths()


def read_response(body: Any) -> Answered:
    """The answer of a chat or text completion."""
    response = mapping(body, "The response")
    if not isinstance(response.get("choices"), list):
        raise InputError(f"The response of a chat completion needs choices; it is {shown(response)}.")
    answers, thoughts, reasons = [], [], []
    for place, choice in objects(response["choices"], "choices"):
        if isinstance(choice.get("message"), dict):
            answers.append(answer_of(choice["message"]))
            thoughts.append(reasoning_of(choice["message"]))
        elif isinstance(choice.get("text"), str):
            answers.append(choice["text"])
        elif choice.get("message") is None and "finish_reason" in choice:
            answers.append(None)
        else:
            raise InputError(f"{place} needs a message; it is {shown(choice)}.")
        reasons.append(string_or_none(choice.get("finish_reason")))
    input_tokens, output_tokens, cached = tokens_of(response.get("usage"))
    return Answered(
        one_or_all(answers),
        joined(thoughts),
        string_or_none(response.get("model")),
        input_tokens,
        output_tokens,
        cached,
        reasons[0] if reasons else None,
    )


def tokens_of(usage: Any) -> tuple[int | None, int | None, int | None]:
    """Tokens in, out and cached of a usage in either of OpenAI's two spellings; all None where nothing was counted."""
    if not isinstance(usage, dict):
        return None, None, None
    found = []
    for names in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")):
        found.append(count_of(next((usage[name] for name in names if usage.get(name) is not None), None)))
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    if found == [0, 0]:  # a server that does not count says so by zeros
        return None, None, None
    return found[0], found[1], count_of(details.get("cached_tokens")) if isinstance(details, dict) else None
