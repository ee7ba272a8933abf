"""The same calls through another client, in a process of its own: `_peers.py CLIENT BASE_URL CALLS [PER_MINUTE]`.

Each is used at its best: one client for all calls, as many at once as the load needs, and where a limit is known the same
limiter before it, which lets calls go evenly. A 429 waits as long as it asks, a connection that broke a moment. No peer
keeps what it got; qbawa journals and fsyncs every answer and lays it into a table. Printed at the end: seconds, failures,
429s, and the CPU of the process tree from its start, imports included.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

AT_ONCE, AT_ONCE_PACED = 64, 220
"""Without a limit: calls of 0.2 s, and the cost of some clients grows with their connections. With one: 100 calls a second
that take 2 s at most, and some."""
TRIES = 10
PACE = 0.995
Ask = Callable[[int], Awaitable[Any]]


def main() -> None:
    name, base_url, calls = sys.argv[1], sys.argv[2], int(sys.argv[3])
    per_minute = float(sys.argv[4]) if len(sys.argv) > 4 else None
    os.environ["OPENAI_API_KEY"] = "none"
    if importlib.util.find_spec(name) is None:
        print(json.dumps({"not installed": name}))
        return
    found = asyncio.run(measure(name, base_url, calls, per_minute))
    used = os.times()
    print(json.dumps(found | {"cpu_s": used.user + used.system + used.children_user + used.children_system}))


async def measure(name: str, base_url: str, calls: int, per_minute: float | None) -> dict[str, Any]:
    turn = Limiter(per_minute).turn
    waiting = iter(range(calls))
    failures: list[str] = []
    limited = 0

    async def work(ask: Ask) -> None:
        nonlocal limited
        for number in waiting:
            for attempt in range(TRIES):
                await turn()
                try:
                    await ask(number)
                    break
                except Exception as error:
                    status = getattr(error, "status", getattr(error, "status_code", None))
                    limited += status == 429
                    if attempt == TRIES - 1 or status not in (None, 429, 500, 502, 503, 504):
                        failures.append(f"{type(error).__name__}: {error}")
                        break
                    await asyncio.sleep(retry_after_s(error) or random.uniform(0, 0.5 * 2**attempt))

    async with CLIENTS[name](base_url) as ask:
        began = time.perf_counter()
        await asyncio.gather(*(work(ask) for _ in range(AT_ONCE_PACED if per_minute else AT_ONCE)))
        seconds = time.perf_counter() - began
    if failures:
        print(failures[0], file=sys.stderr)
    return {"seconds": seconds, "failed": len(failures), "limited": limited}


class Limiter:
    """Lets calls go one after the other at an even pace."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap_s = 60 / per_minute / PACE if per_minute else 0.0
        self._next = 0.0

    async def turn(self) -> None:
        if self._gap_s:
            now = time.monotonic()
            self._next = max(self._next + self._gap_s, now)
            if self._next > now:
                await asyncio.sleep(self._next - now)


def retry_after_s(error: Exception) -> float | None:
    headers = getattr(error, "headers", None) or getattr(getattr(error, "response", None), "headers", None) or {}
    try:
        return float(headers.get("retry-after"))
    except (TypeError, ValueError):
        return None


def messages(number: int) -> list[dict[str, str]]:
    """As long as those of qbawa's own cells."""
    return [{"role": "user", "content": f"Question {number}: " + "why and how " * 60}]


@asynccontextmanager
async def aiohttp(base_url: str) -> AsyncIterator[Ask]:
    import aiohttp as module
    import orjson

    url, headers = f"{base_url}/chat/completions", {"Authorization": "Bearer none", "Content-Type": "application/json"}
    options: dict[str, Any] = {"connector": module.TCPConnector(limit=0), "cookie_jar": module.DummyCookieJar()}
    async with module.ClientSession(timeout=module.ClientTimeout(60), raise_for_status=True, **options) as session:

        async def ask(number: int) -> str:
            body = orjson.dumps({"model": "m", "messages": messages(number), "temperature": 0.5})
            async with session.post(url, data=body, headers=headers) as response:
                answer = orjson.loads(await response.read())
            return str(answer["choices"][0]["message"]["content"])

        yield ask


@asynccontextmanager
async def openai(base_url: str) -> AsyncIterator[Ask]:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=base_url, api_key="none", timeout=60, max_retries=0) as client:

        async def ask(number: int) -> str:
            answer = await client.chat.completions.create(model="m", messages=messages(number), temperature=0.5)  # type: ignore[arg-type]
            return str(answer.choices[0].message.content)

        yield ask


@asynccontextmanager
async def litellm(base_url: str) -> AsyncIterator[Ask]:
    # Set up so that it reaches for no price table, prints nothing and does not retry by itself.
    from qbawa.engine.providers.litellm import load

    module = load()

    async def ask(number: int) -> str:
        answer = await module.acompletion(
            model="openai/m",
            messages=messages(number),
            temperature=0.5,
            api_base=base_url,
            api_key="none",
            timeout=60,
            max_retries=0,
            num_retries=0,
        )
        return str(answer.choices[0].message.content)

    yield ask


@asynccontextmanager
async def dspy(base_url: str) -> AsyncIterator[Ask]:
    import dspy as module

    model = module.LM("openai/m", api_base=base_url, api_key="none", temperature=0.5, cache=False, num_retries=0)

    async def ask(number: int) -> str:
        return str(await model.acall(messages=messages(number)))

    yield ask


CLIENTS = {"aiohttp": aiohttp, "openai": openai, "litellm": litellm, "dspy": dspy}

if __name__ == "__main__":
    main()
