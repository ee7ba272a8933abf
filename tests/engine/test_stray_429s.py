"""429s from a real server on loopback: what a sweep takes, and what the progress line says meanwhile."""

import asyncio
import re
import time
from pathlib import Path

import pytest
from _mock_provider import MockProvider
from simulated_provider import FixedLoad, simulate

from qbawa.config import ModelConfig
from qbawa.engine.calls import ModelCall
from qbawa.engine.engine import Engine
from qbawa.engine.ledger.ledger import Ledger
from qbawa.engine.progress import Progress, share_of_limit
from qbawa.engine.rate_limiter import RateLimiter


def model(provider: MockProvider, requests_per_minute: int) -> ModelConfig:
    settings = {"base_url": provider.base_url, "free": True, "requests_per_minute": requests_per_minute}
    return ModelConfig.model_validate(settings)


async def sweep(engine: Engine, calls: int) -> float:
    began = time.monotonic()
    asked = (ModelCall("m", ({"role": "user", "content": f"Question {n}"},)) for n in range(calls))
    await asyncio.gather(*(engine.call(call) for call in asked))
    return time.monotonic() - began


@pytest.mark.slow
async def test_a_sweep_with_stray_429s_takes_as_long_as_the_limit_alone_lets_it(
    provider: MockProvider, tmp_path: Path
) -> None:
    provider.control(latency_s=[0.05, 0.2], faults={"429": 0.02, "500": 0.01}, fault_retry_after_s=0.5)
    async with Engine({"m": model(provider, 12_000)}, Ledger(tmp_path)) as engine:
        seconds = await sweep(engine, 700)
        assert engine.stats.limited >= 5
        assert engine.stats.answered == 700
    assert seconds < 6.0  # 3.5 s at the limit, then the last call's pauses


@pytest.mark.slow
async def test_the_progress_line_never_says_more_than_all_of_the_limit(provider: MockProvider, tmp_path: Path) -> None:
    lines: list[str] = []
    provider.control(rpm=3_000, latency_s=[0.05, 0.1])
    progress = Progress(0, lines.append, every_s=0.05)
    async with Engine({"m": model(provider, 12_000)}, Ledger(tmp_path), progress=progress) as engine:
        await sweep(engine, 200)
        assert engine.stats.limited
    shares = [int(found) for line in lines for found in re.findall(r"(\d+)% of limit", line)]
    assert len(shares) > 20
    assert max(shares) <= 100
    assert shares[-1] < 60, "of what is configured, not of what the pace happens to be"


def test_the_share_is_that_of_the_limit_used_most_and_unlimited_models_count_for_none() -> None:
    async def run() -> None:
        limited, idle, unlimited = RateLimiter(600, 60_000), RateLimiter(600), RateLimiter()
        limiters = (limited, idle, unlimited)
        before = {limiter: (limiter.sent, limiter.used_tokens) for limiter in limiters}
        for limiter, calls, tokens in ((limited, 3, 100), (unlimited, 1_000, 1)):
            for _ in range(calls):
                load = FixedLoad(tokens)
                await limiter.acquire(load)
                limiter.release(load, (tokens, 0))
        given_back = FixedLoad(1)
        await idle.acquire(given_back)
        idle.cancel(given_back)
        after = {limiter: (limiter.sent, limiter.used_tokens) for limiter in limiters}
        assert after[idle] == (0, 0)
        assert share_of_limit(before, after, 1.0) == pytest.approx(
            0.3, rel=0.01
        )  # 3 of 10 requests, 300 of 1,000 tokens
        assert share_of_limit({}, after, 0.01) == 1.0
        assert share_of_limit(before, {unlimited: after[unlimited]}, 1.0) is None

    simulate(run)
