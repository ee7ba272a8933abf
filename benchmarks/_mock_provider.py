"""A provider to be measured against: OpenAI's wire format on loopback, in a process of its own.

It enforces requests and tokens per minute as providers do (a bucket of `burst_s` seconds, beyond it 429 with
retry-after), takes its time, and fails on demand: by share of all calls (`faults`) or as one message orders
(`[[mock {"status": 400}]]`). It counts what it was asked, what it answered and what it bills, by content. Only its words
are made up.

    python benchmarks/_mock_provider.py            # prints {"port": …}; POST /control, GET /stats, GET /answered
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import math
import os
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

FAULTS = ("500", "503", "429", "reset", "hang", "malformed")
BILLED_FAULTS = (
    "cut_off",
    "null_content",
    "content_filter",
    "tool_call",
    "no_usage",
    "negative_usage",
    "reasoning",
    "odd",
    "error_200",
    "504",
    "reset",
    "hang",
    "malformed",
)
"""Faults of replies that the provider bills all the same: it has done its work."""
FINAL_FAULTS = ("cut_off", "content_filter", "tool_call", "no_usage", "negative_usage", "reasoning")
"""Those of them that end a call: whoever has one in the books should not buy it again."""
TICK_S = 0.02
_COMMAND = re.compile(r"\[\[mock (\{.*?\})\]\]", re.DOTALL)
_WORDS = ("the", "answer", "weighs", "each", "point", "with", "care", "and", "says", "what", "follows", "from", "it")
_MALFORMED = ('{"choices": [{"message": {"content": "cut o', "<html>gateway</html>", "", '{"choices": []}', "[1]")


@dataclass
class Settings:
    rpm: float | None = None
    tpm: float | None = None
    burst_s: float = 1.0
    """Seconds of either limit that may be used at once."""
    latency_s: tuple[float, float] = (0.0, 0.0)
    prompt_tokens: int | None = None
    """Of every prompt; default: its characters / 4."""
    completion_tokens: tuple[int, int] = (20, 60)
    faults: dict[str, float] = field(default_factory=dict)
    fault_retry_after_s: float = 0.05
    retry_after_s: float = 1.0
    key: str | None = None
    """Refuse any other with 401."""
    limit_headers: bool = False
    record: bool = False
    """Keep bodies and headers, for tests."""
    answer_chars: int | None = None
    latency_s_per_token: float = 0.0
    """Besides `latency_s`, for each token of the answer."""
    known: list[str] = field(default_factory=list)
    """Contents that must not be asked for again: counted as `asked_again`."""


ODD: tuple[Any, ...] = (7, {"a": 1}, [1, [2]], [{"type": "text"}, {"text": 5}], True, [{"text": "\ud800"}])
"""Contents of answers as no wire format promises them."""


class Bucket:
    def __init__(self, per_minute: float | None, burst_s: float) -> None:
        self.rate = math.inf if per_minute is None else per_minute / 60
        self.capacity = self.level = self.rate * burst_s
        self.at = time.monotonic()

    def has(self, amount: float) -> bool:
        if self.rate == math.inf:
            return True
        self.fill(0.0)
        return self.level >= min(amount, self.capacity)

    def fill(self, slept_s: float) -> None:
        """Add what has grown. Beyond the burst only for time that this process slept through on a busy machine:
        it cannot know when what it finds on waking had come."""
        now = time.monotonic()
        most = max(self.level, self.capacity) + (slept_s * self.rate if slept_s else 0.0)
        self.level = min(most, self.level + (now - self.at) * self.rate)
        self.at = now

    def take(self, amount: float) -> None:
        if self.rate != math.inf:
            self.level -= amount


class Provider:
    def __init__(self, settings: Settings) -> None:
        self.begin(settings)

    def begin(self, settings: Settings) -> None:
        self.settings = settings
        self.requests = Bucket(settings.rpm, settings.burst_s)
        self.tokens = Bucket(settings.tpm, settings.burst_s)
        self.counts: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.billed: dict[str, list[int]] = {}
        self.billed_tokens = [0, 0]
        self.admitted: list[tuple[float, int]] = []
        self.recorded: list[dict[str, Any]] = []
        self.in_flight = self.peak_in_flight = 0
        self.known = set(settings.known)
        self.slept_s = 0.0

    async def watch_itself(self) -> None:
        parent = os.getppid()
        while os.getppid() == parent:  # nobody else would stop it
            before = time.monotonic()
            await asyncio.sleep(TICK_S)
            slept_s = time.monotonic() - before - TICK_S
            for bucket in (self.requests, self.tokens):
                bucket.fill(slept_s if slept_s > TICK_S else 0.0)
            self.slept_s += max(0.0, slept_s - TICK_S)

    async def control(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body.pop("keep_counts", False):
            for name, value in body.items():
                setattr(self.settings, name, value)
            self.known = set(self.settings.known)
        else:
            self.begin(Settings(**body))
        return web.json_response({"ok": True})

    async def stats(self, request: web.Request) -> web.Response:
        first = self.admitted[0][0] if self.admitted else 0.0
        return web.json_response(
            {
                "counts": dict(self.counts),
                "admitted": [[round(at - first, 4), tokens] for at, tokens in self.admitted],
                "contents": len(self.answered),
                "answered_twice": sum(count > 1 for count in self.answered.values()),
                "ended_twice": sum(count - 1 for count in self.ended.values()),
                "billed_input_tokens": self.billed_tokens[0],
                "billed_output_tokens": self.billed_tokens[1],
                "billed_replies": sum(replies for replies, *_ in self.billed.values()),
                "peak_in_flight": self.peak_in_flight,
                "slept_s": round(self.slept_s, 2),
            }
        )

    async def show_answered(self, request: web.Request) -> web.Response:
        return web.json_response(dict(self.answered))

    async def show_billed(self, request: web.Request) -> web.Response:
        return web.json_response(self.billed)

    async def show_recorded(self, request: web.Request) -> web.Response:
        return web.json_response(self.recorded)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.counts["requests"] += 1
        settings = self.settings
        raw = await request.read()
        if settings.record:
            self.recorded.append({"headers": dict(request.headers), "body": json.loads(raw), "path": request.path})
        try:
            body = json.loads(raw)
            text = body["messages"][-1]["content"]
        except (ValueError, KeyError, IndexError):
            return _error(400, "invalid_request_error", "The body is not a chat completion request.")
        if not isinstance(text, str):
            text = json.dumps(text)
        content = content_id(body)
        if content in self.known:
            self.counts["asked_again"] += 1
        if settings.key and request.headers.get("Authorization") != f"Bearer {settings.key}":
            self.counts["wrong_key"] += 1
            sent = request.headers.get("Authorization", "")
            return _error(401, "invalid_api_key", f"Incorrect API key provided: {sent}.")
        self.attempts[content] += 1
        chance = random.Random(f"{content} {self.attempts[content]}")
        command = _COMMAND.search(text)
        orders = json.loads(command[1]) if command else {}
        if self.attempts[content] > orders.get("times", math.inf):
            orders = {}

        same = random.Random(content)
        usage = orders.get("tokens") or (
            settings.prompt_tokens or sum(len(str(m.get("content"))) for m in body["messages"]) // 4 + 1,
            same.randint(*settings.completion_tokens),
        )
        most = body.get("max_completion_tokens") or body.get("max_tokens")
        if isinstance(most, int):
            usage = (usage[0], min(usage[1], most))
        limited = not (self.requests.has(1) and self.tokens.has(sum(usage)))
        if limited:
            self.counts["limited"] += 1
            return _error(
                429, "rate_limit_exceeded", "Rate limit reached.", {"retry-after": f"{settings.retry_after_s:g}"}
            )
        self.requests.take(1)
        self.tokens.take(sum(usage))
        self.counts["admitted"] += 1
        self.admitted.append((time.monotonic(), sum(usage)))

        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            latency_s = orders.get("latency_s", chance.uniform(*settings.latency_s))
            latency_s += usage[1] * settings.latency_s_per_token
            fault = orders.get("fault") or _draw(settings.faults, chance)
            if fault in BILLED_FAULTS or (not fault and orders.get("status", 200) == 200):
                # From the moment it begins to work: whoever hangs up meanwhile pays all the same.
                self._bill(content, usage)
            if latency_s:
                await asyncio.sleep(latency_s)
            if fault:
                self.counts[f"fault_{fault}"] += 1
                if fault in FINAL_FAULTS:
                    self.ended[content] += 1
                return await self._fail(request, fault, chance, body, usage, same, content)
            if "status" in orders:
                return _error(
                    orders["status"], orders.get("code"), orders.get("message", "as ordered"), orders.get("headers")
                )
            if "body" in orders:
                kind = orders.get("content_type", "application/json")
                return web.Response(text=orders["body"], content_type=kind)
            response = web.json_response(
                self._answer(body, orders, usage, same, content), headers=self._limit_headers()
            )
            await response.prepare(request)
            await response.write_eof()
            self.counts["answered"] += 1
            self.answered[content] += 1
            self.ended[content] += 1
            return response
        finally:
            self.in_flight -= 1

    def _bill(self, content: str, usage: Any) -> None:
        entry = self.billed.setdefault(content, [0, 0, 0])
        for place, amount in enumerate((1, *usage)):
            entry[place] += amount
        for place in (0, 1):
            self.billed_tokens[place] += usage[place]

    def _answer(
        self, body: dict[str, Any], orders: dict[str, Any], usage: Any, same: random.Random, content: str
    ) -> dict[str, Any]:
        words = orders.get("answer")
        if words is None:
            words = f"Answer {content}: " + " ".join(same.choices(_WORDS, k=max(1, min(usage[1], 60) - 2)))
            if self.settings.answer_chars:
                words = (words * (1 + self.settings.answer_chars // len(words)))[: self.settings.answer_chars]
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": words},
            "finish_reason": orders.get("finish_reason", "stop"),
        }
        if body.get("logprobs"):
            alternative = {"token": "B", "logprob": -1.6, "bytes": [66]}
            first = {"token": "A", "logprob": -0.2, "bytes": [65], "top_logprobs": [alternative]}
            choice["logprobs"] = {"content": [first]}
        answer: dict[str, Any] = {
            "id": f"chatcmpl-{content}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body.get("model"),
            "choices": [] if orders.get("no_choices") else [choice],
        }
        if orders.get("usage", True):
            answer["usage"] = {
                "prompt_tokens": usage[0],
                "completion_tokens": usage[1],
                "total_tokens": sum(usage),
            }
        return answer

    async def _fail(
        self,
        request: web.Request,
        fault: str,
        chance: random.Random,
        body: dict[str, Any],
        usage: Any,
        same: random.Random,
        content: str,
    ) -> web.StreamResponse:
        whole = self._answer(body, {}, usage, same, content)
        choice, counted = whole["choices"][0], whole["usage"]
        if fault == "cut_off":
            choice["message"]["content"], choice["finish_reason"] = "", "length"
        elif fault == "null_content":
            choice["message"]["content"] = None
        elif fault == "content_filter":
            choice["message"]["content"], choice["finish_reason"] = None, "content_filter"
        elif fault == "tool_call":
            call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
            choice["message"] |= {"content": None, "tool_calls": [call]}
            choice["finish_reason"] = "tool_calls"
        elif fault == "no_usage":
            del whole["usage"]
        elif fault == "negative_usage":
            whole["usage"] = {name: -count for name, count in counted.items()}
        elif fault == "reasoning":
            counted["completion_tokens"] = 1  # the total alone tells of the reasoning
        elif fault == "odd":
            choice["message"]["content"] = chance.choice(ODD)
        elif fault == "error_200":
            return web.json_response({"error": {"message": "upstream failed", "code": 502}})
        if fault in BILLED_FAULTS and fault not in ("504", "reset", "hang", "malformed"):
            return web.json_response(whole)
        if fault == "429":
            return _limited(self.settings.fault_retry_after_s)
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "reset":
            assert request.transport is not None
            request.transport.abort()
            raise asyncio.CancelledError
        if fault == "malformed":
            bodies = (
                '{"choices": [{"message": {"content": "cut o',
                "<html>gateway</html>",
                "",
                '{"choices": []}',
                "[1]",
            )
            return web.Response(text=chance.choice(bodies), content_type="application/json")
        return _error(int(fault), "server_error", "The server had an error.")

    def _limit_headers(self) -> dict[str, str]:
        if not self.settings.limit_headers:
            return {}
        named = {"requests": self.settings.rpm, "tokens": self.settings.tpm}
        return {f"x-ratelimit-limit-{name}": f"{value:g}" for name, value in named.items() if value}


def content_id(body: dict[str, Any]) -> str:
    """By what the provider counts: a hash of the request's body."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def _draw(faults: dict[str, float], chance: random.Random) -> str | None:
    point = chance.random()
    for name, share in faults.items():
        point -= share
        if point < 0:
            return name
    return None


def _limited(retry_after_s: float) -> web.Response:
    return _error(429, "rate_limit_exceeded", "Rate limit reached.", {"retry-after": f"{retry_after_s:g}"})


def _error(status: int, code: str | None, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"error": {"message": message, "type": code, "param": None, "code": code}}
    return web.json_response(body, status=status, headers=headers)


class MockProvider:
    """A running provider, seen from the benchmark or test that started it."""

    def __init__(self, root: str) -> None:
        """`root` is its address, such as http://127.0.0.1:8000."""
        self.base_url = f"{root}/v1"
        self._root = root

    def control(self, **settings: Any) -> None:
        """Begin anew with these settings; with `keep_counts=True` only change them."""
        self._ask("/control", settings)

    def stats(self) -> dict[str, Any]:
        return self._ask("/stats")

    def answered(self) -> dict[str, int]:
        return self._ask("/answered")

    def billed(self) -> dict[str, list[int]]:
        """By content: replies that were billed, their input and output tokens."""
        return self._ask("/billed")

    def recorded(self) -> list[dict[str, Any]]:
        return self._ask("/recorded")

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._root + path, data, {"Content-Type": "application/json"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as response:
            return json.load(response)


@contextlib.contextmanager
def running(**settings: Any) -> Iterator[MockProvider]:
    """A provider in a process of its own, stopped at the end."""
    process = subprocess.Popen([sys.executable, str(Path(__file__).resolve())], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"The mock provider did not start (exit code {process.wait()}).")
        provider = MockProvider(f"http://127.0.0.1:{json.loads(line)['port']}")
        if settings:
            provider.control(**settings)
        yield provider
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def serve(port: int) -> None:
    provider = Provider(Settings())
    app = web.Application(client_max_size=64 << 20)
    app.add_routes(
        [
            web.post("/v1/chat/completions", provider.complete),
            web.post("/control", provider.control),
            web.get("/stats", provider.stats),
            web.get("/answered", provider.show_answered),
            web.get("/billed", provider.show_billed),
            web.get("/recorded", provider.show_recorded),
        ]
    )
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=8192)
    await site.start()
    assert runner.addresses
    watching = asyncio.create_task(provider.watch_itself())
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await watching


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args().port))
