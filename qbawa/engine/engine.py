"""The engine: thousands of model calls in flight on one event loop, each at the provider's pace, none paid twice."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Protocol

from qbawa.engine.budget import Budget
from qbawa.engine.expectation import CallLoad, Expectation
from qbawa.engine.gate import Gate
from qbawa.engine.lanes import Lanes
from qbawa.engine.ledger import Ledger
from qbawa.engine.prices import Price, price_of
from qbawa.engine.retry import Patience, fresh
from qbawa.engine.secrets import Secrets
from qbawa.engine.types import Answer, CallResult, Lane, ModelCall, ModelSettings
from qbawa.errors import (
    FinalError,
    LedgerError,
    ModelStoppedError,
    NotMadeError,
    ProviderError,
    TransientError,
)

log = logging.getLogger("qbawa.engine")

DRAIN_S = 60.0
LONGEST_WAIT_S = 600.0
"""How long to wait for another process that claims a call, before paying it after all."""


class _ElsewhereError(Exception):
    """Another process is paying for this call."""


_NO_PROBLEM = ProviderError("none", "")


class Watcher(Protocol):
    """Shows progress while an engine runs; see `qbawa.engine.progress`."""

    async def watch(self, engine: Engine) -> None:
        """Show progress until cancelled."""

    def cell(self, outcome: Literal["ok", "failed", "missing"]) -> None:
        """Whoever answers cells says so here."""


class _Silent:
    async def watch(self, engine: Engine) -> None: ...

    def cell(self, outcome: Literal["ok", "failed", "missing"]) -> None: ...


@dataclasses.dataclass(slots=True)
class Stats:
    """What an engine has done so far."""

    asked: int = 0
    cached: int = 0
    """Answered by the ledger, or by a call that was under way for someone else."""
    answered: int = 0
    """Paid and journalled."""
    attempts: int = 0
    limited: int = 0
    """429s."""
    retries: Counter[str] = dataclasses.field(default_factory=Counter)
    failures: Counter[str] = dataclasses.field(default_factory=Counter)
    """Final failures by reason."""
    not_made: int = 0
    raced: int = 0
    """Paid although another process had claimed the call, since it took too long."""
    cost_usd: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclasses.dataclass(slots=True)
class Model:
    """A model as the engine runs it."""

    name: str
    settings: ModelSettings
    lane: Lane
    gate: Gate
    price: Price
    expectation: Expectation
    stopped: ModelStoppedError | None = None


class Engine:
    """Answers model calls, from the ledger where it can. `async with Engine(models, ledger) as engine: …`

    `models` maps names to their settings; `offline/…` models need none. Leaving the block stops new calls, waits up to
    `drain_s` for those in flight, journals what they brought, and closes the ledger's segment so that it can land.
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
    ) -> None:
        self.stats = Stats()
        self.ledger = ledger
        self.budget = budget or Budget()
        self.run_id = run_id or f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
        self.started_at = time.monotonic()
        self.models: dict[str, Model] = {}
        self._settings = models
        self._secrets = Secrets()
        self._lanes = Lanes(self._secrets)
        self._unusable: dict[str, ProviderError] = {}
        self._preparing: dict[str, asyncio.Future[Model]] = {}
        self._flights: dict[str, asyncio.Task[CallResult]] = {}
        self.progress: Watcher = progress or _Silent()
        self._watching: asyncio.Task[None] | None = None
        self._drain_s = drain_s
        self._stopping: NotMadeError | LedgerError | None = None
        ledger.on_line = self._notice

    @property
    def gates(self) -> set[Gate]:
        """One for each provider, key and model; models that share a limit share one."""
        return {model.gate for model in self.models.values()}

    async def __aenter__(self) -> Engine:
        self._calm = calm_collector()
        self._calm.__enter__()
        self._watching = asyncio.create_task(self.progress.watch(self))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        try:
            await self._drain()
        finally:
            if self._watching is not None:
                self._watching.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._watching
            self._calm.__exit__(None, None, None)
            await self._lanes.close()
            await self.ledger.close()

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
            flight.add_done_callback(lambda done: self._landed(call.key, done))
            # Shielded: the answer is paid for even where this caller is cancelled.
            return await asyncio.shield(flight)
        result = await asyncio.shield(flight)
        self.stats.cached += 1
        return dataclasses.replace(result, cached=True)

    def stop(self, why: str = "The run is stopping") -> None:
        """Send nothing more; calls in flight go on, all others raise NotMadeError."""
        if self._stopping is None:
            self._halt(NotMadeError(f"{why}, so the call was not made; its cell stays missing."))

    async def _obtain(self, call: ModelCall) -> CallResult:
        found = await self.ledger.find(call.key)
        if found is not None:
            self.stats.cached += 1
            return found
        claimed = False
        try:
            model = await self._model(call.model)
            try:
                return await self._pay(call, model)
            except _ElsewhereError:
                claimed = await self._wait_for_other(call)
            found = self.ledger.journalled(call.key)
            if found is not None:
                self.stats.cached += 1
                return found
            return await self._pay(call, model, claimed=True)
        except NotMadeError:
            self.stats.not_made += 1
            raise
        except ProviderError as error:
            self.stats.failures[error.reason] += 1
            raise
        finally:
            if claimed:
                self.ledger.release(call.key)

    async def _wait_for_other(self, call: ModelCall) -> bool:
        """Wait while another process pays for this call. True where the claim is ours now, False after too long."""
        since = time.monotonic()
        while time.monotonic() - since < LONGEST_WAIT_S:
            await self.ledger.changed()
            if self._stopping is not None:
                raise fresh(self._stopping)
            if self.ledger.claim(call.key):
                return True
        self.stats.raced += 1
        return False

    async def _pay(self, call: ModelCall, model: Model, *, claimed: bool = False) -> CallResult:
        """Buy the answer, unless it turns up meanwhile. Raises _ElsewhereError where another process is buying it."""
        patience = Patience(model.settings.max_attempts)
        load = model.expectation.load(call)
        reservation = await self.budget.reserve(call.step, lambda: model.price.of(*load.expected))
        cost_usd, attempts, ours = 0.0, 0, False
        try:
            while True:
                if self._stopping is not None:
                    raise fresh(self._stopping)
                if model.stopped is not None:
                    raise fresh(model.stopped)
                await model.gate.enter(load, front=attempts > 0)
                while self.ledger.stuck and self._stopping is None:
                    await self.ledger.changed()
                if self._stopping is not None:
                    model.gate.undo(load)
                    continue
                if attempts == 0:
                    # As late as possible: while we waited, another process may have begun or even finished.
                    ours = not claimed and self.ledger.claim(call.key)
                    found = self.ledger.journalled(call.key)
                    if found is not None or not (ours or claimed):
                        model.gate.undo(load)
                        if found is None:
                            raise _ElsewhereError
                        self.stats.cached += 1
                        return found
                attempts += 1
                answer, problem, latency_s = await self._attempt(call, model, load, patience)
                if answer is not None:
                    cost_usd = await self._keep(call, model, answer, latency_s, attempts)
                    return CallResult(
                        call.key,
                        self._secrets.hide(answer.text),
                        answer.input_tokens or 0,
                        answer.output_tokens or 0,
                        cost_usd,
                        latency_s,
                        attempts,
                        False,
                        answer.logprobs,
                    )
                if isinstance(problem, TransientError):
                    try:
                        pause_s = patience.pause_s(problem)
                    except FinalError as final:
                        problem = final
                    else:
                        self.stats.retries[problem.reason] += 1
                        if pause_s:
                            await asyncio.sleep(pause_s)
                        continue
                raise await self._fail(call, model, problem, latency_s, attempts)
        finally:
            self.budget.settle(reservation, cost_usd)
            if ours:
                self.ledger.release(call.key)

    async def _attempt(
        self, call: ModelCall, model: Model, load: CallLoad, patience: Patience
    ) -> tuple[Answer | None, ProviderError, float]:
        """Send the call once: the answer or the problem, and the seconds it took."""
        self.stats.attempts += 1
        answer: Answer | None = None
        problem = _NO_PROBLEM
        started = time.perf_counter()
        try:
            answer = await model.lane.send(call)
        except ProviderError as error:
            problem = error
            if isinstance(error, TransientError) and error.reason == "rate_limited":
                self.stats.limited += 1
                try:
                    model.gate.hold(patience.hold_s(error))
                except ModelStoppedError as stopped:
                    problem = stopped
            if isinstance(problem, ModelStoppedError):
                self._stop_model(model, problem)  # before the gate lets the next one through
        finally:
            model.gate.done(load, _used(answer, load))
        # To the microsecond, as the ledger keeps it: an answer found there equals the one that was paid for.
        return answer, problem, round(time.perf_counter() - started, 6)

    async def _keep(self, call: ModelCall, model: Model, answer: Answer, latency_s: float, attempts: int) -> float:
        """Journal a paid answer; what it cost. Raises FinalError('unpriced') where the provider counted no tokens."""
        counted = answer.input_tokens is not None and answer.output_tokens is not None
        priced = counted or model.price.of(1, 1) == 0
        cost_usd = model.price.of(answer.input_tokens or 0, answer.output_tokens or 0) if priced else None
        unpriced = None if priced else FinalError("unpriced", f"Model '{model.name}' answered without counting tokens.")
        await self._journal(call, answer, cost_usd, latency_s, attempts, unpriced)
        if unpriced is not None:
            raise unpriced
        assert cost_usd is not None
        self.stats.answered += 1
        self.stats.cost_usd += cost_usd
        self.stats.input_tokens += answer.input_tokens or 0
        self.stats.output_tokens += answer.output_tokens or 0
        if answer.limits is not None:
            model.gate.heed(answer.limits.requests_per_minute, answer.limits.tokens_per_minute)
        return cost_usd

    async def _fail(
        self, call: ModelCall, model: Model, error: ProviderError, latency_s: float, attempts: int
    ) -> ProviderError:
        """The error to raise for a call that failed for good, journalled for the record; it is no answer to reuse."""
        clean = type(error)(error.reason, self._secrets.scrub(str(error)))
        await self._journal(call, None, 0.0, latency_s, attempts, clean)
        return clean

    def _stop_model(self, model: Model, error: ModelStoppedError) -> None:
        """No further call to this model or to others behind its gate; said once."""
        if model.stopped is not None:
            return
        clean = ModelStoppedError(error.reason, self._secrets.scrub(str(error)))
        log.error("Model '%s' is stopped for this run: %s", model.name, clean)
        for other in self.models.values():
            if other.gate is model.gate:
                other.stopped = clean
        model.gate.close(clean)

    async def _journal(
        self,
        call: ModelCall,
        answer: Answer | None,
        cost_usd: float | None,
        latency_s: float,
        attempts: int,
        error: ProviderError | None,
    ) -> None:
        line: dict[str, Any] = {
            "v": 1,
            "kind": "call",
            "call_key": call.key,
            "purpose": call.purpose,
            "model": call.model,
            "request_id": call.request_id,
            "strategy_id": call.strategy_id,
            "judge": call.judge,
            "step": call.step,
            "sample": call.sample,
            "messages": call.messages,
            "params": call.params,
            "response_text": None if answer is None else self._secrets.hide(answer.text),
            "logprobs": None if answer is None else answer.logprobs,
            "input_tokens": None if answer is None else answer.input_tokens,
            "output_tokens": None if answer is None else answer.output_tokens,
            "cost_usd": cost_usd,
            "latency_s": latency_s,
            "attempts": attempts,
            "error": None if error is None else f"{error.reason}: {error}",
            "run_id": self.run_id,
            "called_at": datetime.now(UTC).isoformat(),
        }
        try:
            await self.ledger.record(line)
        except LedgerError as problem:
            if not isinstance(self._stopping, LedgerError):
                log.error("%s", problem)
                self._halt(problem)
            raise

    async def _model(self, name: str) -> Model:
        """The model, set up on its first call. Raises FinalError where it cannot be used, the same for every call."""
        model = self.models.get(name)
        if model is not None:
            return model
        if name in self._unusable:
            raise fresh(self._unusable[name])
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
            connection = self._lanes.connect(name, settings)
            # Off the event loop: litellm's table takes seconds to import.
            price = await asyncio.to_thread(price_of, name, connection.settings)
        except ProviderError as error:
            self._unusable[name] = error
            log.error("Model '%s' cannot be used: %s", name, error)
            raise
        if self._stopping is not None:
            connection.gate.close(self._stopping)
        model = Model(name, connection.settings, connection.lane, connection.gate, price, Expectation())
        self.models[name] = model
        return model

    def _halt(self, error: NotMadeError | LedgerError) -> None:
        self._stopping = error
        for model in self.models.values():
            model.gate.close(error)
        self.budget.close(error)

    def _notice(self, line: Mapping[str, Any]) -> None:
        """A line of the journal: what another process paid today counts under the caps of day and step."""
        cost_usd = line.get("cost_usd")
        if line.get("run_id") == self.run_id or not isinstance(cost_usd, float) or cost_usd <= 0:
            return
        if str(line.get("called_at")).startswith(f"{datetime.now(UTC):%Y-%m-%d}"):
            self.budget.note_elsewhere(line.get("step"), cost_usd)

    async def _drain(self) -> None:
        flights = set(self._flights.values())
        if not flights:
            return
        _, late = await asyncio.wait(flights, timeout=self._drain_s)
        for flight in late:
            flight.cancel()
        if late:
            log.warning("%d calls were still in flight after %g s and were given up.", len(late), self._drain_s)
            await asyncio.wait(late)

    def _landed(self, key: str, flight: asyncio.Task[CallResult]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # seen, even where its caller was cancelled


@contextlib.contextmanager
def calm_collector() -> Iterator[None]:
    """Spare the garbage collector what will not become garbage: thousands of waiting calls, and all imported modules.

    Without this a fifth of the CPU of a large run goes into looking at them again and again.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _used(answer: Answer | None, load: CallLoad) -> tuple[float, float] | None:
    """Tokens that an attempt used, as expected where nobody counted; None for one that failed."""
    if answer is None:
        return None
    if answer.input_tokens is None or answer.output_tokens is None:
        return load.expected
    return answer.input_tokens, answer.output_tokens
