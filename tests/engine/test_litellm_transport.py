"""litellm's HTTP, by real servers on loopback: where redirects lead, how much bodies may hold, what a reset costs, and keys."""

from __future__ import annotations

import asyncio
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from qbawa.config import ModelConfig
from qbawa.engine.calls import ModelCall
from qbawa.engine.engine import Engine
from qbawa.engine.ledger.ledger import Ledger
from qbawa.engine.providers.body import MAX_BODY_BYTES, SHARED_BYTES, ByteBudget
from qbawa.engine.providers.litellm import LitellmProvider
from qbawa.errors import FinalError, ProviderError, TransientError

pytestmark = pytest.mark.slow
KEY = "q7Zt0pV+aXc4/Lm92sKdW=="  # like no provider's, with characters that an address would escape
MODELS = ("openai/m", "anthropic/claude-3-5-sonnet-20241022", "gemini/gemini-1.5-flash", "azure/m", "mistral/m")


def settings(url: str, model: str, **fields: Any) -> ModelConfig:
    more = {"extra": {"api_version": "2024-02-01"}} if model.startswith("azure/") else {}
    fixed = {"base_url": url, "litellm_model": model, "free": True, "timeout_s": 30.0}
    return ModelConfig.model_validate(fixed | more | fields)


def question(model: str) -> ModelCall:
    return ModelCall(model, ({"role": "user", "content": "a private question"},))


@asynccontextmanager
async def serving(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("model", MODELS)
async def test_a_redirect_gets_neither_the_key_nor_the_question_and_is_final(model: str) -> None:
    asked, reached, statuses = [], [], iter((301, 302, 303, 307, 308))

    async def stranger(request: web.Request) -> web.Response:
        reached.append((request.method, request.path_qs, dict(request.headers), await request.text()))
        return web.json_response({})

    async with serving(stranger) as elsewhere:

        async def redirect(request: web.Request) -> web.Response:
            asked.append(await request.text())
            return web.Response(status=next(statuses), headers={"Location": elsewhere + request.path_qs})

        async with serving(redirect) as url:
            provider = LitellmProvider(model, settings(url, model), KEY)
            for status in (301, 302, 303, 307, 308):
                with pytest.raises(FinalError, match=f"redirects .HTTP {status}") as caught:
                    await provider.send(question(model))
                assert caught.value.reason == f"http_{status}"
    assert len(asked) == 5 and all("a private question" in body for body in asked)
    assert reached == []


async def test_twenty_gzip_bombs_stay_within_the_budget_that_bodies_share() -> None:
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join(packer.compress(bytes(8 << 20)) for _ in range(16)) + packer.flush()  # 128 MiB in 130 kB

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})

    budget = ByteBudget()
    async with serving(answer) as url:
        providers = [LitellmProvider(model, settings(url, model), KEY, budget) for model in MODELS[:4]]
        calls = (provider.send(question(model)) for provider, model in zip(providers * 5, MODELS[:4] * 5, strict=True))
        ends = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(end, ProviderError) and "64 MiB" in str(end) for end in ends), ends
    assert budget.taken == 0 and MAX_BODY_BYTES // 2 < budget.peak <= SHARED_BYTES + MAX_BODY_BYTES


@pytest.mark.parametrize("model", MODELS[:3])
async def test_a_connection_that_is_reset_after_sending_is_one_call_that_may_be_billed(model: str) -> None:
    sent = []

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent.append(await reader.readuntil(b"\r\n\r\n"))
        await asyncio.sleep(0.05)
        at_once = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        writer.transport.abort()

    server = await asyncio.start_server(reset, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(TransientError) as caught:
            await LitellmProvider(model, settings(url, model), KEY).send(question(model))
    assert len(sent) == 1 and caught.value.billing == "unknown"


@pytest.mark.parametrize("provider", ["http", *MODELS[1:4]])
async def test_a_key_that_a_server_repeats_is_kept_nowhere_not_even_its_beginning(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """At every place where a message may be cut, as it stands, and as an address would hold it."""
    monkeypatch.setenv("TRIED_KEY", KEY)
    said: list[str] = []

    async def repeat(request: web.Request) -> web.Response:
        await request.read()
        sent = [value for value in request.headers.values() if KEY in value] + [request.path_qs]
        assert any(KEY in value for value in sent)
        lead = "w" * (140 + 7 * len(said))
        said.append(f"{lead}{KEY} {sent} https://host/v1?key={KEY.replace('+', '%2B').replace('/', '%2F')}")
        return web.json_response({"error": {"message": said[-1], "code": "odd"}}, status=400)

    async with serving(repeat) as url:
        config = settings(url, provider, api_key_env="TRIED_KEY", max_attempts=1)
        if provider == "http":
            config = config.model_copy(update={"litellm_model": None})
        async with Engine({"tried": config}, Ledger(tmp_path)) as engine:
            for turn in range(24):
                with pytest.raises(ProviderError) as caught:
                    await engine.call(ModelCall("tried", ({"role": "user", "content": f"q {turn}"},)))
                assert KEY[:8] not in str(caught.value)
    assert len(said) == 24
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"bad request" in kept or b"bad_request" in kept
    assert KEY[:8].encode() not in kept
    assert KEY[:8] not in "".join(capfd.readouterr())
