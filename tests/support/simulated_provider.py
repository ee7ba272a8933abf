"""A provider in simulated time: calls go through a real rate limiter on a real event loop whose clock jumps."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from qbawa.engine.rate_limiter import RateLimiter


class FastLoop(asyncio.SelectorEventLoop):
    """An event loop that does not wait: where it would sleep, its clock jumps."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None = None) -> Any:
            events = select(0)
            if not events and timeout:
                self._now += timeout
            return events

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._now


def simulate(work: Callable[[], Awaitable[Any]]) -> Any:
    with asyncio.Runner(loop_factory=FastLoop) as runner:
        return runner.run(work())  # type: ignore[arg-type]


class FixedLoad:
    """A call that uses as many tokens as was thought."""

    def __init__(self, tokens: float) -> None:
        self.tokens = tokens

    def start(self) -> None: ...

    def finish(self, used: tuple[float, float] | None) -> float:
        return (sum(used) if used is not None else 0.0) - self.tokens


@dataclass
class SimulatedProvider:
    """Grants `per_second` calls, at most those of `burst_s` at once, and answers some of the others 429 by chance."""

    per_second: Callable[[float], float] = lambda now: math.inf
    """By the time; infinite for no limit."""
    burst_s: float = 1.0
    stray: float = 0.0
    """Share of calls that are answered 429 whatever the pace."""
    retry_after_s: float = 1.0
    stray_retry_after_s: float = 0.5
    latency_s: tuple[float, float] = (0.2, 1.0)
    refusal_s: float = 0.05
    """How long a 429 takes."""
    seed: int = 0
    granted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    strays: int = 0

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._level: float | None = None
        self._at = 0.0

    async def send(self) -> float | None:
        """None where the call was answered, else the seconds that its 429 asks to wait."""
        now = asyncio.get_running_loop().time()
        rate = self.per_second(now)
        if rate != math.inf:
            level = rate * self.burst_s if self._level is None else self._level + (now - self._at) * rate
            self._level, self._at = min(level, max(1.0, rate * self.burst_s)), now
            if self._level < 1:
                self.refused.append(now)
                await asyncio.sleep(self.refusal_s)
                return self.retry_after_s
        if self._chance.random() < self.stray:
            self.strays += 1
            await asyncio.sleep(self.refusal_s)
            return self.stray_retry_after_s
        if self._level is not None:
            self._level -= 1
        self.granted.append(now)
        await asyncio.sleep(self._chance.uniform(*self.latency_s))
        return None

    def share_granted(self, since: float, until: float) -> float:
        """Of what the provider would grant in that time, the share that was."""
        sold = sum(self.per_second(since + (until - since) * (n + 0.5) / 1000) for n in range(1000)) / 1000
        return sum(since <= at < until for at in self.granted) / sold / (until - since)


async def call(limiter: RateLimiter, provider: SimulatedProvider) -> None:
    """One call as the engine makes it: sent again after its own pause until it is answered."""
    again = False
    while True:
        load = FixedLoad(1)
        number = await limiter.acquire(load, front=again)
        seconds = await provider.send()
        if seconds is not None:
            limiter.refused(number, seconds)
        limiter.release(load, None if seconds is not None else (1, 0))
        if seconds is None:
            return
        again = True
        await asyncio.sleep(seconds)


def sweep(provider: SimulatedProvider, calls: int, *limiters: RateLimiter, until: float = 600.0) -> float:
    """Make so many calls through each limiter, all waiting from the start; the seconds that took, at most `until`."""

    async def run() -> float:
        every = [call(limiter, provider) for limiter in limiters for _ in range(calls)]
        tasks = [asyncio.create_task(each) for each in every]
        await asyncio.wait(tasks, timeout=until)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return asyncio.get_running_loop().time()

    return simulate(run)
