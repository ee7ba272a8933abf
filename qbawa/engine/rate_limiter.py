"""One rate limiter per (provider, key, model): requests and tokens leave together, evenly, in order.

Why so: measured against a server that enforces its limit, one FIFO limiter at 0.995 of the rate with bursts of at most
0.3 s uses 100 % of the limit without a single 429; limiters that count whole seconds or minutes, or that only back
off, get hundreds to thousands (docs/engine.md). What a call will use is unknown beforehand: reserving the running mean
and correcting afterwards uses 99.5 % of a token limit, reserving `max_tokens` 66 %.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Protocol

from qbawa.engine.learned_pace import LearnedPace
from qbawa.engine.retry import copy_exception
from qbawa.errors import QbawaError

PACE = 0.995
BURST_S = 0.3
_TICK_S = 0.02  # calls that are due this close to each other leave together: waking up costs more than sending


class Load(Protocol):
    """What one request asks of a token limit."""

    @property
    def tokens(self) -> float:
        """That it will probably use, as known now."""

    def start(self) -> None:
        """It is sent."""

    def finish(self, used: tuple[float, float] | None) -> float:
        """It has ended, having used so many input and output tokens; None where it failed. What to take in addition."""


class RateLimiter:
    """Lets calls through at the pace that a provider sells, and learns where it grants less (`learned_pace`).

    `requests_per_minute` and `tokens_per_minute` are the configured limits, None for none.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_in_flight: int = 2000,
    ) -> None:
        self.max_in_flight = max_in_flight
        self.in_flight = 0
        self.limited = 0
        """How many 429s the provider has answered with."""
        self.sent = 0
        """Requests that have left."""
        self.used_tokens = 0.0
        """Of requests that were answered."""
        self._sold = _per_second(requests_per_minute)
        self._learned = LearnedPace()
        self._requests = Bucket(self._sold)
        self._tokens = Bucket(_per_second(tokens_per_minute))
        self._pausing: set[asyncio.Future[None]] = set()
        self._queue: deque[tuple[asyncio.Future[int], Load]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._closed: QbawaError | None = None

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def requests_per_second(self) -> float:
        """The pace at present: as configured, or as learned where the provider grants less; infinite without limit."""
        return self._requests.rate

    @property
    def tokens_per_second(self) -> float:
        return self._tokens.rate

    @property
    def limits_per_second(self) -> tuple[float, float]:
        """Requests and tokens that are sold: as configured or as the provider's headers say; infinite without limit."""
        return self._sold, self._tokens.rate

    async def acquire(self, load: Load, *, front: bool = False) -> int:
        """Wait for leave to send a request; its number. `front`: before all who wait (retries).

        Every `acquire` that returned needs one `release`. Raises what `close` was given once the limiter is closed.
        """
        if self._closed:
            raise copy_exception(self._closed)
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        (self._queue.appendleft if front else self._queue.append)((waiter, load))
        self._dispatch()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and not waiter.exception():
                self.release(load, None)
            raise

    def release(self, load: Load, used: tuple[float, float] | None) -> None:
        """A request has ended and used so many input and output tokens; None where it failed."""
        self.in_flight -= 1
        if used is not None:
            self._learned.answered()
            self.used_tokens += sum(used)
        self._tokens.take(load.finish(used))
        self._dispatch()

    def cancel(self, load: Load) -> None:
        """Give a permit back unused: nothing was sent."""
        self.sent -= 1
        self._requests.take(-1)
        self.release(load, None)

    def refused(self, number: int, seconds: float) -> None:
        """The request of this number was answered 429, to come again in `seconds`.

        Only its own call waits, which is for the caller to see to. Where 429s are many everybody is held, and the pace
        yields. Call before `release`.
        """
        self.limited += 1
        self._learned.refused(number, self._now(), seconds, self._sold)
        self._dispatch()

    async def pause(self, seconds: float) -> None:
        """Let one call wait before it comes again. Raises what `close` was given once the limiter is closed."""
        if self._closed:
            raise copy_exception(self._closed)
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pausing.add(over)
        timer = asyncio.get_running_loop().call_later(seconds, _end, over)
        try:
            await over
        finally:
            timer.cancel()
            self._pausing.discard(over)

    def apply_limits(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        """The provider's headers name its limits: where they are lower than configured, they count."""
        if requests_per_minute and requests_per_minute > 0:
            self._sold = min(self._sold, _per_second(requests_per_minute))
        if tokens_per_minute and tokens_per_minute > 0:
            self._tokens.rate = min(self._tokens.rate, _per_second(tokens_per_minute))

    def close(self, error: QbawaError) -> None:
        """Turn away all who wait or pause, and all who come later, with `error`. Requests under way are not touched."""
        self._closed = error
        for over in self._pausing:
            if not over.done():
                over.set_exception(copy_exception(error))
        while self._queue:
            waiter, _ = self._queue.popleft()
            if not waiter.done():
                waiter.set_exception(copy_exception(error))

    def _dispatch(self) -> None:
        """Let go as many of those who wait as may go now; set a timer for the next."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if not self._queue:
            return
        now = self._now()
        self._requests.rate = self._learned.recover(now, self._sold)
        self._requests.fill(now)
        self._tokens.fill(now)
        while self._queue:
            waiter, load = self._queue[0]
            if waiter.done():  # its caller gave up
                self._queue.popleft()
                continue
            if self.in_flight >= self.max_in_flight:
                return  # `release` dispatches again
            tokens = load.tokens
            wait_s = max(self._learned.held_until - now, self._requests.wait_s(1), self._tokens.wait_s(tokens))
            if wait_s > 0:
                self._timer = asyncio.get_running_loop().call_later(max(wait_s, _TICK_S), self._dispatch)
                return
            self._queue.popleft()
            self._requests.take(1)
            self._tokens.take(tokens)
            load.start()
            self.in_flight += 1
            self.sent += 1
            waiter.set_result(self._learned.sent(now))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


class Bucket:
    """Permits that grow with time, up to a short burst. Goes into debt where a call used more than it reserved."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        """Permits per second; infinite means no limit."""
        self.level = self.capacity if rate != math.inf else 0.0
        self._at = math.inf

    @property
    def capacity(self) -> float:
        return max(1.0, self.rate * BURST_S)

    def fill(self, now: float) -> None:
        """Add what has grown since the last call."""
        if self.rate != math.inf:
            self.level = min(self.capacity, self.level + max(0.0, now - self._at) * self.rate)
        self._at = now

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` may be taken; 0 where it may now."""
        if self.rate == math.inf:
            return 0.0
        # A call larger than a burst waits until the bucket is full, and leaves a debt.
        missing = min(amount, self.capacity) - self.level
        return missing / self.rate if missing > 1e-9 else 0.0

    def take(self, amount: float) -> None:
        if self.rate != math.inf:
            self.level -= amount


def _end(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


def _per_second(per_minute: float | None) -> float:
    return math.inf if per_minute is None else per_minute / 60 * PACE
