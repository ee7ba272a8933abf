"""Whatever JSON a provider sends becomes an answer or a clean provider error, and what is in the ledger can be read."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from qbawa.config import ModelConfig
from qbawa.engine.calls import ModelCall
from qbawa.engine.engine import Engine
from qbawa.engine.ledger.ledger import Ledger
from qbawa.engine.ledger.to_lake import call_row, load_calls
from qbawa.engine.providers.body import MAX_BODY_BYTES, SHARED_BYTES
from qbawa.engine.providers.litellm import LitellmProvider
from qbawa.engine.providers.openai_http import HttpSession, OpenAIProvider
from qbawa.engine.providers.openai_wire import read_response
from qbawa.errors import FinalError, ProviderError
from qbawa.storage.journal import JournalWriter, all_segments, read_lines
from qbawa.storage.lake import Lake

CALL = ModelCall("openai/m", ({"role": "user", "content": "q"},))
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
DEEP = json.loads("[" * 300 + "]" * 300)


def reply(content: Any = "fine", logprobs: Any = None, **fields: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs}
    whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE}
    return whole | fields


text = st.text(st.characters(), max_size=5)
scalars = st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | text
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=2), max_leaves=4
)
NAMES = ("text", "type", "token", "logprob", "top_logprobs", "content", "refusal", "tool_calls", "code", "message")
# Small ones: drawing them takes far longer than reading them does.
named = st.dictionaries(
    st.sampled_from(NAMES),
    values | st.lists(st.dictionaries(st.sampled_from(NAMES), values, max_size=2), max_size=2),
    max_size=4,
)
anything = values | named | st.lists(named, max_size=2) | st.just(DEEP)
usages = st.dictionaries(st.sampled_from(tuple(USAGE)), values)
messages = st.dictionaries(st.sampled_from(("role", "content", "refusal", "tool_calls")), anything)
choices = st.fixed_dictionaries(
    {}, optional={"message": messages | anything, "finish_reason": anything, "logprobs": anything}
)
bodies = anything | st.fixed_dictionaries(
    {}, optional={"choices": st.lists(choices, max_size=2) | anything, "usage": usages | anything, "error": anything}
)
few = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


class Server:
    """Answers every call with the bytes that it was last given."""

    def __init__(self) -> None:
        self.data = b""
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> "Server":
        async def answer(request: web.Request) -> web.Response:
            await request.read()
            return web.Response(body=self.data, headers={"Content-Type": "application/json"} | self.headers)

        app = web.Application()
        app.add_routes([web.post("/v1/chat/completions", answer)])
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._runner.cleanup()


@pytest.mark.slow
@given(bodies)
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_json_reads_as_an_answer_that_can_be_kept_or_as_a_provider_error(body: Any) -> None:
    try:
        answer = read_response(body)
    except ProviderError as error:
        assert error.billing in ("counted", "unknown"), "a 200 may always be billed"
        str(error).encode()
        return
    answer.text.encode()
    assert all(count is None or 0 <= count < 1 << 27 for count in (answer.input_tokens, answer.output_tokens))
    assert json.loads(json.dumps(answer.logprobs)) == answer.logprobs


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["http", "litellm"])
def test_both_lanes_bring_an_answer_or_a_provider_error_whatever_is_sent(
    lane: str, loop: asyncio.AbstractEventLoop
) -> None:
    server, session = Server(), HttpSession()
    loop.run_until_complete(server.__aenter__())
    config = ModelConfig.model_validate({"base_url": server.base_url, "free": True, "timeout_s": 20.0})
    provider = (
        OpenAIProvider("openai/m", config, session, "sk-x")
        if lane == "http"
        else LitellmProvider("openai/m", config, "sk-x")
    )

    @given(bodies)
    @example({"error": {"text": [], "message": [{}]}})
    @few
    def attempt(body: Any) -> None:
        server.data = json.dumps(body).encode()
        try:
            answer = loop.run_until_complete(provider.send(CALL))
        except ProviderError as error:
            assert error.billing != "no", (body, error)
            return
        answer.text.encode()

    try:
        attempt()
    finally:
        loop.run_until_complete(session.close())
        loop.run_until_complete(server.__aexit__())


ODD = {
    "text parts that are no text": (reply([{"type": "text"}, {"text": 5}, {"text": "a"}, 7, None]), "a"),
    "a lone surrogate": (reply("a\ud800b"), "a?b"),
    "logprobs of nulls": (reply(logprobs={"content": [None, {"token": None}]}), "fine"),
    "logprobs 300 levels deep": (reply(logprobs={"content": DEEP}), "fine"),
    "logprobs of another type": (reply(logprobs=7), "fine"),
    "a huge count": (reply(usage={"prompt_tokens": 10**30, "completion_tokens": -(10**30)}), "fine"),
    "a number as content": (reply(7), None),
    "an object as content": (reply({"a": DEEP}), None),
    "a refusal that is no text": (reply(None) | {"choices": [{"message": {"content": None, "refusal": DEEP}}]}, None),
    "an error 300 levels deep": ({"error": {"code": DEEP, "message": DEEP}}, None),
    "an error with a lone surrogate": ({"error": {"code": "\ud800", "message": "\udfff"}}, None),
    "choices of nulls": ({"choices": [None]}, None),
}


@pytest.mark.slow
@pytest.mark.parametrize(("body", "said"), ODD.values(), ids=ODD)
async def test_an_odd_reply_ends_no_run_and_stays_readable_in_the_ledger(
    body: Any, said: str | None, tmp_path: Path
) -> None:
    async with Server() as server:
        server.data = json.dumps(body).encode()
        models = {
            "openai/m": ModelConfig.model_validate({"base_url": server.base_url, "free": True, "max_attempts": 1})
        }
        async with Engine(models, Ledger(tmp_path / "calls")) as engine:
            try:
                result = (await engine.call(CALL)).text
            except FinalError:
                result = None
        assert result == said
        async with Engine(models, Ledger(tmp_path / "calls")) as engine:
            assert await engine.ledger.prefetch([CALL.key]) == ({CALL.key} if said else set())
    loading = load_calls(Lake(tmp_path / "lake"), tmp_path / "calls")
    assert (loading.calls, loading.unreadable) == (1, 0)


async def test_lines_of_the_ledger_that_cannot_be_read_are_counted_and_stop_nobody(tmp_path: Path) -> None:
    good = {
        "v": 1,
        "kind": "call",
        "call_key": "a" * 32,
        "response_text": "x",
        "called_at": "2026-11-01T00:00:00+00:00",
    }
    strange = good | {
        "call_key": "b" * 32, "logprobs": "{", "input_tokens": 1e300, "output_tokens": "many", "cost_usd": [], "attempts": {},
        "latency_s": "soon", "messages": DEEP, "error": None,
    }  # fmt: skip
    with JournalWriter(tmp_path / "calls") as journal:
        for raw in (b"\xff\xfe", b"[" * 2_000, b"{", json.dumps(strange).encode(), json.dumps(good).encode()):
            journal.append(raw)
    ledger = Ledger(tmp_path / "calls")
    found = [await ledger.find(key * 32) for key in "ab"]
    assert [answer and answer.text for answer in found] == ["x", "x"] and ledger.unreadable == 3
    await ledger.close()
    (segment,) = all_segments(tmp_path / "calls")
    rows = [row for line in read_lines(segment) if (row := call_row(line))]
    assert [row["input_tokens"] for row in rows] == [None, None]
    loading = load_calls(Lake(tmp_path / "lake"), tmp_path / "calls")
    assert (loading.calls, loading.unreadable) == (2, 3)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
async def test_bodies_are_unpacked(encoding: str, tmp_path: Path) -> None:
    data = json.dumps(reply("packed " * 1_000)).encode()
    async with Server() as server:
        packed = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}[encoding](data)
        server.data, server.headers = packed, {"Content-Encoding": encoding}
        models = {"openai/m": ModelConfig.model_validate({"base_url": server.base_url, "free": True})}
        async with Engine(models, Ledger(tmp_path)) as engine:
            assert (await engine.call(CALL)).text == "packed " * 1_000


@pytest.mark.slow
async def test_twenty_gzip_bombs_take_no_more_than_the_budget_that_bodies_share(tmp_path: Path) -> None:
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join(packer.compress(bytes(8 << 20)) for _ in range(16)) + packer.flush()  # 128 MiB in 130 kB
    session = HttpSession()
    async with Server() as server:
        server.data, server.headers = bomb, {"Content-Encoding": "gzip"}
        config = ModelConfig.model_validate({"base_url": server.base_url, "free": True, "timeout_s": 60})
        provider = OpenAIProvider("openai/m", config, session, None)
        ends = await asyncio.gather(*(provider.send(CALL) for _ in range(20)), return_exceptions=True)
        assert all(isinstance(end, ProviderError) and "64 MiB" in str(end) for end in ends)
        assert session.bytes.taken == 0 and session.bytes.peak <= SHARED_BYTES + MAX_BODY_BYTES
    await session.close()
