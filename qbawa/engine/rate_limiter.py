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

from qbawa.engine.retry import copy_exception
from qbawa.errors import QbawaError

PACE = 0.995
BURST_S = 0.3
CUT_EVERY_S = 5.0
"""The pace is lowered at most this often, and grows back only after as long without a 429."""
RECOVERY_PER_S = (0.05, 0.002)
"""How fast the pace grows back, as a share: at first fast, and half as fast after each cut that soon followed."""
REMEMBER_S = 120.0
LEAST_SHARE = 0.05
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
    """Lets calls through at the pace that a provider sells, and learns where it grants less.

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
        self._sold = _per_second(requests_per_minute)
        self._learned = math.inf
        self._requests = Bucket(self._sold)
        self._tokens = Bucket(_per_second(tokens_per_minute))
        self._held_until = -math.inf
        self._cut_at = -math.inf
        self._growing_from = math.inf
        self._growth = RECOVERY_PER_S[0]
        self._granted = 0  # since _granted_from, without those that were answered 429
        self._granted_from = math.inf
        self._queue: deque[tuple[asyncio.Future[None], Load]] = deque()
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

    async def acquire(self, load: Load, *, front: bool = False) -> None:
        """Wait for leave to send a request. `front`: before all who wait (retries).

        Every `acquire` that returned needs one `release`. Raises what `close` was given once the limiter is closed.
        """
        if self._closed:
            raise copy_exception(self._closed)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._queue.appendleft if front else self._queue.append)((waiter, load))
        self._dispatch()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and not waiter.exception():
                self.release(load, None)
            raise

    def release(self, load: Load, used: tuple[float, float] | None) -> None:
        """A request has ended and used so many input and output tokens; None where it failed."""
        self.in_flight -= 1
        self._tokens.take(load.finish(used))
        self._dispatch()

    def cancel(self, load: Load) -> None:
        """Give a permit back unused: nothing was sent."""
        self._requests.take(-1)
        self.release(load, None)

    def backoff(self, seconds: float) -> None:
        """The provider said 429: send nothing for `seconds`, and afterwards no faster than it has really granted."""
        now = self._now()
        self.limited += 1
        self._granted -= 1
        self._held_until = max(self._held_until, now + seconds)
        if now - self._cut_at >= CUT_EVERY_S and self._granted_from < now:
            pace = self._requests.rate
            granted = max(self._granted, 1) / (self._held_until - self._granted_from)
            self._learned = granted if pace == math.inf else min(pace * 0.98, max(granted, pace / 2, self._least))
            # A provider that says no again and again means it: then it is asked for more ever more slowly.
            soon = now - self._cut_at < REMEMBER_S
            self._growth = max(self._growth / 2, RECOVERY_PER_S[1]) if soon else RECOVERY_PER_S[0]
            self._cut_at = self._granted_from = now
            self._granted = 0
        self._growing_from = self._held_until + CUT_EVERY_S
        self._dispatch()

    def apply_limits(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        """The provider's headers name its limits: where they are lower than configured, they count."""
        if requests_per_minute and requests_per_minute > 0:
            self._sold = min(self._sold, _per_second(requests_per_minute))
        if tokens_per_minute and tokens_per_minute > 0:
            self._tokens.rate = min(self._tokens.rate, _per_second(tokens_per_minute))

    def close(self, error: QbawaError) -> None:
        """Turn away all who wait, and all who come later, with `error`. Requests under way are not touched."""
        self._closed = error
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
        self._recover(now)
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
            wait_s = max(self._held_until - now, self._requests.wait_s(1), self._tokens.wait_s(tokens))
            if wait_s > 0:
                self._timer = asyncio.get_running_loop().call_later(max(wait_s, _TICK_S), self._dispatch)
                return
            self._queue.popleft()
            self._requests.take(1)
            self._tokens.take(tokens)
            load.start()
            self.in_flight += 1
            self._granted += 1
            self._granted_from = min(self._granted_from, now)
            waiter.set_result(None)

    def _recover(self, now: float) -> None:
        """Set the pace; what was learned grows back slowly, so that a passing shortage is forgotten."""
        if now > self._growing_from:
            self._learned *= 1 + self._growth * (now - self._growing_from)
            self._growing_from = now
        if self._learned >= self._sold:
            self._learned = self._growing_from = math.inf
        self._requests.rate = min(self._sold, self._learned)

    @property
    def _least(self) -> float:
        return LEAST_SHARE * self._sold if self._sold != math.inf else 1 / 60

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


def _per_second(per_minute: float | None) -> float:
    return math.inf if per_minute is None else per_minute / 60 * PACE
