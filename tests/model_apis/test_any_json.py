"""Whatever JSON stands where a body should: a result, or an InputError that says what is wrong."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbawa.errors import InputError
from qbawa.model_apis.canonical import (
    APIS,
    detect_request_api,
    detect_response_api,
    meaning,
    read_request,
    read_response,
)

_WORDS = st.sampled_from(sorted({
    "messages", "input", "contents", "config", "instructions", "system", "systemInstruction", "role", "content", "parts",
    "type", "text", "tool_calls", "function", "name", "arguments", "function_call", "function_call_output", "call_id",
    "output", "choices", "message", "candidates", "usage", "usageMetadata", "promptTokenCount", "tools", "tool_choice",
    "response_format", "format", "schema", "json_schema", "image_url", "url", "source", "data", "media_type", "tool_use",
    "tool_result", "thinking", "reasoning", "summary", "functionCall", "functionResponse", "args", "inlineData", "mimeType",
    "generationConfig", "responseSchema", "properties", "items", "functionDeclarations", "toolConfig", "allowedFunctionNames",
    "functionCallingConfig", "mode", "thinkingConfig", "output_config", "extra_body", "stop", "refusal", "audio", "images",
    "assistant", "user", "model", "base64", "document", "image", "custom", "allowed_tools", "status", "incomplete",
    "prompt", "include", "nullable", "", "anyOf", "id", "finish_reason", "finishReason", "thought", "input_schema",
}))  # fmt: skip
_scalars = st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats() | st.text(max_size=3) | _WORDS
any_json = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=5), max_leaves=40
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(APIS)), any_json)
def test_any_json_gives_a_result_or_an_input_error(api: str, body: Any) -> None:
    for read in (read_request, read_response):
        with contextlib.suppress(InputError):
            read(api, body)
    assert detect_request_api(body) in (None, *APIS) and detect_response_api(body) in (None, *APIS)


_OPENINGS = {"messages", "input", "contents", "output", "choices", "candidates", "content"}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(APIS)),
    st.fixed_dictionaries(
        {name: st.lists(st.dictionaries(_WORDS, any_json, max_size=4), max_size=2) for name in sorted(_OPENINGS)}
    ),
    st.dictionaries(_WORDS, any_json, max_size=5),
)
def test_a_body_that_begins_well_may_go_on_badly(api: str, begun: dict[str, Any], more: dict[str, Any]) -> None:
    for read in (read_request, read_response):
        with contextlib.suppress(InputError):
            read(api, {**more, **begun})


@pytest.mark.parametrize("api", APIS)
def test_a_body_nested_too_deep_is_an_input_error(api: str) -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"properties": {"a": deep}, "items": deep}
    tools = [{"functionDeclarations": [{"name": "f", "parameters": deep}], "name": "f", "input_schema": deep}]
    body = {"messages": [], "input": "q", "contents": "q", "tools": tools}
    with contextlib.suppress(InputError):
        read_request(api, body)


@given(any_json)
def test_meaning_does_not_change_what_it_made(value: Any) -> None:
    key = meaning(json.dumps(value))
    assert meaning(key) == key
