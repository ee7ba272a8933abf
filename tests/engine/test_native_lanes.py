"""Requests recorded on one API, sent again on it as they were; and as chat completions where the model speaks no other."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qbawa.config import ModelConfig
from qbawa.engine.calls import ModelCall, Native
from qbawa.engine.engine import Engine
from qbawa.engine.ledger.ledger import Ledger
from qbawa.errors import FinalError
from tests.support.model_apis_server import ModelServer, model_server

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT_TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
CHAT = ({"role": "user", "content": "Use the tool for Rome"},)
BODIES: dict[str, dict[str, Any]] = {
    "openai.responses": {
        "input": [{"role": "user", "content": "Use the tool for Rome"}],
        "instructions": "Be brief.",
        "tools": [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}],
        "reasoning": {"effort": "low"},
    },
    "anthropic.messages": {
        "max_tokens": 50,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": "Use the tool for Rome"}],
        "tools": [{"name": "weather", "input_schema": SCHEMA}],
    },
    "google.generate_content": {
        "contents": [{"role": "user", "parts": [{"text": "Use the tool for Rome"}]}],
        "tools": [{"functionDeclarations": [{"name": "weather", "parametersJsonSchema": SCHEMA}]}],
        "generationConfig": {"topK": 5},
    },
}
MODELS = {
    "openai.responses": ("gpt", "openai/gpt-x", "/v1"),
    "anthropic.messages": ("claude", "anthropic/claude-x", ""),
    "google.generate_content": ("gemini", "gemini/gemini-x", ""),
}


@pytest.fixture(scope="module")
def running() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture
def server(running: ModelServer, monkeypatch: pytest.MonkeyPatch) -> ModelServer:
    monkeypatch.setenv("TEST_KEY", "k-secret")
    running.received.clear()
    return running


def engine(server: ModelServer, folder: Path, **extra: Any) -> Engine:
    models = {
        name: ModelConfig.model_validate(
            {"base_url": server.url + path, "litellm_model": known, "api_key_env": "TEST_KEY", "free": True, **extra}
        )
        for name, known, path in MODELS.values()
    }
    return Engine(models, Ledger(folder))


def called(text: str) -> Any:
    (call,) = json.loads(text)["tool_calls"]
    return call["function"]


@pytest.mark.parametrize("api", BODIES)
async def test_a_recorded_request_arrives_as_it_was_and_its_tool_call_is_the_answer(
    server: ModelServer, tmp_path: Path, api: str
) -> None:
    call = ModelCall(MODELS[api][0], CHAT, native=Native(api, {**BODIES[api], "stream": True, "model": "old"}))
    async with engine(server, tmp_path) as running:
        result = await running.call(call)
        again = await running.call(call)
    (received,) = server.received
    assert received.api == api
    assert {name: value for name, value in received.body.items() if name != "model"} == BODIES[api]
    assert called(result.text) == {"name": "weather", "arguments": {"city": "Rome"}}
    assert (result.input_tokens, result.output_tokens) == (5, 2) and again.cached


async def test_extra_fields_of_the_model_join_and_what_was_asked_stays(server: ModelServer, tmp_path: Path) -> None:
    call = ModelCall("claude", CHAT, native=Native("anthropic.messages", BODIES["anthropic.messages"]))
    async with engine(
        server, tmp_path, extra={"max_tokens": 999, "temperature": 0.1, "service_tier": "auto"}
    ) as running:
        await running.call(call)
    body = server.received[0].body
    assert (body["max_tokens"], body["temperature"], body["service_tier"]) == (50, 0.1, "auto")


async def test_a_model_of_another_api_is_asked_the_same_in_chat_form_or_not_at_all(
    server: ModelServer, tmp_path: Path
) -> None:
    asked = Native("anthropic.messages", {"max_tokens": 50, "messages": [{"role": "user", "content": "Rome"}]})
    hosted = {**asked.body, "mcp_servers": [{"type": "url", "url": "http://127.0.0.1:9", "name": "m"}]}
    async with engine(server, tmp_path) as running:
        await running.call(ModelCall("gpt", ({"role": "user", "content": "Rome"},), {"max_tokens": 50}, native=asked))
        with pytest.raises(FinalError, match="mcp_servers") as refused:
            await running.call(ModelCall("gpt", CHAT, native=Native("anthropic.messages", hosted)))
    assert refused.value.reason == "unfaithful"
    (received,) = server.received
    assert received.api == "openai.chat" and received.body["max_tokens"] == 50


@pytest.mark.slow
@pytest.mark.parametrize("model", ["claude", "gemini"])
async def test_tools_reach_providers_behind_litellm(server: ModelServer, tmp_path: Path, model: str) -> None:
    async with engine(server, tmp_path) as running:
        result = await running.call(ModelCall(model, CHAT, {"tools": [CHAT_TOOL], "max_tokens": 50}))
    assert called(result.text) == {"name": "weather", "arguments": {"city": "Rome"}}


@pytest.mark.parametrize("api", BODIES)
async def test_keys_travel_in_the_header_that_the_api_has(server: ModelServer, tmp_path: Path, api: str) -> None:
    body = BODIES[api] | ({"betas": ["files-1"]} if api == "anthropic.messages" else {})
    async with engine(server, tmp_path) as running:
        await running.call(ModelCall(MODELS[api][0], CHAT, native=Native(api, body)))
    (received,) = server.received
    names = {"openai.responses": "authorization", "anthropic.messages": "x-api-key"}
    assert "k-secret" in received.headers[names.get(api, "x-goog-api-key")] and "k-secret" not in received.path
    assert received.headers.get("anthropic-beta") == ("files-1" if api == "anthropic.messages" else None)
    assert "betas" not in received.body
