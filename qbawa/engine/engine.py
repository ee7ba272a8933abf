"""The engine: thousands of model calls in flight on one event loop, each at the provider's pace, none paid twice."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from qbawa.engine.budget import Budget
from qbawa.engine.calls import CallResult, ModelCall, ModelSettings
from qbawa.engine.gc_tuning import gc_tuned
from qbawa.engine.ledger.ledger import Ledger
from qbawa.engine.progress import Silent, Snapshot, Stats, Watcher
from qbawa.engine.providers.registry import ProviderRegistry, provider_price, with_maximum
from qbawa.engine.purchase import CallExecutor, Model
from qbawa.engine.rate_limiter import RateLimiter
from qbawa.engine.retry import copy_exception
from qbawa.engine.secrets import Secrets
from qbawa.engine.signals import ending_on_signals
from qbawa.engine.token_usage import TokenUsage
from qbawa.errors import FinalError, LedgerError, NotMadeError, ProviderError

log = logging.getLogger("qbawa.engine")

DRAIN_S = 60.0


class Engine:
    """Answers model calls, from the ledger where it can. `async with Engine(models, ledger) as engine: …`

    `models` maps names to their settings; `offline/…` models need none. Leaving the block stops new calls, waits up to
    `drain_s` for those in flight, journals what they brought, and closes the ledger's segment so that it can be loaded.
    SIGTERM and SIGINT do the same from outside and are passed on at the end. Calls whose answer was withheld, cut off or of
    another kind are not made again, since that costs as much again, unless `retry_refused`.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSettings],
        ledger: Ledger,
        budget: Budget | None = None,
        progress: Watcher | None = None,
        *,
        run_id: str | None = None,
        drain_s: float = DRAIN_S,
        retry_refused: bool = False,
    ) -> None:
        self.stats = Stats()
        self.ledger = ledger
        self.budget = budget or Budget()
        self.progress: Watcher = progress or Silent()
        self.run_id = run_id or f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
        self._settings = models
        self._drain_s = drain_s
        secrets = Secrets()
        self._providers = ProviderRegistry(secrets)
        self._retry_refused = retry_refused
        self._executor = CallExecutor(
            ledger, self.budget, secrets, self.stats, self.run_id, retry_refused=retry_refused
        )
        self._unusable: dict[str, ProviderError] = {}
        self._preparing: dict[str, asyncio.Future[Model]] = {}
        self._flights: dict[str, asyncio.Task[CallResult]] = {}
        self._open = contextlib.AsyncExitStack()
        ledger.on_line = self._notice

    @property
    def models(self) -> Mapping[str, Model]:
        """Those that have been called, by name."""
        return self._executor.models

    @property
    def limiters(self) -> set[RateLimiter]:
        """One for each provider, key and model; models that share a limit share one."""
        return {model.limiter for model in self.models.values()}

    def snapshot(self) -> Snapshot:
        """What there is to show of the run at this moment."""
        return Snapshot(self.stats, self.limiters, self.budget.left_usd)

    async def __aenter__(self) -> Engine:
        # Undone from the last to the first.
        self._open.enter_context(ending_on_signals(self._end_soon, self._give_up))
        self._open.push_async_callback(self.ledger.close)
        self._open.push_async_callback(self._settle)
        self._open.push_async_callback(self._providers.close)
        self._open.enter_context(gc_tuned())
        self._open.push_async_callback(_end, asyncio.create_task(self.progress.watch(self.snapshot)))
        self._open.push_async_callback(self._drain)
        try:
            await self._journal_lost()
        except BaseException:
            await self._open.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        await self._open.aclose()

    async def call(self, call: ModelCall) -> CallResult:
        """The answer to a call, paid at most once however often and by whomever it is asked.

        Raises FinalError where this call can have no answer, ModelStoppedError where its model can give none in this
        run, BudgetError or NotMadeError where it was not made, LedgerError where answers cannot be kept.
        """
        self.stats.asked += 1
        flight = self._flights.get(call.key)
        if flight is None:
            flight = asyncio.create_task(self._obtain(call))
            self._flights[call.key] = flight
            flight.add_done_callback(lambda done: self._ended(call.key, done))
            # Shielded: the answer is paid for even where this caller is cancelled.
            return await asyncio.shield(flight)
        result = await asyncio.shield(flight)
        self.stats.cached += 1
        return dataclasses.replace(result, cached=True)

    def stop(self, why: str = "The run is stopping") -> None:
        """Send nothing more; calls in flight go on, all others raise NotMadeError."""
        if self._executor.closed is None:
            self._executor.close(NotMadeError(f"{why}, so the call was not made; its cell or match stays open."))

    def _end_soon(self) -> None:
        """Send nothing more; give up what is still in flight after `drain_s`."""
        self.stop("The run was asked to end")
        asyncio.get_running_loop().call_later(self._drain_s, self._give_up)

    async def _settle(self) -> None:
        """Let other processes have what was taken of the caps and not spent, once everything is journalled."""
        with contextlib.suppress(LedgerError):
            await self._journal_lost()
        try:
            await asyncio.to_thread(self.budget.give_back)
        except OSError as error:
            # It counts as taken until this process ends; then whoever comes next settles for it.
            log.warning("What was not spent could not be given back: %s", error)

    async def _journal_lost(self) -> None:
        lost = await asyncio.to_thread(self.budget.lost)
        if lost:
            await self._executor.journal_lost(lost)
            await asyncio.to_thread(self.budget.noted)

    async def _obtain(self, call: ModelCall) -> CallResult:
        found = await self.ledger.find(call.key)
        if found is not None:
            self.stats.cached += 1
            return found
        refusal = None if self._retry_refused else self.ledger.refusal(call.key)
        if refusal is not None:
            self.stats.cached += 1
            self.stats.failures[refusal.reason] += 1
            raise refusal
        try:
            return await self._executor.execute(call, await self._model(call.model))
        except ProviderError as error:
            self.stats.failures[error.reason] += 1
            raise

    async def _model(self, name: str) -> Model:
        """The model, set up on its first call. Raises FinalError where it cannot be used, the same for every call."""
        if name in self.models:
            return self.models[name]
        if name in self._unusable:
            raise copy_exception(self._unusable[name])
        if name not in self._preparing:
            self._preparing[name] = asyncio.ensure_future(self._prepare(name))
        return await asyncio.shield(self._preparing[name])

    async def _prepare(self, name: str) -> Model:
        settings = self._settings.get(name)
        try:
            if settings is None and not name.startswith("offline/"):
                known = ", ".join(self._settings) or "none"
                raise FinalError(
                    "unknown_model", f"Model '{name}' does not stand under `models`. There: {known}; offline/…."
                )
            connection = self._providers.connect(name, with_maximum(name, settings) if self.budget.hard else settings)
            # Off the event loop: litellm's table takes seconds to import.
            price = await asyncio.to_thread(provider_price, name, connection.settings)
        except ProviderError as error:
            self._unusable[name] = error
            log.error("Model '%s' cannot be used: %s", name, error)
            raise
        model = Model(name, connection.settings, connection.provider, connection.limiter, price, TokenUsage())
        self._executor.add(model)
        return model

    def _notice(self, line: Mapping[str, Any]) -> None:
        """A line of the journal: what another process paid today counts under the caps of day and step."""
        cost_usd = line.get("charged_usd", line.get("cost_usd"))
        if line.get("run_id") == self.run_id or not isinstance(cost_usd, float) or cost_usd <= 0:
            return
        if str(line.get("called_at")).startswith(f"{datetime.now(UTC):%Y-%m-%d}"):
            self.budget.note_elsewhere(line.get("step"), cost_usd)

    async def _drain(self) -> None:
        flights = set(self._flights.values())
        if not flights:
            return
        _, late = await asyncio.wait(flights, timeout=self._drain_s)
        if late:
            self._give_up()
            await asyncio.wait(late)

    def _give_up(self) -> None:
        """Cancel what is in flight; it is journalled, as it may be billed."""
        if self._flights:
            log.warning(
                "%d calls were still in flight and were given up; what they cost at most is counted.",
                len(self._flights),
            )
        for flight in self._flights.values():
            flight.cancel()

    def _ended(self, key: str, flight: asyncio.Task[CallResult]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # seen, even where its caller was cancelled


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
