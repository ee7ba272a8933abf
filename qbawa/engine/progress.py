"""How a run is doing, while it runs: one live line in a terminal, a line now and then in a log."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any, Literal, Protocol

from qbawa.engine.rate_limiter import RateLimiter
from qbawa.text import duration

TERMINAL_EVERY_S = 0.5
LOG_EVERY_S = 15.0
LOG_FIRST_S = (1.0, 4.0, 10.0)
"""Until the first lines of a log: whoever has started a run sees at once that it goes on."""
_WINDOW_S = 60.0
"""Rates look back on this long."""


@dataclass(slots=True)
class Stats:
    """Counts since the engine was made."""

    asked: int = 0
    cached: int = 0
    """Answered by the ledger, or by a call that was under way for someone else."""
    answered: int = 0
    """Paid and journalled."""
    attempts: int = 0
    limited: int = 0
    """429s."""
    retries: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    """Final failures by reason."""
    cost_usd: float = 0.0
    """Of what was counted, failures included."""
    unknown_usd: float = 0.0
    """What may have been billed besides and nobody counted, at the most it can have been; it counts under the caps."""
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An engine at one moment."""

    stats: Stats
    limiters: Collection[RateLimiter]
    left_usd: float | None
    """Until the tightest dollar cap; None without one."""


Use = Mapping[RateLimiter, tuple[int, float]]
"""Requests that have left and tokens that were used, by limiter."""
Look = Callable[[], Snapshot]
Outcome = Literal["ok", "failed", "missing"]


class Watcher(Protocol):
    """Shows progress while an engine runs."""

    async def watch(self, look: Look) -> None:
        """Show progress until cancelled."""

    def cell(self, outcome: Outcome) -> None:
        """Whoever answers cells says so here."""


class Silent:
    """Shows nothing."""

    async def watch(self, look: Look) -> None: ...

    def cell(self, outcome: Outcome) -> None: ...


class Progress:
    """Shows cells, rate, share of limit, dollars and time left of the engine that it is given to.

    Whoever answers cells tells `cell`. `log` gets a line every `every_s`; with none the live line goes to the terminal,
    if standard error is one.
    """

    def __init__(self, cells: int, log: Callable[[str], Any] | None = None, *, every_s: float | None = None) -> None:
        self.cells = cells
        self.ok = 0
        self.failed = 0
        self.missing = 0
        self.doing = ""
        """What goes on beside the calls, such as the writing of the last answers."""
        self._log = log
        self._waits_s = chain(LOG_FIRST_S if log and every_s is None else (), repeat(every_s or _every(log)))
        self._began = time.monotonic()
        self._past: deque[tuple[float, int, int, Use]] = deque([(self._began, 0, 0, {})])

    def cell(self, outcome: Outcome) -> None:
        """A cell has ended: `ok`, `failed`, or `missing` where a budget or Ctrl-C kept it from being answered."""
        if outcome == "ok":
            self.ok += 1
        elif outcome == "failed":
            self.failed += 1
        else:
            self.missing += 1

    @property
    def done(self) -> int:
        return self.ok + self.failed + self.missing

    def line(self, engine: Snapshot) -> str:
        """The state of the run in one line."""
        now = time.monotonic()
        stats = engine.stats
        use: Use = {limiter: (limiter.sent, limiter.used_tokens) for limiter in engine.limiters}
        self._past.append((now, self.done, stats.attempts, use))
        while len(self._past) > 2 and now - self._past[0][0] > _WINDOW_S:
            self._past.popleft()
        began, cells, attempts, used = self._past[0]
        span = max(now - began, 1e-3)
        cell_rate = (self.done - cells) / span
        # A tournament has calls and no cells.
        parts = [f"{self.done:,}/{self.cells:,} cells" if self.cells else f"{stats.asked:,} calls"]
        if self.failed:
            reasons = ", ".join(f"{reason} {count}" for reason, count in stats.failures.most_common(3))
            parts.append(f"{self.failed:,} failed ({reasons})" if reasons else f"{self.failed:,} failed")
        if self.missing:
            parts.append(f"{self.missing:,} not made")
        if cell_rate > 0:
            parts.append(f"{cell_rate * 60:,.0f} cells/min")
        calls = (stats.attempts - attempts) / span * 60
        parts.append(f"{calls:,.0f} calls/min")
        share = share_of_limit(used, use, span)
        if share is not None:
            parts.append(f"{share:.0%} of limit")
        parts.append(f"{sum(limiter.in_flight for limiter in engine.limiters)} in flight")
        if stats.cached:
            parts.append(f"{stats.cached / max(1, stats.asked):.0%} from the ledger")
        if stats.limited:
            parts.append(f"{stats.limited} × 429")
        left = engine.left_usd
        parts.append(f"${stats.cost_usd:.4f}" + (f" of ${stats.cost_usd + left:.2f}" if left is not None else ""))
        if cell_rate > 0 and self.done < self.cells:
            parts.append(f"{duration((self.cells - self.done) / cell_rate)} left")
        if self.doing:
            parts.append(self.doing)
        return " · ".join(parts)

    async def watch(self, look: Look) -> None:
        """Show the run until cancelled; then show its end."""
        show, close = self._screen()
        try:
            while True:
                await asyncio.sleep(next(self._waits_s))
                show(self.line(look()))
        finally:
            if self.cells or look().stats.asked:
                show(self.line(look()))
            close()

    def _screen(self) -> tuple[Callable[[str], Any], Callable[[], Any]]:
        if self._log is not None:
            return self._log, lambda: None
        if not sys.stderr.isatty():
            return lambda line: None, lambda: None
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        # Text, not markup: model names and reasons are not ours.
        live = Live(Text(""), console=Console(stderr=True), refresh_per_second=4, transient=False)
        live.start()
        return lambda line: live.update(Text(line)), live.stop


def _every(log: object) -> float:
    return LOG_EVERY_S if log else TERMINAL_EVERY_S


def share_of_limit(before: Use, after: Use, span_s: float) -> float | None:
    """Share of what is sold that was used in `span_s`, of the limit that was used most; None where nothing is limited.

    A limit is what was configured, or what the provider's headers name, not what the pace happens to be after 429s. At
    most 1: a burst may exceed the limit for a moment.
    """
    shares = [
        min(1.0, (now - then) / span_s / limit)
        for limiter, used in after.items()
        for now, then, limit in zip(used, before.get(limiter, (0, 0.0)), limiter.limits_per_second, strict=True)
        if 0 < limit < math.inf
    ]
    return max(shares) if shares else None
