"""What each API's response answers: text, or a message without ids; thoughts apart; tokens only where counted."""

from typing import Any

import pytest
from google_shapes import in_python
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from qbawa.errors import InputError
from qbawa.model_apis.canonical import detect_response_api, read_response

CALLED = {
    "role": "assistant", "content": None,
    "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"city": "Rome"}}}],
}  # fmt: skip


def chat(message: dict[str, Any], **more: Any) -> dict[str, Any]:
    body = {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m-2026", **more,
        "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None, "message": {"role": "assistant", **message}}],
    }  # fmt: skip
    return ChatCompletion.model_validate(body).model_dump()


def test_a_chat_completion_is_its_text_or_the_message_that_calls() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 3,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    answered = read_response("openai.chat", chat({"content": "Hi", "annotations": []}, usage=usage))
    assert (answered.output, answered.model, answered.finish_reason) == ("Hi", "m-2026", "stop")
    assert (answered.input_tokens, answered.output_tokens, answered.cached_tokens) == (9, 3, 4)
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Rome"}'}}
    assert read_response("openai.chat", chat({"content": None, "tool_calls": [call]})).output == CALLED
    old = read_response("openai.chat", chat({"content": None, "function_call": call["function"]}))
    assert old.output == CALLED
    refused = read_response("openai.chat", chat({"content": None, "refusal": "No."}))
    assert refused.output == {"role": "assistant", "content": None, "refusal": "No."}


def test_arguments_that_are_no_json_stay_the_text_that_they_are() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"city": '}}
    output = read_response("openai.chat", chat({"content": "Hm", "tool_calls": [call]})).output
    assert output["tool_calls"][0]["function"]["arguments"] == '{"city": ' and output["content"] == "Hm"


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}])
def test_tokens_that_nobody_counted_are_unknown_not_zero(usage: Any) -> None:
    answered = read_response("openai.chat", chat({"content": "Hi"}, usage=usage))
    assert answered.input_tokens is None and answered.output_tokens is None


def test_several_choices_are_several_answers() -> None:
    body = chat({"content": "one"})
    body["choices"].append({"index": 1, "finish_reason": "stop", "message": {"role": "assistant", "content": "two"}})
    assert read_response("openai.chat", body).output == ["one", "two"]
    text = {"object": "text_completion", "choices": [{"index": 0, "text": " there", "finish_reason": "stop"}]}
    assert read_response("openai.chat", text).output == " there"


@pytest.mark.parametrize(
    "message",
    [
        {"reasoning_content": "Hmm.", "content": "Hi"},
        {"reasoning": "Hmm.", "content": "Hi"},
        {"thinking_blocks": [{"type": "thinking", "thinking": "Hmm.", "signature": "s"}], "content": "Hi"},
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "Hmm."}]},
                {"type": "text", "text": "Hi"},
            ]
        },
    ],
    ids=["deepseek", "openrouter", "litellm", "mistral"],
)
def test_thoughts_stand_apart_from_the_answer(message: dict[str, Any]) -> None:
    answered = read_response("openai.chat", {"choices": [{"message": {"role": "assistant", **message}}]})
    assert (answered.output, answered.reasoning) == ("Hi", "Hmm.")


def test_a_response_is_the_text_of_its_messages_and_the_calls_of_its_items() -> None:
    def response(*items: dict[str, Any], **more: Any) -> dict[str, Any]:
        body = {
            "id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": "completed", "tools": [],
            "tool_choice": "auto", "parallel_tool_calls": True, "output": list(items), **more,
            "usage": {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12,
                      "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
                      "output_tokens_details": {"reasoning_tokens": 1}},
        }  # fmt: skip
        return Response.model_validate(body).model_dump()

    thought = {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "Hmm."}]}
    text = {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}
    said = {"type": "message", "id": "msg", "role": "assistant", "status": "completed", "content": [text]}
    searched = {
        "type": "web_search_call",
        "id": "ws",
        "status": "completed",
        "action": {"type": "search", "query": "q"},
    }
    answered = read_response("openai.responses", response(thought, searched, said))
    assert (answered.output, answered.reasoning, answered.finish_reason) == ("Hi", "Hmm.", "stop")
    assert (answered.input_tokens, answered.output_tokens, answered.cached_tokens) == (9, 3, 2)
    call = {"type": "function_call", "id": "fc", "call_id": "c1", "name": "look", "arguments": '{"city":"Rome"}'}
    answered = read_response("openai.responses", response(thought, call))
    assert answered.output == CALLED and answered.finish_reason == "tool_calls"
    refused = {**said, "content": [{"type": "refusal", "refusal": "No."}]}
    assert read_response("openai.responses", response(refused)).output["refusal"] == "No."
    cut = response(said, status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    assert read_response("openai.responses", cut).finish_reason == "length"


def test_a_message_of_blocks_is_its_text_and_its_tool_use() -> None:
    usage = {"input_tokens": 5, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20, "output_tokens": 3}
    body = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "c", "stop_reason": "tool_use", "usage": usage,
        "content": [
            {"type": "thinking", "thinking": "Hmm.", "signature": "s"}, {"type": "text", "text": "Looking.", "citations": None},
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            {"type": "tool_use", "id": "t", "name": "look", "input": {"city": "Rome"}},
        ],
    }  # fmt: skip
    answered = read_response("anthropic.messages", body)
    assert answered.output == {**CALLED, "content": "Looking."}
    assert (answered.reasoning, answered.finish_reason) == ("Hmm.", "tool_calls")
    # What came from the cache and went into it are tokens of the prompt, too.
    assert (answered.input_tokens, answered.output_tokens, answered.cached_tokens) == (125, 3, 100)
    two = {**body, "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "stop_reason": "end_turn"}
    assert read_response("anthropic.messages", two).output == "ab"


@pytest.mark.parametrize("python", [False, True], ids=["rest", "python"])
def test_a_candidate_is_the_text_and_calls_of_its_parts(python: bool) -> None:
    parts = [{"text": "Hmm.", "thought": True}, {"functionCall": {"name": "look", "args": {"city": "Rome"}}}]
    body: dict[str, Any] = {
        "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}], "modelVersion": "g-001",
        "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 3, "thoughtsTokenCount": 4, "totalTokenCount": 16},
    }  # fmt: skip
    answered = read_response("google.generate_content", in_python(body) if python else body)
    assert (answered.output, answered.reasoning, answered.finish_reason) == (CALLED, "Hmm.", "tool_calls")
    assert (answered.model, answered.input_tokens, answered.output_tokens) == ("g-001", 9, 7)


def test_a_blocked_prompt_has_no_answer_and_says_so() -> None:
    answered = read_response("google.generate_content", {"promptFeedback": {"blockReason": "SAFETY"}})
    assert answered.output is None and answered.finish_reason == "content_filter"
    image = {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}
    drawn = read_response("google.generate_content", {"candidates": [{"content": {"parts": [image]}}]})
    assert drawn.output["images"] == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]


def test_the_shape_of_a_response_tells_its_api() -> None:
    assert detect_response_api(chat({"content": "Hi"})) == "openai.chat"
    assert detect_response_api({"object": "response", "output": []}) == "openai.responses"
    assert detect_response_api({"type": "message", "role": "assistant", "content": []}) == "anthropic.messages"
    assert detect_response_api({"candidates": []}) == "google.generate_content"
    for other in ({"output": ["x"]}, {"content": []}, {"error": {"message": "no"}}, "Hi", None, [{}]):
        assert detect_response_api(other) is None


def test_what_is_no_such_body_says_what_is_missing() -> None:
    with pytest.raises(InputError, match="needs choices; it is an object with the keys error"):
        read_response("openai.chat", {"error": {"message": "rate limit"}})
    with pytest.raises(InputError, match="needs content"):
        read_response("anthropic.messages", {"choices": []})
