"""Dollar caps. A call's probable cost is set aside before it is sent, so that calls under way cannot overspend."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from qbawa.engine.retry import copy_exception
from qbawa.errors import BudgetError, QbawaError


@dataclass(frozen=True, slots=True)
class Reservation:
    step: str | None
    cost_usd: float


class Budget:
    """Caps in USD for a run, a day (UTC) and each step; None is no cap.

    A call that no longer fits waits while others are under way, since they may turn out cheaper than feared; where
    none is, BudgetError says which cap it was. `spent_today_usd` and `spent_by_step_usd` count what was paid before, by
    other runs too; `spent_by_run_usd` what this run paid in an earlier stage.
    """

    def __init__(
        self,
        usd_per_run: float | None = None,
        usd_per_day: float | None = None,
        usd_per_step: float | None = None,
        *,
        spent_by_run_usd: float = 0.0,
        spent_today_usd: float = 0.0,
        spent_by_step_usd: Mapping[str, float] | None = None,
    ) -> None:
        self.usd_per_run = usd_per_run
        self.usd_per_day = usd_per_day
        self.usd_per_step = usd_per_step
        self.spent_usd = 0.0
        """Through this object."""
        self.refused = 0
        """Calls that were not made because of a cap."""
        self._today = _Account(spent_usd=spent_today_usd)
        self._run = _Account(spent_usd=spent_by_run_usd)
        self._steps: defaultdict[str | None, _Account] = defaultdict(_Account)
        for step, spent_usd in (spent_by_step_usd or {}).items():
            self._steps[step].spent_usd = spent_usd
        self._closed: QbawaError | None = None

    @property
    def left_usd(self) -> float | None:
        """What the run may still spend under the caps of run and day; None without either."""
        caps = ((self.usd_per_run, self._run), (self.usd_per_day, self._today))
        left = [cap - account.spent_usd for cap, account in caps if cap is not None]
        return max(0.0, min(left)) if left else None

    async def reserve(self, step: str | None, estimate: Callable[[], float]) -> Reservation:
        """Set aside the probable cost of a call, in USD; asked anew after each wait.

        Raises BudgetError where a cap would be exceeded.
        """
        waited = False
        while True:
            if self._closed is not None:
                raise copy_exception(self._closed)
            cost_usd = estimate()
            full = self._full(step, cost_usd)
            if full is None:
                break
            message, account = full
            if account.under_way == 0:
                self.refused += 1
                self._wake(step)  # the next in line may be cheaper, and must not wait for ever
                raise BudgetError(f"{message} It was not made: raise the cap, run again.")
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            queue = self._steps[step].waiting
            (queue.appendleft if waited else queue.append)(waiter)
            waited = True
            await waiter
        if cost_usd > 0:
            for account in self._accounts(step):
                account.reserved_usd += cost_usd
                account.under_way += 1
        if waited:
            self._wake(step)
        return Reservation(step, cost_usd)

    def settle(self, reservation: Reservation, cost_usd: float) -> None:
        """The call has ended and cost so much, 0 where it failed."""
        for account in self._accounts(reservation.step):
            if reservation.cost_usd > 0:
                account.reserved_usd = max(0.0, account.reserved_usd - reservation.cost_usd)
                account.under_way -= 1
            account.spent_usd += cost_usd
        self.spent_usd += cost_usd
        for step in self._steps:
            self._wake(step)

    def note_elsewhere(self, step: str | None, cost_usd: float) -> None:
        """Another process has paid today: that counts under the caps of day and step."""
        self._today.spent_usd += cost_usd
        self._steps[step].spent_usd += cost_usd

    def close(self, error: QbawaError) -> None:
        """Turn away all who wait, and all who come later, with `error`."""
        self._closed = error
        for account in self._steps.values():
            while account.waiting:
                _set(account.waiting.popleft())

    def _accounts(self, step: str | None) -> tuple[_Account, _Account, _Account]:
        return self._run, self._today, self._steps[step]

    def _full(self, step: str | None, cost_usd: float) -> tuple[str, _Account] | None:
        """What to say, and whose account, where a cap has no room for the call; None where all have."""
        if cost_usd <= 0:
            return None
        caps = (self.usd_per_run, self.usd_per_day, None if step is None else self.usd_per_step)
        names = ("a run", "a day", f"a step (here '{step}')")
        for cap, name, account in zip(caps, names, self._accounts(step), strict=True):
            if cap is not None and account.spent_usd + account.reserved_usd + cost_usd > cap:
                spent = f"${account.spent_usd:.4f} are spent, the next call costs about ${cost_usd:.6f}."
                return f"The cap of ${cap:g} {name} is reached: {spent}", account
        return None

    def _wake(self, step: str | None) -> None:
        """Let the first in a step's line look again; it wakes the next if it got through."""
        queue = self._steps[step].waiting
        while queue:
            waiter = queue.popleft()
            if not waiter.done():
                _set(waiter)
                return


@dataclass(slots=True)
class _Account:
    spent_usd: float = 0.0
    reserved_usd: float = 0.0
    under_way: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


def _set(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
