"""What each API's request asks, as a chat completion would ask it, with every part, tool, choice and format."""

from typing import Any

import pytest
from google_shapes import in_python

from qbawa.errors import InputError
from qbawa.model_apis.canonical import detect_request_api, read_request

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
LOOK = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": SCHEMA}}
PIXEL = "iVBORw0KGgo="


def chat_body() -> dict[str, Any]:
    return {
        "model": "m", "stream": True, "stream_options": {"include_usage": True}, "user": "u1", "metadata": {"a": "b"},
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "name": "ann", "content": [
                {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral"}},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERg==", "filename": "a.pdf"}},
            ]},
            {"role": "assistant", "content": None, "refusal": None, "annotations": None, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Rome"}'}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        ],
        "tools": [LOOK], "tool_choice": "required", "parallel_tool_calls": False, "n": 2, "logprobs": True,
        "top_logprobs": 3, "stop": ["END"], "seed": 7, "temperature": 0, "top_p": 0.9, "max_completion_tokens": 50,
        "reasoning_effort": "low", "logit_bias": None,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}},
    }  # fmt: skip


def test_a_chat_completion_is_the_canonical_form_itself() -> None:
    body = chat_body()
    asked = read_request("openai.chat", body)
    assert asked.messages[1:2] + asked.messages[3:] == body["messages"][1:2] + body["messages"][3:]
    assert asked.messages[2].keys() == {"role", "content", "tool_calls"}
    left_out = {"model", "messages", "stream", "stream_options", "user", "metadata", "logit_bias"}
    assert asked.parameters == {key: value for key, value in body.items() if key not in left_out}
    assert asked.untranslated == ()
    again = read_request("openai.chat", {"messages": asked.messages, **asked.parameters})
    assert again == asked


def test_parts_that_chat_does_not_know_stay_and_are_named() -> None:
    strange = {"type": "hologram", "data": 1}
    asked = read_request(
        "openai.chat", {"messages": [{"role": "user", "content": [strange, {"type": "text", "text": "?"}]}]}
    )
    assert asked.messages[0]["content"][0] == strange and asked.untranslated == ("messages[0].content[0]: hologram",)


def test_a_responses_request_keeps_instructions_items_and_format() -> None:
    asked = read_request("openai.responses", {
        "model": "m", "instructions": "Be brief.", "store": False, "include": ["message.output_text.logprobs"],
        "input": [
            {"role": "user", "content": [
                {"type": "input_text", "text": "What is this?"},
                {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "high"},
                {"type": "input_file", "file_data": "data:application/pdf;base64,JVBERg==", "filename": "a.pdf"},
            ]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "I should look."}]},
            {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
             "content": [{"type": "output_text", "text": "Looking.", "annotations": []}]},
            {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "arguments": '{"city":"Rome"}'},
            {"type": "function_call", "id": "fc_2", "call_id": "c2", "name": "look", "arguments": '{"city":"Oslo"}'},
            {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "snow"}]},
        ],
        "tools": [{"type": "function", "name": "look", "description": "Looks.", "parameters": SCHEMA, "strict": True}],
        "tool_choice": {"type": "function", "name": "look"}, "max_output_tokens": 99, "parallel_tool_calls": True,
        "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA, "strict": True}, "verbosity": "low"},
        "reasoning": {"effort": "high", "summary": "auto"}, "temperature": 1,
    })  # fmt: skip
    system, user, called, first, second = asked.messages
    assert system == {"role": "system", "content": "Be brief."}
    assert user["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "high"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERg==", "filename": "a.pdf"}},
    ]
    assert called == {
        "role": "assistant", "content": "Looking.", "reasoning_content": "I should look.", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"city":"Rome"}'}},
            {"id": "c2", "type": "function", "function": {"name": "look", "arguments": '{"city":"Oslo"}'}},
        ],
    }  # fmt: skip
    assert first == {"role": "tool", "tool_call_id": "c1", "content": "sunny"}
    assert second["content"] == [{"type": "text", "text": "snow"}]
    assert asked.parameters == {
        "store": False, "tools": [{"type": "function", "function": {**LOOK["function"], "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "look"}}, "max_completion_tokens": 99,
        "parallel_tool_calls": True, "verbosity": "low", "reasoning_effort": "high", "temperature": 1, "logprobs": True,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}},
    }  # fmt: skip
    assert asked.untranslated == ()


def test_a_responses_request_names_what_only_its_own_api_can_do() -> None:
    asked = read_request("openai.responses", {
        "input": [
            {"role": "user", "content": "Who won?"},
            {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "won"}},
            {"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]},
        ],
        "tools": [{"type": "web_search"}, {"type": "mcp", "server_label": "s"}], "previous_response_id": "resp_1",
    })  # fmt: skip
    assert asked.untranslated == (
        "input[1]: web_search_call", "input[2].content[0]: input_image", "tools[0]: web_search", "tools[1]: mcp",
        "previous_response_id",
    )  # fmt: skip
    assert asked.messages[1]["content"][0]["action"] == {"type": "search", "query": "won"}
    assert read_request("openai.responses", {"input": "Hi"}).messages == [{"role": "user", "content": "Hi"}]


def anthropic_body() -> dict[str, Any]:
    return {
        "model": "c", "max_tokens": 100, "metadata": {"user_id": "u1"}, "stop_sequences": ["END"], "temperature": 0.5,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
                {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
                {"type": "document", "title": "a.pdf",
                 "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="}},
                {"type": "text", "text": "What is this?"},
            ]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "I should look.", "signature": "s"},
                {"type": "text", "text": "Looking."},
                {"type": "tool_use", "id": "c1", "name": "look", "input": {"city": "Rome"}},
                {"type": "tool_use", "id": "c2", "name": "look", "input": {"city": "Oslo"}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "sunny"}]},
                {"type": "tool_result", "tool_use_id": "c2", "content": "no such city", "is_error": True},
                {"type": "text", "text": "So?"},
            ]},
        ],
        "tools": [{"name": "look", "description": "Looks.", "input_schema": SCHEMA}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}, "effort": "low"},
    }  # fmt: skip


def test_a_messages_request_keeps_blocks_tools_and_results() -> None:
    asked = read_request("anthropic.messages", anthropic_body())
    system, user, called, first, second, last = asked.messages
    assert system == {"role": "system", "content": anthropic_body()["system"]}
    assert user["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERg==", "filename": "a.pdf"}},
        {"type": "text", "text": "What is this?"},
    ]
    assert called["content"] == "Looking." and called["reasoning_content"] == "I should look."
    assert [call["id"] for call in called["tool_calls"]] == ["c1", "c2"]
    assert called["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"city": "Rome"}'}
    assert first == {"role": "tool", "tool_call_id": "c1", "content": "sunny"}
    assert second == {"role": "tool", "tool_call_id": "c2", "content": "no such city", "is_error": True}
    assert last == {"role": "user", "content": [{"type": "text", "text": "So?"}]}
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    assert asked.parameters == {
        "max_tokens": 100, "stop": ["END"], "temperature": 0.5, "tools": [LOOK], "tool_choice": "required",
        "parallel_tool_calls": False, "response_format": schema, "reasoning_effort": "low",
    }  # fmt: skip
    assert asked.untranslated == ()


def test_a_messages_request_names_what_only_its_own_api_can_do() -> None:
    asked = read_request("anthropic.messages", {
        "messages": [{"role": "user", "content": [
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"},
             "citations": {"enabled": True}}]}],
        "max_tokens": 9, "top_k": 5, "thinking": {"type": "enabled", "budget_tokens": 1024}, "mcp_servers": [],
        "tools": [{"type": "web_search_20250305", "name": "web_search"}], "betas": ["x"],
    })  # fmt: skip
    assert asked.untranslated == (
        "messages[0].content[0]: document", "top_k", "thinking", "mcp_servers", "tools[0]: web_search_20250305",
    )  # fmt: skip
    assert asked.parameters["top_k"] == 5 and "betas" not in asked.parameters


def google_body() -> dict[str, Any]:
    return {
        "model": "g",
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [
                {"text": "What is this?"}, {"inlineData": {"mimeType": "image/png", "data": PIXEL}},
                {"inlineData": {"mimeType": "audio/wav", "data": "UklGRg=="}},
                {"inlineData": {"mimeType": "application/pdf", "data": "JVBERg=="}},
            ]},
            {"role": "model", "parts": [
                {"text": "I should look.", "thought": True},
                {"functionCall": {"name": "look", "args": {"city": "Rome"}}, "thoughtSignature": "s"},
                {"functionCall": {"name": "look", "args": {"city": "Oslo"}}},
            ]},
            {"role": "user", "parts": [
                {"functionResponse": {"name": "look", "response": {"result": "sunny"}}},
                {"functionResponse": {"name": "look", "response": {"result": "snow"}}},
            ]},
        ],
        "tools": [{"functionDeclarations": [{"name": "look", "description": "Looks.", "parameters": {
            "type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"],
            "additionalProperties": False}}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look"]}},
        "generationConfig": {
            "temperature": 0.5, "topP": 0.9, "maxOutputTokens": 99, "stopSequences": ["END"], "candidateCount": 2,
            "seed": 7, "responseMimeType": "application/json", "responseSchema": {
                "type": "OBJECT", "properties": {"name": {"type": "STRING", "nullable": True}}},
            "thinkingConfig": {"includeThoughts": True, "thinkingLevel": "LOW"},
        },
        "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
    }  # fmt: skip


def python_client_body() -> dict[str, Any]:
    body = in_python(google_body())
    config = {**body.pop("generation_config")}
    for name in ("system_instruction", "tools", "tool_config", "safety_settings"):
        config[name] = body.pop(name)
    return {**body, "config": config}


@pytest.mark.parametrize("body", [google_body(), python_client_body()], ids=["rest", "python"])
def test_a_generate_content_request_keeps_parts_tools_and_schema(body: dict[str, Any]) -> None:
    asked = read_request("google.generate_content", body)
    system, user, called, first, second = asked.messages
    assert system == {"role": "system", "content": "Be brief."}
    assert user["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERg=="}},
    ]
    assert called["content"] is None and called["reasoning_content"] == "I should look."
    rome, oslo = called["tool_calls"]
    assert rome["function"] == {"name": "look", "arguments": '{"city": "Rome"}'} and rome["id"] != oslo["id"]
    assert (first["tool_call_id"], second["tool_call_id"]) == (rome["id"], oslo["id"])
    assert first["role"] == "tool" and first["content"] == '{"result": "sunny"}'
    schema = {"type": "object", "properties": {"name": {"type": ["string", "null"]}}}
    assert asked.parameters == {
        "temperature": 0.5, "top_p": 0.9, "max_completion_tokens": 99, "stop": ["END"], "n": 2, "seed": 7,
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
        "reasoning_effort": "low", "tools": [LOOK], "tool_choice": {"type": "function", "function": {"name": "look"}},
    }  # fmt: skip
    assert asked.untranslated == ()


def test_a_generate_content_request_names_what_only_its_own_api_can_do() -> None:
    asked = read_request("google.generate_content", {
        "contents": ["Who won?", {"fileData": {"fileUri": "https://youtu.be/x"}}],
        "config": {"top_k": 4, "tools": [{"google_search": {}}], "thinking_config": {"thinking_budget": 9},
                   "cached_content": "cachedContents/1"},
    })  # fmt: skip
    assert asked.messages[0] == {"role": "user", "content": [{"type": "text", "text": "Who won?"}]}
    assert asked.untranslated == (
        "contents[1].parts[0]: fileData", "top_k", "tools[0]: googleSearch", "thinkingConfig.thinkingBudget", "cached_content",
    )  # fmt: skip


def test_the_shape_of_a_request_tells_its_api() -> None:
    assert detect_request_api(chat_body()) == "openai.chat"
    assert detect_request_api({"model": "m", "input": "Hi"}) == "openai.responses"
    assert detect_request_api(anthropic_body()) == "anthropic.messages"
    assert detect_request_api(google_body()) == detect_request_api(python_client_body()) == "google.generate_content"
    assert detect_request_api({"model": "m"}) is None and detect_request_api([1]) is None


def test_what_is_no_such_body_says_what_is_missing() -> None:
    with pytest.raises(InputError, match="needs messages; it is an object with the keys inputs"):
        read_request("openai.chat", {"inputs": 1})
    with pytest.raises(InputError, match=r"messages\[0\] needs a role"):
        read_request("openai.chat", {"messages": [{"from": "human", "value": "Hi"}]})
    with pytest.raises(InputError, match=r"There is no API 'cohere'\. APIs: openai.chat, openai.responses"):
        read_request("cohere", {})
