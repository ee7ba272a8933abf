"""How far countable work has come: for the parts of a run in which no model is asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from qbawa.text import duration

FIRST_S, EVERY_S = 1.0, 5.0


class Counted:
    """Says how far the work is once it has lasted a second, then every five: `drawing 20/100 brackets · 5/s · 16 s left`.

    Work that is quick says nothing. What was said once is also said to be done.
    """

    def __init__(
        self,
        log: Callable[[str], Any],
        doing: str,
        total: int,
        of: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log, self._doing, self.total, self._of = log, doing, total, of
        self._clock, self.done = clock, 0
        self._began = clock()
        self._next = self._began + FIRST_S

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count
        now = self._clock()
        said = self._next > self._began + FIRST_S
        if now >= self._next or (said and self.done == self.total):
            self._next = now + EVERY_S
            self._log(self._line(now - self._began))

    def _line(self, seconds: float) -> str:
        counted = f"{self._doing} {self.done:,}/{self.total:,} {self._of}"
        if self.done == self.total:
            return f"{counted} in {duration(seconds)}"
        rate = self.done / seconds
        left = f" · {duration((self.total - self.done) / rate)} left" if rate else ""
        return f"{counted} · {rate:,.0f}/s{left}"
