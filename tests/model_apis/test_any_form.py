"""What logs hold is read in whatever form an API, a framework or a convention wrote it; what is none of these is None."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbawa.model_apis.any_form import answer_in, conversation, question_in, tool_of

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Rome"}'}}
ANSWER = {
    "role": "assistant", "content": None,
    "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"city": "Rome"}}}],
}  # fmt: skip


def lc(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", name], "kwargs": kwargs}


TALKS = {
    "chat": [
        {"role": "user", "content": "Weather?"}, {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ],
    "responses": [
        {"role": "user", "content": "Weather?"},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"city": "Rome"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
    ],
    "anthropic": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "look", "input": {"city": "Rome"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "sunny"}]},
    ],
    "opentelemetry": [
        {"role": "user", "parts": [{"type": "text", "content": "Weather?"}]},
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "c1", "name": "look", "arguments": {"city": "Rome"}}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "sunny"}]},
    ],
    "langchain": [
        {"type": "human", "content": "Weather?", "additional_kwargs": {}},
        {"type": "ai", "content": "", "tool_calls": [{"name": "look", "args": {"city": "Rome"}, "id": "c1"}]},
        {"type": "tool", "content": "sunny", "tool_call_id": "c1"},
    ],
    "langchain, serialised, in a batch": [[
        lc("HumanMessage", content="Weather?"), lc("AIMessage", content="", additional_kwargs={"tool_calls": [CALL]}),
        lc("ToolMessage", content="sunny", tool_call_id="c1"),
    ]],
    "ai sdk": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [
            {"type": "tool-call", "toolCallId": "c1", "toolName": "look", "input": {"city": "Rome"}}]},
        {"role": "tool", "content": [{"type": "tool-result", "toolCallId": "c1", "output": {"type": "text", "value": "sunny"}}]},
    ],
    "inspect": [
        {"role": "user", "content": "Weather?", "source": "input"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "function": "look", "arguments": {"city": "Rome"}}]},
        {"role": "tool", "content": "sunny", "tool_call_id": "c1", "function": "look"},
    ],
    "bedrock": [
        {"role": "user", "content": [{"text": "Weather?"}]},
        {"role": "assistant", "content": [{"toolUse": {"toolUseId": "c1", "name": "look", "input": {"city": "Rome"}}}]},
        {"role": "user", "content": [{"toolResult": {"toolUseId": "c1", "content": [{"text": "sunny"}]}}]},
    ],
    "pydantic-ai": [
        {"kind": "request", "parts": [{"part_kind": "user-prompt", "content": "Weather?"}]},
        {"kind": "response", "parts": [
            {"part_kind": "tool-call", "tool_name": "look", "args": '{"city": "Rome"}', "tool_call_id": "c1"}]},
        {"kind": "request", "parts": [
            {"part_kind": "tool-return", "tool_name": "look", "content": "sunny", "tool_call_id": "c1"}]},
    ],
    "autogen": [
        {"type": "UserMessage", "content": "Weather?", "source": "user"},
        {"type": "AssistantMessage", "content": [{"id": "c1", "name": "look", "arguments": '{"city": "Rome"}'}], "thought": None},
        {"type": "FunctionExecutionResultMessage", "content": [{"content": "sunny", "call_id": "c1", "is_error": False}]},
    ],
    "openinference": [
        {"message": {"role": "user", "content": "Weather?"}},
        {"message.role": "assistant", "message.tool_calls": [{
            "tool_call.id": "c1", "tool_call.function.name": "look", "tool_call.function.arguments": '{"city": "Rome"}'}]},
        {"message.role": "tool", "message.content": "sunny", "message.tool_call_id": "c1"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("style", TALKS)
def test_a_conversation_is_the_same_in_every_style(style: str) -> None:
    found = conversation(TALKS[style])
    assert found is not None and found.untranslated == ()
    user, called, result = found.messages
    assert user in (
        {"role": "user", "content": "Weather?"},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
    )
    assert called["role"] == "assistant" and not called["content"]
    assert [json.loads(call["function"]["arguments"]) for call in called["tool_calls"]] == [{"city": "Rome"}]
    assert called["tool_calls"][0]["id"] == "c1" == result["tool_call_id"]
    assert result["role"] == "tool" and result["content"] == "sunny"


@pytest.mark.parametrize("style", TALKS)
def test_the_last_turn_of_the_assistant_is_the_answer(style: str) -> None:
    talk = TALKS[style][0] if style.endswith("batch") else TALKS[style]
    for value in (talk[1], [talk[1]], talk[:2]):
        answer = answer_in(value)
        if style == "responses" and value is talk[1]:
            continue  # an item alone is no answer
        assert answer is not None
        assert {**answer.output, "content": answer.output["content"] or None} == ANSWER, value
    assert answer_in(talk) is None, "a conversation that ends with a tool has no answer yet"


def test_contents_and_parts_of_other_styles() -> None:
    found = conversation(
        [{"role": "user", "parts": [{"text": "Weather?"}]}, {"role": "model", "parts": [{"text": "Sunny."}]}]
    )
    assert found and [message["role"] for message in found.messages] == ["user", "assistant"]
    shared = conversation([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}])
    assert shared and shared.messages == [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    pairs = conversation([["system", "Be brief."], ["human", "Hi"]])
    assert pairs and [message["role"] for message in pairs.messages] == ["system", "user"]
    blocks = conversation([{"role": "user", "blocks": [{"block_type": "text", "text": "Hi"}], "additional_kwargs": {}}])
    assert blocks and blocks.messages == [{"role": "user", "content": "Hi"}]
    image = conversation([{"role": "user", "content": [{"type": "image", "base64": "iVBO", "mime_type": "image/png"}]}])
    assert image and image.messages[0]["content"][0]["image_url"] == {"url": "data:image/png;base64,iVBO"}
    thought = conversation(
        [{"type": "ai", "content": [{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": "Ho"}]}]
    )
    assert thought and thought.messages[0]["reasoning_content"] == "Hm."


def test_definitions_of_tools_among_messages_are_tools() -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    found = question_in([{"role": "user", "content": "Hi"}, {"role": "tool", "content": tool}])
    assert (
        found
        and found.asked.messages == [{"role": "user", "content": "Hi"}]
        and found.asked.parameters == {"tools": [tool]}
    )
    same = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    for spelt in ("parameters", "input_schema", "inputSchema", "parameters_json_schema"):
        assert tool_of({"name": "look", spelt: {"type": "object"}}) == same
    assert tool_of({"type": "web_search"}) == {"type": "web_search"}


def test_a_whole_body_is_kept_with_its_api() -> None:
    body = {"model": "g", "contents": "Hi", "config": {"temperature": 0}}
    found = question_in(body)
    assert found and (found.api, found.request, found.asked.parameters) == (
        "google.generate_content",
        body,
        {"temperature": 0},
    )
    prompted = question_in({"prompt": "Hi", "system": "Be brief.", "temperature": 0})
    assert prompted and [m["role"] for m in prompted.asked.messages] == ["system", "user"]


def test_answers_of_wrappings_lists_and_results() -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Ho"}, "finish_reason": "stop"}
    generations = {
        "generations": [[{"text": "Ho"}]],
        "llm_output": {"token_usage": {"prompt_tokens": 3, "completion_tokens": 1}},
    }
    item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Ho"}]}
    alike = [
        "Ho", ["Ho"], choice, [choice], {"choices": [choice]}, generations, [item], item, [{"type": "text", "text": "Ho"}],
        {"text": "Ho"}, {"role": "assistant", "content": {"answer": "Ho"}},
    ]  # fmt: skip
    for value in alike:
        answer = answer_in(value)
        assert answer is not None and answer.output == "Ho", value
    counted = answer_in(generations)
    assert counted and (counted.input_tokens, counted.output_tokens) == (3, 1)
    several = answer_in([choice, choice])
    assert several and several.output == ["Ho", "Ho"]
    assert answer_in([{"toolCallId": "c1", "toolName": "look", "input": '{"city": "Rome"}'}]).output == ANSWER  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "value", [None, 7, True, {}, [], {"strange": 1}, [1], [{"a": 1}], {"messages": ["role='user'"]}]
)
def test_what_is_no_question_and_no_answer_is_none(value: Any) -> None:
    assert question_in(value) is None and answer_in(value) is None


_WORDS = st.sampled_from(sorted({
    "messages", "role", "content", "parts", "type", "text", "tool_calls", "function", "name", "arguments", "kwargs", "lc",
    "message", "choices", "generations", "blocks", "block_type", "from", "value", "data", "toolCallId", "toolName", "input",
    "tool-call", "tool-result", "tool_use", "tool_result", "user", "assistant", "human", "ai", "model", "id", "prompt",
    "message.role", "message.content", "source", "system", "tools", "usage", "tool", "output", "result", "function_call",
    "reasoning", "image", "additional_kwargs", "tool_call", "llm_output", "token_usage", "contents", "response",
}))  # fmt: skip
_any = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.text(max_size=2) | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=5),
    max_leaves=30,
)


@settings(max_examples=200, deadline=None)
@given(_any, st.lists(st.dictionaries(_WORDS, _any, max_size=5), max_size=3))
def test_nothing_makes_it_raise(value: Any, items: list[Any]) -> None:
    for anything in (value, items, {"messages": items}, {"role": "user", "content": items}):
        question_in(anything)
        answer_in(anything)


def test_answers_in_wrappings_bring_the_tokens_that_these_count() -> None:
    converse = {
        "output": {"message": {"role": "assistant", "content": [{"text": "Ho"}]}}, "stopReason": "end_turn",
        "usage": {"inputTokens": 3, "outputTokens": 1},
    }  # fmt: skip
    adk = {
        "content": {"role": "model", "parts": [{"text": "Ho"}]},
        "usage_metadata": {"prompt_token_count": 3, "candidates_token_count": 1},
    }
    autogen = {
        "finish_reason": "stop",
        "content": "Ho",
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
        "thought": None,
    }
    for value in (converse, adk, autogen):
        answer = answer_in(value)
        assert answer is not None and (answer.output, answer.input_tokens, answer.output_tokens) == ("Ho", 3, 1), value
    asked = question_in({
        "messages": [{"role": "user", "content": [{"text": "Hi"}]}], "system": [{"text": "Be brief."}],
        "toolConfig": {"tools": [{"toolSpec": {"name": "look", "inputSchema": {"json": {"type": "object"}}}}]},
    })  # fmt: skip
    assert asked is not None and [m["role"] for m in asked.asked.messages] == ["system", "user"]
    assert asked.asked.parameters["tools"][0]["function"] == {"name": "look", "parameters": {"type": "object"}}
