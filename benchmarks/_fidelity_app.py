"""An application that asks models in every way that a client library offers; run in an environment with that library.

    python _fidelity_app.py API URL JOURNAL SEED

Each scenario is a request of its own, named after what it asks, recorded by `qbawa.instrument()` and nothing else. The last
line is a JSON object: outcomes (scenario -> error, null where the client made the call), fields (of a request, by the library's
own types).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}
FORM = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "sunny": {"type": "boolean"}},
    "required": ["city", "sunny"],
    "additionalProperties": False,
}
GOOGLE_FORM = {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]}
VOICE = {"voice_config": {"prebuilt_voice_config": {"voice_name": "Kore"}}}
Scenario = tuple[str, dict[str, Any]]


def chat() -> Iterator[Scenario]:
    """Chat completions."""
    tool = {"type": "function", "function": {"name": "weather", "description": "Of a city", "parameters": WEATHER}}
    strict = {"type": "function", "function": {"name": "strict", "parameters": WEATHER, "strict": True}}
    user = {"role": "user", "content": "Is it sunny in Rome?"}
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    other = {"id": "call_2", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    turns = [
        user,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Sunny"},
    ]
    many = [
        user,
        {"role": "assistant", "content": "I look at both.", "tool_calls": [call, other]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Sunny"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "Rain"}]},
    ]
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}}
    link = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/a.png"}}
    sound = {"type": "input_audio", "input_audio": {"data": "UklGRiQAAABXQVZF", "format": "wav"}}
    file = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0x"}}
    text = {"type": "text", "text": "What is this?"}
    schema = {"type": "json_schema", "json_schema": {"name": "weather", "schema": FORM, "strict": True}}
    yield "plain", {}
    yield "system", {"messages": [{"role": "system", "content": "Be brief."}, user]}
    yield "developer", {"messages": [{"role": "developer", "content": "Be brief."}, user]}
    yield "named", {"messages": [{**user, "name": "ann"}]}
    yield "turns", {"messages": [user, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Why?"}]}
    yield "parts", {"messages": [{"role": "user", "content": [text, text]}]}
    yield "image", {"messages": [{"role": "user", "content": [text, picture]}]}
    yield "image link", {"messages": [{"role": "user", "content": [link, text]}]}
    yield "audio in", {"messages": [{"role": "user", "content": [text, sound]}]}
    yield "file", {"messages": [{"role": "user", "content": [text, file]}]}
    yield "tools", {"tools": [tool, strict]}
    yield "tool choice", {"tools": [tool], "tool_choice": {"type": "function", "function": {"name": "weather"}}}
    yield "tool required", {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    yield "tool results", {"messages": turns, "tools": [tool]}
    yield "parallel tool results", {"messages": many, "tools": [tool], "parallel_tool_calls": True}
    yield "functions", {"functions": [tool["function"]], "function_call": "auto"}
    yield "refusal turn", {"messages": [user, {"role": "assistant", "refusal": "No."}, user]}
    yield "schema", {"response_format": schema}
    yield "json object", {"response_format": {"type": "json_object"}}
    yield "stream", {"stream": True}
    yield "stream of tools", {"stream": True, "tools": [tool], "tool_choice": "required"}
    yield "stream with usage", {"stream": True, "stream_options": {"include_usage": True}}
    yield "sampling", {"temperature": 0.3, "top_p": 0.9, "seed": 7, "presence_penalty": 0.5, "frequency_penalty": -0.5}
    yield "max tokens", {"max_tokens": 50}
    yield "max completion tokens", {"max_completion_tokens": 60}
    yield "stop", {"stop": ["\n\n", "END"]}
    yield "stop text", {"stop": "END"}
    yield "logprobs", {"logprobs": True, "top_logprobs": 3}
    yield "logit bias", {"logit_bias": {"50256": -100}}
    yield "n", {"n": 2}
    yield "reasoning", {"reasoning_effort": "low", "verbosity": "low"}
    yield "prediction", {"prediction": {"type": "content", "content": "Yes, it is."}}
    yield "modalities", {"modalities": ["text"]}
    yield "audio out", {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    yield "web search", {"web_search_options": {"search_context_size": "low"}}
    yield "extra body", {"extra_body": {"top_k": 5, "chat_template_kwargs": {"thinking": True}}}
    yield "account", {"user": "u1", "metadata": {"a": "b"}, "store": False}


def responses() -> Iterator[Scenario]:
    """Responses."""
    tool = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": True, "description": "Of a city"}
    user = {"role": "user", "content": "Is it sunny in Rome?"}
    call = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Rome"}'}
    result = {"type": "function_call_output", "call_id": "c1", "output": "Sunny"}
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
    said = {
        "type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
        "content": [{"type": "output_text", "text": "Yes.", "annotations": []}],
    }  # fmt: skip
    picture = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "low"}
    file = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0x"}
    text = {"type": "input_text", "text": "What is this?"}
    form = {"format": {"type": "json_schema", "name": "weather", "schema": FORM, "strict": True}}
    yield "plain", {"input": "Is it sunny in Rome?"}
    yield "instructions", {"instructions": "Be brief."}
    yield "developer", {"input": [{"role": "developer", "content": "Be brief."}, user]}
    yield "turns", {"input": [user, said, {"role": "user", "content": "Why?"}]}
    yield "image", {"input": [{"role": "user", "content": [text, picture]}]}
    yield "file", {"input": [{"role": "user", "content": [text, file]}]}
    yield "tools", {"tools": [tool], "parallel_tool_calls": False}
    yield "tool required", {"tools": [tool], "tool_choice": "required"}
    yield "tool choice", {"tools": [tool], "tool_choice": {"type": "function", "name": "weather"}}
    yield "tool results", {"input": [user, call, result], "tools": [tool]}
    yield (
        "reasoning item",
        {"input": [user, thought, call, result], "tools": [tool], "include": ["reasoning.encrypted_content"]},
    )
    yield "web search", {"tools": [{"type": "web_search"}]}
    yield "schema", {"text": form}
    yield "verbosity", {"text": {"verbosity": "low"}}
    yield "reasoning", {"reasoning": {"effort": "low", "summary": "auto"}}
    yield "sampling", {"temperature": 0.3, "top_p": 0.9, "top_logprobs": 2, "include": ["message.output_text.logprobs"]}
    yield "max tokens", {"max_output_tokens": 50}
    yield "goes on", {"previous_response_id": "resp_1"}
    yield "conversation", {"conversation": "conv_1"}
    yield "stored prompt", {"prompt": {"id": "pmpt_1", "variables": {"city": "Rome"}}}
    yield "truncation", {"truncation": "auto", "max_tool_calls": 3}
    yield "stream", {"stream": True}
    yield "stream of tools", {"stream": True, "tools": [tool], "tool_choice": "required"}
    yield "account", {"store": False, "user": "u1"}


def messages() -> Iterator[Scenario]:
    """Anthropic's messages."""
    tool = {"name": "weather", "description": "Of a city", "input_schema": WEATHER}
    user = {"role": "user", "content": "Is it sunny in Rome?"}
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Sunny"}
    failed = {
        "type": "tool_result",
        "tool_use_id": "toolu_1",
        "is_error": True,
        "content": [{"type": "text", "text": "?"}],
    }
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "abc"}
    hidden = {"type": "redacted_thinking", "data": "EmwK"}
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    link = {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1:9/a.png"}}
    paper = {
        "type": "document", "title": "A paper", "citations": {"enabled": True},
        "source": {"type": "text", "media_type": "text/plain", "data": "It is sunny."},
    }  # fmt: skip
    text = {"type": "text", "text": "What is this?"}
    yield "plain", {}
    yield "system", {"system": "Be brief."}
    yield "system blocks", {"system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]}
    yield "turns", {"messages": [user, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Why?"}]}
    yield "prefill", {"messages": [user, {"role": "assistant", "content": "It is"}]}
    yield "cached part", {"messages": [{"role": "user", "content": [{**text, "cache_control": {"type": "ephemeral"}}]}]}
    yield "image", {"messages": [{"role": "user", "content": [picture, text]}]}
    yield "image link", {"messages": [{"role": "user", "content": [link, text]}]}
    yield "document", {"messages": [{"role": "user", "content": [paper, text]}]}
    yield "tools", {"tools": [tool]}
    yield "tool any", {"tools": [tool], "tool_choice": {"type": "any"}}
    yield (
        "tool choice",
        {"tools": [tool], "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}},
    )
    yield (
        "tool results",
        {
            "tools": [tool],
            "messages": [user, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}],
        },
    )
    yield (
        "tool error",
        {
            "tools": [tool],
            "messages": [user, {"role": "assistant", "content": [use]}, {"role": "user", "content": [failed]}],
        },
    )
    yield "web search", {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 2}]}
    yield "thinking", {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000}
    yield (
        "thinking turn",
        {
            "tools": [tool],
            "messages": [user, {"role": "assistant", "content": [thought, use]}, {"role": "user", "content": [result]}],
        },
    )
    yield (
        "redacted thinking",
        {"messages": [user, {"role": "assistant", "content": [hidden, {"type": "text", "text": "Yes."}]}, user]},
    )
    yield "schema", {"output_config": {"format": {"type": "json_schema", "schema": FORM}}}
    yield "cache control", {"cache_control": {"type": "ephemeral"}}
    yield "container", {"container": "container_1"}
    yield "stop", {"stop_sequences": ["END"]}
    yield "sampling", {"extra_body": {"temperature": 0.3, "top_p": 0.9, "top_k": 5}}
    yield "stream", {"stream": True}
    yield "stream of tools", {"stream": True, "tools": [tool], "tool_choice": {"type": "any"}}
    yield "account", {"metadata": {"user_id": "u1"}, "service_tier": "auto"}


def generate() -> Iterator[Scenario]:
    """Google's generateContent, in the spelling of its Python client."""
    user = {"role": "user", "parts": [{"text": "Is it sunny in Rome?"}]}
    declared = {"name": "weather", "description": "Of a city", "parameters_json_schema": WEATHER}
    tool = {"function_declarations": [declared]}
    call = {"role": "model", "parts": [{"function_call": {"name": "weather", "args": {"city": "Rome"}}}]}
    result = {"role": "user", "parts": [{"function_response": {"name": "weather", "response": {"result": "Sunny"}}}]}
    picture = {"inline_data": {"mime_type": "image/png", "data": PNG}}
    yield "plain", {"contents": "Is it sunny in Rome?"}
    yield (
        "turns",
        {
            "contents": [
                user,
                {"role": "model", "parts": [{"text": "Yes."}]},
                {"role": "user", "parts": [{"text": "Why?"}]},
            ]
        },
    )
    yield "system", {"config": {"system_instruction": "Be brief."}}
    yield "image", {"contents": [{"role": "user", "parts": [picture, {"text": "What is this?"}]}]}
    yield (
        "file link",
        {
            "contents": [
                {
                    "role": "user",
                    "parts": [{"file_data": {"file_uri": "gs://a/b", "mime_type": "image/png"}}, {"text": "?"}],
                }
            ]
        },
    )
    yield "tools", {"config": {"tools": [tool]}}
    yield (
        "tool any",
        {
            "config": {
                "tools": [tool],
                "tool_config": {"function_calling_config": {"mode": "ANY", "allowed_function_names": ["weather"]}},
            }
        },
    )
    yield "tool results", {"contents": [user, call, result], "config": {"tools": [tool]}}
    yield "search", {"config": {"tools": [{"google_search": {}}]}}
    yield "schema", {"config": {"response_mime_type": "application/json", "response_json_schema": FORM}}
    yield "typed schema", {"config": {"response_mime_type": "application/json", "response_schema": GOOGLE_FORM}}
    yield "media", {"config": {"media_resolution": "MEDIA_RESOLUTION_LOW"}}
    yield "speech", {"config": {"response_modalities": ["AUDIO"], "speech_config": VOICE}}
    yield "cached content", {"config": {"cached_content": "cachedContents/1"}}
    yield (
        "sampling",
        {
            "config": {
                "temperature": 0.3,
                "top_p": 0.9,
                "top_k": 5,
                "seed": 7,
                "presence_penalty": 0.5,
                "frequency_penalty": 0.5,
            }
        },
    )
    yield "stop", {"config": {"stop_sequences": ["END"], "max_output_tokens": 50, "candidate_count": 1}}
    yield "thinking", {"config": {"thinking_config": {"thinking_budget": 512, "include_thoughts": True}}}
    yield "logprobs", {"config": {"response_logprobs": True, "logprobs": 2}}
    yield (
        "safety",
        {"config": {"safety_settings": [{"category": "HARM_CATEGORY_HATE_SPEECH", "threshold": "BLOCK_NONE"}]}},
    )
    yield "stream", {"stream": True}


def caller(api: str, url: str) -> Callable[[dict[str, Any]], None]:
    """A function that makes one call with these arguments through the client library."""
    if api.startswith("openai"):
        import openai

        client = openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
        make, asked = (
            (client.chat.completions.create, {"model": "gpt-x"})
            if api == "openai.chat"
            else (client.responses.create, {"model": "gpt-x"})
        )
        return lambda arguments: _drain(make(**{**asked, **arguments}))
    if api in GATEWAY:
        import litellm

        model, path = GATEWAY[api]
        # Without the last one litellm needs a further package as soon as there are tools.
        address = {"api_base": f"{url}{path}", "api_key": "k", "num_retries": 0, "_skip_mcp_handler": True}
        return lambda arguments: _drain(litellm.completion(model=model, **address, **arguments))
    if api == "anthropic.messages":
        import anthropic

        claude = anthropic.Anthropic(base_url=url, api_key="k", max_retries=0)
        start = {"model": "claude-x", "max_tokens": 100}
        return lambda arguments: _drain(claude.messages.create(**{**start, **arguments}))
    from google import genai

    gemini = genai.Client(api_key="k", http_options={"base_url": url})

    def generate_content(arguments: dict[str, Any]) -> None:
        given = {"model": "gemini-x", **arguments}
        if given.pop("stream", False):
            _drain(gemini.models.generate_content_stream(**given))
        else:
            gemini.models.generate_content(**given)

    return generate_content


def asked_by(name: str, seed: str, value: Any) -> Any:
    """The arguments with a question of this scenario's own, so that no two requests are alike."""
    if isinstance(value, dict):
        return {key: asked_by(name, seed, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [asked_by(name, seed, inner) for inner in value]
    return f"{value} ({name}, {seed})" if value in ("Is it sunny in Rome?", "What is this?") else value


def _drain(answer: Any) -> None:
    if hasattr(answer, "__next__") or type(answer).__name__ in ("Stream", "CustomStreamWrapper"):
        for _ in answer:
            pass


GATEWAY = {
    "litellm.openai": ("openai/gpt-x", "/v1"),
    "litellm.anthropic": ("anthropic/claude-x", ""),
    "litellm.gemini": ("gemini/gemini-x", ""),
}
"""Model and path by application that asks through litellm, which writes each provider's form."""
THROUGH = {"plain", "system", "turns", "image", "tools", "tool required", "tool results", "parallel tool results", "schema",
           "stream", "stream of tools", "sampling", "max tokens", "stop", "json object"}  # fmt: skip
"""Scenarios that litellm takes to every provider."""


def through_litellm() -> Iterator[Scenario]:
    """Chat completions as far as they can be said to every provider."""
    for name, arguments in chat():
        if name in THROUGH:
            kept = {key: value for key, value in arguments.items() if key not in ("seed", *PENALTIES)}
            yield name, kept


PENALTIES = ("presence_penalty", "frequency_penalty")
SCENARIOS = {
    **dict.fromkeys(GATEWAY, through_litellm),
    "openai.chat": chat,
    "openai.responses": responses,
    "anthropic.messages": messages,
    "google.generate_content": generate,
}


def fields_of(api: str) -> list[str]:
    """The fields of a request by the client library's own types."""
    if api in GATEWAY:
        return []
    if api == "openai.chat":
        from openai.types.chat.completion_create_params import CompletionCreateParamsBase as Params
    elif api == "openai.responses":
        from openai.types.responses.response_create_params import ResponseCreateParamsBase as Params
    elif api == "anthropic.messages":
        from anthropic.types.message_create_params import MessageCreateParamsBase as Params
    else:
        from google.genai.types import GenerateContentConfig

        named = {name: field.alias or name for name, field in GenerateContentConfig.model_fields.items()}
        return sorted(named.values())
    return sorted(Params.__annotations__)


ASK: dict[str, dict[str, Any]] = {
    "openai.chat": {"messages": [{"role": "user", "content": "Is it sunny in Rome?"}]},
    "openai.responses": {"input": [{"role": "user", "content": "Is it sunny in Rome?"}]},
    "anthropic.messages": {"messages": [{"role": "user", "content": "Is it sunny in Rome?"}]},
    "google.generate_content": {"contents": "Is it sunny in Rome?"},
    **{name: {"messages": [{"role": "user", "content": "Is it sunny in Rome?"}]} for name in GATEWAY},
}
"""What is asked where a scenario does not say."""


def main() -> None:
    api, url, journal, seed = sys.argv[1:5]
    import qbawa

    qbawa.configure(journal, pipeline="fidelity")
    qbawa.instrument()
    call = caller(api, url)
    outcomes: dict[str, str | None] = {}
    for name, arguments in SCENARIOS[api]():
        arguments = asked_by(f"{api}/{name}", seed, {**ASK[api], **arguments})
        try:
            with qbawa.request(request_id=f"{api}/{name}"):
                qbawa.step(call, name=api)(arguments)
            outcomes[name] = None
        except Exception as error:
            outcomes[name] = f"{type(error).__name__}: {error}"[:300]
    qbawa.flush()
    print(json.dumps({"outcomes": outcomes, "fields": fields_of(api)}))


if __name__ == "__main__":
    main()
