"""When a call is tried again, and after how long."""

from __future__ import annotations

import random
from dataclasses import dataclass

from qbawa.errors import FinalError, ModelStoppedError, QbawaError, TransientError

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
LONGEST_HOLD_S = 300.0
"""A provider that asks us to wait longer has stopped serving this model for the run's purposes."""
_LIMITED_FACTOR = 5
"""A 429 says nothing against the call itself, so it may recur this many times as often as other errors."""


@dataclass(slots=True)
class RetryState:
    """What one call has left of its retries. Attempts end with its answer, a final error, or the end of retries."""

    max_attempts: int
    failures: int = 0
    limited: int = 0

    def pause_s(self, error: TransientError) -> float:
        """Seconds to wait before the next attempt. Raises FinalError, with the last reason, where there is none."""
        if error.reason == "rate_limited":
            seconds = self.backoff_s(error)
            self.limited += 1
            if self.limited > self.max_attempts * _LIMITED_FACTOR:
                raise FinalError(error.reason, f"still rate limited after {self.limited} attempts: {error}")
            return seconds
        self.failures += 1
        if self.failures >= self.max_attempts:
            raise FinalError(error.reason, f"gave up after {self.failures} attempts: {error}")
        if error.retry_after_s is not None and error.retry_after_s <= LONGEST_HOLD_S:
            return error.retry_after_s
        # Full jitter spreads the calls that one outage failed together (AWS Architecture Blog, 2015).
        return random.uniform(0.1, 1.0) * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (self.failures - 1))

    def backoff_s(self, error: TransientError) -> float:
        """Seconds that a call should wait after a 429, as asked for or growing. Call before `pause_s`."""
        if error.retry_after_s is None:
            return random.uniform(0.5, 1.0) * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self.limited, 10))
        if error.retry_after_s > LONGEST_HOLD_S:
            raise ModelStoppedError(
                "rate_limited", f"The provider asks to wait {error.retry_after_s:.0f} s, longer than a run can: {error}"
            )
        return error.retry_after_s


def copy_exception(error: QbawaError) -> QbawaError:
    """A copy to raise once more. An error raised for thousands of calls would gather the tracebacks of them all."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    return copy
