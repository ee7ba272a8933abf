"""Dollar caps. What a call will cost is set aside before it is sent, so that calls under way cannot overspend."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from qbawa.engine.reservations import LocalReservations, Lost, Reservations, Want
from qbawa.engine.retry import copy_exception
from qbawa.errors import BudgetError, LedgerError, QbawaError

LOOK_S = 0.25
"""How often a process looks whether others have given dollars back."""


@dataclass(frozen=True, slots=True)
class Reservation:
    accounts: tuple[_Account, ...]
    cost_usd: float


class Budget:
    """Caps in USD for a run, a day (UTC) and each step; None is no cap.

    A call that no longer fits waits while others are under way, in this process or another one, since they may turn
    out cheaper than what was set aside; where none is, BudgetError says which cap it was.

    `hard`: callers set the largest possible cost of a call aside, so that a cap bounds whatever the provider may bill.
    Otherwise they set the probable cost aside, and a cap may be passed by what calls in flight bring beyond that.

    `reservations` are shared with other processes. Without them this process is alone: `spent_today_usd` and
    `spent_by_step_usd` say what was paid before, by other runs too; `spent_by_run_usd` what this run paid earlier.
    """

    def __init__(
        self,
        usd_per_run: float | None = None,
        usd_per_day: float | None = None,
        usd_per_step: float | None = None,
        *,
        hard: bool = False,
        run_id: str = "",
        reservations: Reservations | None = None,
        spent_by_run_usd: float = 0.0,
        spent_today_usd: float = 0.0,
        spent_by_step_usd: Mapping[str, float] | None = None,
    ) -> None:
        self.usd_per_run = usd_per_run
        self.usd_per_day = usd_per_day
        self.usd_per_step = usd_per_step
        self.hard = hard
        self.spent_usd = 0.0
        """Through this object."""
        self.refused = 0
        """Calls that were not made because of a cap."""
        self._run_id = run_id
        self._day = -1
        self._accounts: dict[str, _Account] = {}
        self._of_step: dict[str | None, tuple[_Account, ...]] = {}
        self._waiting: defaultdict[str | None, deque[asyncio.Future[None]]] = defaultdict(deque)
        self._asking = asyncio.Lock()
        self._closed: QbawaError | None = None
        spent = {f"run:{run_id}": spent_by_run_usd, f"day:{_date(_today())}": spent_today_usd}
        spent |= {f"step:{step}": usd for step, usd in (spent_by_step_usd or {}).items()}
        self._reservations = reservations or LocalReservations(lambda account: spent.get(account, 0.0))
        self._take([Want(account.name, account.cap_usd) for account in self._paying(None)])

    @property
    def left_usd(self) -> float | None:
        """What the run may still spend under the caps of run and day; None without either."""
        left = [
            account.cap_usd - account.elsewhere_usd - account.used_usd
            for account in self._paying(None)
            if account.cap_usd is not None
        ]
        return max(0.0, min(left)) if left else None

    async def reserve(self, step: str | None, estimate: Callable[[], float]) -> Reservation:
        """Set aside what a call may cost, in USD; estimated once more after each wait.

        Raises BudgetError where a cap would be exceeded.
        """
        waited = False
        while True:
            if self._closed is not None:
                raise copy_exception(self._closed)
            cost_usd = estimate()
            accounts = self._paying(step) if cost_usd > 0 else ()
            if all(account.has(cost_usd) for account in accounts):
                break
            full = await self._ask(accounts, cost_usd)
            if full is None:
                continue
            if full.under_way:
                waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                queue = self._waiting[step]
                (queue.appendleft if waited else queue.append)(waiter)
                waited = True
                await waiter
            elif full.others_under_way:
                await asyncio.sleep(LOOK_S * random.uniform(0.5, 1.5))
            else:
                self.refused += 1
                self._wake(step)  # the next in line may be cheaper, and must not wait for ever
                raise BudgetError(full.refusal(cost_usd, self.hard))
        for account in accounts:
            account.reserved_usd += cost_usd
            account.under_way += 1
            self._reservations.note(account.name, account.committed_usd, account.reserved_usd)
        if waited:
            self._wake(step)
        return Reservation(accounts, cost_usd)

    def settle(self, reservation: Reservation, cost_usd: float) -> None:
        """What was set aside is no longer needed: so much was spent, 0 where nothing was billed."""
        for account in reservation.accounts:
            account.reserved_usd = max(0.0, account.reserved_usd - reservation.cost_usd)
            account.under_way -= 1
            if not account.under_way:
                account.reserved_usd = 0.0  # without the dust of sums and differences
            account.used_usd += cost_usd
            self._reservations.note(account.name, account.committed_usd, account.reserved_usd)
        self.spent_usd += cost_usd
        for step in self._waiting:
            self._wake(step)

    def note_elsewhere(self, step: str | None, cost_usd: float) -> None:
        """Another process has paid today. Shared reservations know that by themselves."""
        if not isinstance(self._reservations, LocalReservations):
            return
        for account in self._paying(step)[1:]:
            self._reservations.add(account.name, cost_usd)
            account.granted_usd -= cost_usd
            account.elsewhere_usd += cost_usd

    def lost(self) -> list[Lost]:
        """What processes that died had in flight, for the ledger to hold; it counts already. Say `noted` afterwards."""
        return self._reservations.lost()

    def noted(self) -> None:
        self._reservations.noted()

    def close(self, error: QbawaError) -> None:
        """Turn away all who wait, and all who come later, with `error`."""
        self._closed = error
        for queue in self._waiting.values():
            while queue:
                _set(queue.popleft())

    def give_back(self) -> None:
        """Settle with the other processes: what was spent is spent, what was only taken is theirs again."""
        self._reservations.close()

    def _paying(self, step: str | None) -> tuple[_Account, ...]:
        """The accounts that pay for a step's call: run, day, and the step's own."""
        today = _today()
        if today != self._day:
            self._day = today
            self._of_step.clear()
        found = self._of_step.get(step)
        if found is None:
            caps: list[tuple[str, float | None, str]] = [
                (f"run:{self._run_id}", self.usd_per_run, "a run"),
                (f"day:{_date(today)}", self.usd_per_day, "a day"),
            ]
            if step is not None:
                caps.append((f"step:{step}", self.usd_per_step, f"a step (here '{step}')"))
            found = tuple(self._accounts.setdefault(name, _Account(name, cap, of)) for name, cap, of in caps)
            self._of_step[step] = found
        return found

    async def _ask(self, accounts: Sequence[_Account], cost_usd: float) -> _Account | None:
        """Take more for a call, where there is more. The account that has no room for it, None where all seem to."""
        async with self._asking:
            lacking = [account for account in accounts if not account.has(cost_usd)]
            if not lacking:
                return None
            wants = [Want(account.name, account.cap_usd, cost_usd) for account in lacking]
            for account in lacking:
                account.granted_usd = float("-inf")  # nothing may be committed while others read what is
            if isinstance(self._reservations, LocalReservations):
                self._take(wants)
            else:
                await asyncio.shield(asyncio.to_thread(self._take, wants))
            return next((account for account in lacking if not account.has(cost_usd)), None)

    def _take(self, wants: Sequence[Want]) -> None:
        try:
            grants = self._reservations.take(wants)
        except (OSError, ValueError) as error:
            raise LedgerError(f"What may be spent cannot be noted, so nothing is: {error}.") from None
        for want, grant in zip(wants, grants, strict=True):
            account = self._accounts[want.account]
            account.elsewhere_usd = grant.elsewhere_usd
            account.others_under_way = grant.others_under_way
            account.granted_usd = grant.granted_usd

    def _wake(self, step: str | None) -> None:
        """Let the first in a step's line look again; it wakes the next if it got through."""
        queue = self._waiting[step]
        while queue:
            waiter = queue.popleft()
            if not waiter.done():
                _set(waiter)
                return


@dataclass(slots=True, eq=False)
class _Account:
    """A cap's account as this process sees it."""

    name: str
    cap_usd: float | None
    of: str
    granted_usd: float = float("-inf")
    """What this process may have committed in all."""
    elsewhere_usd: float = 0.0
    """Spent by others, as of the last look."""
    others_under_way: bool = False
    used_usd: float = 0.0
    reserved_usd: float = 0.0
    under_way: int = 0

    @property
    def committed_usd(self) -> float:
        return self.used_usd + self.reserved_usd

    def has(self, cost_usd: float) -> bool:
        return self.used_usd + self.reserved_usd + cost_usd <= self.granted_usd

    def refusal(self, cost_usd: float, hard: bool) -> str:
        spent_usd = self.elsewhere_usd + self.used_usd
        costs = "may cost up to" if hard else "costs about"
        return (
            f"The cap of ${self.cap_usd:g} {self.of} is reached: ${spent_usd:.4f} are spent, the next call {costs} "
            f"${cost_usd:.6f}. It was not made: raise the cap, run again."
        )


def _today() -> int:
    """The day (UTC) as a number."""
    return int(time.time() // 86_400)


def _date(day: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(day * 86_400))


def _set(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
