"""The same calls through one client, in a process of its own: `_peers.py CLIENT BASE_URL CALLS cpu|limit`.

Each peer gets what its users would give it: 500 calls at once under a semaphore, and retries with backoff on 429.
Imports are not counted; connections, encoding, decoding and retries are. qbawa journals and fsyncs every answer too.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

AT_ONCE = 500
TRIES = 30
Ask = Callable[[int], Awaitable[Any]]


def main() -> None:
    name, base_url, calls, kind = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    os.environ["OPENAI_API_KEY"] = "none"
    if importlib.util.find_spec(name) is None:
        print(json.dumps({"not installed": name}))
        return
    print(json.dumps(asyncio.run(CLIENTS[name](base_url, calls, kind))))


def messages(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Question {number}: " + "why and how " * 60}]


async def qbawa(base_url: str, calls: int, kind: str) -> dict[str, Any]:
    from qbawa.config import ModelConfig
    from qbawa.engine.calls import ModelCall
    from qbawa.engine.engine import Engine
    from qbawa.engine.ledger.ledger import Ledger

    settings: dict[str, Any] = {"base_url": base_url, "free": True, "timeout_s": 60}
    if kind == "limit":
        settings["requests_per_minute"] = 6_000
    else:
        settings["max_in_flight"] = AT_ONCE
    models = {"m": ModelConfig.model_validate(settings)}
    with tempfile.TemporaryDirectory() as folder:
        async with Engine(models, Ledger(folder)) as engine:

            async def ask(number: int) -> None:
                await engine.call(ModelCall("m", tuple(messages(number)), {"temperature": 0.5}))

            return await measure(ask, calls, at_once=calls)


async def litellm(base_url: str, calls: int, kind: str) -> dict[str, Any]:
    from qbawa.engine.providers.litellm import load

    module = load()

    async def ask(number: int) -> None:
        await module.acompletion(
            model="openai/m",
            messages=messages(number),
            temperature=0.5,
            api_base=base_url,
            api_key="none",
            timeout=60,
            max_retries=0,
            num_retries=0,
        )

    return await measure(backing_off(ask), calls)


async def openai(base_url: str, calls: int, kind: str) -> dict[str, Any]:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=base_url, api_key="none", timeout=60, max_retries=TRIES) as client:

        async def ask(number: int) -> None:
            await client.chat.completions.create(model="m", messages=messages(number), temperature=0.5)  # type: ignore[arg-type]

        return await measure(ask, calls)


async def dspy(base_url: str, calls: int, kind: str) -> dict[str, Any]:
    import dspy as module

    model = module.LM("openai/m", api_base=base_url, api_key="none", temperature=0.5, cache=False, num_retries=0)

    async def ask(number: int) -> None:
        await model.acall(messages=messages(number))

    return await measure(backing_off(ask), calls)


async def measure(ask: Ask, calls: int, at_once: int = AT_ONCE) -> dict[str, Any]:
    await ask(-1)  # lazily imported parts are not what is measured
    semaphore = asyncio.Semaphore(at_once)
    failed = 0

    async def one(number: int) -> None:
        nonlocal failed
        async with semaphore:
            try:
                await ask(number)
            except Exception as error:
                failed += 1
                print(type(error).__name__, error, file=sys.stderr)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one(number) for number in range(calls)))
    return {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_ms_per_call": round((time.process_time() - cpu) * 1000 / calls, 3),
        "failed": failed,
    }


def backing_off(ask: Ask) -> Ask:
    """Retries with exponential backoff and jitter, as the openai client does by itself."""

    async def patient(number: int) -> None:
        for attempt in range(TRIES):
            try:
                await ask(number)
                return
            except Exception:
                if attempt == TRIES - 1:
                    raise
                await asyncio.sleep(min(8.0, 0.5 * 2**attempt) * random.uniform(0.75, 1.0))

    return patient


CLIENTS = {"qbawa": qbawa, "litellm": litellm, "openai": openai, "dspy": dspy}

if __name__ == "__main__":
    main()
