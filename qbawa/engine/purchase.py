"""Buying one answer: budget, limiter, claim, provider, journal; again where the problem may pass."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from qbawa.engine.budget import Budget, Reservation
from qbawa.engine.calls import Answer, CallResult, ModelCall, ModelSettings, Provider
from qbawa.engine.error_classes import malformed
from qbawa.engine.largest_bill import largest_bill_usd, refuse_unbounded
from qbawa.engine.ledger.ledger import Ledger
from qbawa.engine.prices import FREE, Price
from qbawa.engine.progress import Stats
from qbawa.engine.rate_limiter import RateLimiter
from qbawa.engine.reservations import Lost
from qbawa.engine.retry import RetryState, copy_exception
from qbawa.engine.secrets import Secrets
from qbawa.engine.token_usage import CallLoad, TokenUsage
from qbawa.errors import FinalError, LedgerError, ModelStoppedError, NotMadeError, ProviderError, TransientError

log = logging.getLogger("qbawa.engine")

LONGEST_WAIT_S = 600.0
"""How long to wait for another process that claims a call, before paying for it all the same."""
MOST_UNCOUNTED = 5
"""Answers in a row without token counts after which a paid model is stopped."""


@dataclass(slots=True)
class Model:
    """A model as the engine runs it."""

    name: str
    settings: ModelSettings
    provider: Provider
    limiter: RateLimiter
    price: Price
    token_usage: TokenUsage
    stopped: ModelStoppedError | None = None
    uncounted: int = 0
    """Answers in a row without token counts."""


class CallExecutor:
    """Buys answers for one engine, until `close`."""

    def __init__(
        self,
        ledger: Ledger,
        budget: Budget,
        secrets: Secrets,
        stats: Stats,
        run_id: str,
        *,
        retry_refused: bool = False,
    ) -> None:
        self.models: dict[str, Model] = {}
        self.closed: NotMadeError | LedgerError | None = None
        self._ledger = ledger
        self._budget = budget
        self._secrets = secrets
        self._stats = stats
        self._run_id = run_id
        self._retry_refused = retry_refused

    def add(self, model: Model) -> None:
        self.models[model.name] = model
        if self.closed is not None:
            model.limiter.close(self.closed)

    def close(self, error: NotMadeError | LedgerError) -> None:
        """Send nothing more: all who wait, and all who come later, get `error`. Requests under way are not touched."""
        self.closed = error
        for model in self.models.values():
            model.limiter.close(error)
        self._budget.close(error)

    async def execute(self, call: ModelCall, model: Model) -> CallResult:
        """The answer, bought by us or, where another process was faster, by that one."""
        try:
            return await self._buy(call, model)
        except _ElsewhereError:
            claimed = await self._wait_for_other(call)
        try:
            found = self._ledger.journalled(call.key)
            if found is not None:
                self._stats.cached += 1
                return found
            refusal = self._ledger.refusal(call.key)
            if refusal is not None and not self._retry_refused:
                raise refusal
            return await self._buy(call, model, claimed=True)
        finally:
            if claimed:
                self._ledger.release(call.key)

    async def _wait_for_other(self, call: ModelCall) -> bool:
        """Wait while another process buys this answer. True where the claim is ours now, False after too long."""
        since = time.monotonic()
        while time.monotonic() - since < LONGEST_WAIT_S:
            await self._ledger.changed()
            if self.closed is not None:
                raise copy_exception(self.closed)
            if self._ledger.claim(call.key):
                return True
        return False

    async def _buy(self, call: ModelCall, model: Model, *, claimed: bool = False) -> CallResult:
        """Raises _ElsewhereError where another process is buying it."""
        retries = RetryState(model.settings.max_attempts)
        load = model.token_usage.load(call)
        set_aside = self._set_aside(call, model, load)
        bill = Bill()
        reservation: Reservation | None = await self._budget.reserve(call.step, set_aside)
        ours = False
        try:
            while True:
                if reservation is None:
                    reservation = await self._budget.reserve(call.step, set_aside)
                number = await self._enter(model, load, again=bill.attempts > 0)
                if bill.attempts == 0:
                    # As late as possible: while we waited, another process may have begun or even finished.
                    ours = not claimed and self._ledger.claim(call.key)
                    found = self._ledger.journalled(call.key)
                    refusal = None if found or self._retry_refused else self._ledger.refusal(call.key)
                    if found is not None or refusal is not None or not (ours or claimed):
                        model.limiter.cancel(load)
                        if refusal is not None:
                            raise refusal
                        if found is None:
                            raise _ElsewhereError
                        self._stats.cached += 1
                        return found
                answer, problem = await self._attempt(call, model, load, number, retries, bill)
                charge_usd = self._charge(call, model, bill, answer or problem, reservation)
                if charge_usd or answer is not None or not isinstance(problem, TransientError):
                    self._budget.settle(reservation, charge_usd)
                    reservation = None
                if answer is not None:
                    await self._keep(call, model, answer, bill)
                    return _result(call, answer, bill)
                if isinstance(problem, TransientError):
                    try:
                        pause_s = retries.pause_s(problem)
                    except FinalError as final:
                        problem = final
                    else:
                        self._stats.retries[problem.reason] += 1
                        if pause_s:
                            await model.limiter.pause(pause_s)
                        continue
                failed = await self._fail(call, problem, bill)
                # Whoever still waits for a call that was given up has no answer, and no refusal either.
                raise NotMadeError(str(failed)) if failed.reason == "cancelled" else failed
        except (asyncio.CancelledError, NotMadeError, FinalError) as error:
            # What was billed on the way stands in the ledger, however the call came to its end.
            if bill.billed and not bill.journalled:
                with contextlib.suppress(LedgerError):
                    await self._journal(call, None, bill, _cut_short(error))
            raise
        finally:
            if reservation is not None:
                self._budget.settle(reservation, 0.0)
            if ours:
                self._ledger.release(call.key)

    def _set_aside(self, call: ModelCall, model: Model, load: CallLoad) -> Callable[[], float]:
        """What to set aside for one attempt, in USD: the most it can cost under hard caps, else the probable cost."""
        if not self._budget.hard or model.price == FREE:
            return lambda: model.price.of(*load.set_aside)
        most_usd = largest_bill_usd(call, model.settings, model.price)
        if most_usd is None:
            raise refuse_unbounded(call)
        return lambda: most_usd

    def _charge(
        self, call: ModelCall, model: Model, bill: Bill, outcome: Answer | ProviderError, reservation: Reservation
    ) -> float:
        """Put an attempt on the call's bill; the dollars that it counts with under the caps.

        Where nobody says what was billed, that is the most it can have been, or what was set aside if nothing bounds it.
        """
        tokens = outcome.input_tokens, outcome.output_tokens
        if isinstance(outcome, ProviderError):
            if outcome.billing == "no" or (outcome.billing == "unlikely" and not self._budget.hard):
                return 0.0
            counted = outcome.billing == "counted"
        else:
            counted = None not in tokens
        bill.billed, bill.free = True, model.price == FREE
        if counted:
            input_tokens, output_tokens = tokens[0] or 0, tokens[1] or 0
            cost_usd = model.price.of(input_tokens, output_tokens)
            bill.input_tokens += input_tokens
            bill.output_tokens += output_tokens
            bill.cost_usd += cost_usd
            self._stats.cost_usd += cost_usd
            self._stats.input_tokens += input_tokens
            self._stats.output_tokens += output_tokens
            if self._budget.hard and cost_usd > reservation.cost_usd * 1.000001:
                self._stop_model(model, _over_bound(model, cost_usd, reservation.cost_usd))
        else:
            most_usd = None if self._budget.hard else largest_bill_usd(call, model.settings, model.price)
            cost_usd = max(reservation.cost_usd, most_usd or 0.0)
            bill.unknown_usd += cost_usd
            self._stats.unknown_usd += cost_usd
        bill.counted = counted
        return cost_usd

    async def _enter(self, model: Model, load: CallLoad, *, again: bool) -> int:
        """Wait for leave to send; the limiter's number for it. Raises where nothing may be sent any more."""
        for error in (self.closed, model.stopped):
            if error is not None:
                raise copy_exception(error)
        number = await model.limiter.acquire(load, front=again)
        while self._ledger.stuck and self.closed is None:
            await self._ledger.changed()
        if self.closed is not None:
            model.limiter.cancel(load)
            raise copy_exception(self.closed)
        return number

    async def _attempt(
        self, call: ModelCall, model: Model, load: CallLoad, number: int, retries: RetryState, bill: Bill
    ) -> tuple[Answer | None, ProviderError]:
        """Send the call once: the answer or the problem."""
        self._stats.attempts += 1
        bill.attempts += 1
        answer: Answer | None = None
        problem = _NO_PROBLEM
        started = time.perf_counter()
        try:
            answer = self._without_keys(await model.provider.send(call))
        except ProviderError as error:
            problem = error
            if isinstance(error, TransientError) and error.reason == "rate_limited":
                self._stats.limited += 1
                try:
                    seconds = retries.backoff_s(error)
                    # What one call has come to after many 429s is not what all should wait.
                    model.limiter.refused(number, seconds if error.retry_after_s is not None else min(seconds, 1.0))
                except ModelStoppedError as stopped:
                    problem = stopped
            if isinstance(problem, ModelStoppedError):
                self._stop_model(model, problem)  # before the limiter lets the next one through
        except asyncio.CancelledError:
            # Given up while the provider was at it, which it may bill.
            problem = FinalError("cancelled", "The run ended while the call was in flight.", billing="unknown")
        except Exception as error:
            # One odd reply must not end a run; what it was belongs in the log.
            log.exception("Model '%s' sent something that could not be read.", model.name)
            problem = malformed(f"{type(error).__name__} while reading it")
        finally:
            model.limiter.release(load, _used(answer or problem, load))
        # To the microsecond, as the ledger keeps it: an answer found there equals the one that was paid for.
        bill.latency_s = round(time.perf_counter() - started, 6)
        return answer, problem

    def _without_keys(self, answer: Answer) -> Answer:
        text = self._secrets.hide(answer.text)
        return answer if text is answer.text else replace(answer, text=text)

    async def _keep(self, call: ModelCall, model: Model, answer: Answer, bill: Bill) -> None:
        """Journal a paid answer. A model whose answers nobody counts is stopped after a few."""
        await self._journal(call, answer, bill, None)
        self._stats.answered += 1
        if bill.counted or model.price == FREE:
            model.uncounted = 0
        else:
            model.uncounted += 1
            if model.uncounted >= MOST_UNCOUNTED:
                self._stop_model(
                    model,
                    ModelStoppedError(
                        "unpriced",
                        f"Model '{model.name}' answered {model.uncounted} times in a row without counting tokens, so nobody "
                        "knows what it costs. Each counts with the most it can have cost.",
                    ),
                )
        if answer.limits is not None:
            model.limiter.apply_limits(answer.limits.requests_per_minute, answer.limits.tokens_per_minute)

    async def _fail(self, call: ModelCall, error: ProviderError, bill: Bill) -> ProviderError:
        """The error to raise for a call that failed for good, journalled with what it cost all the same."""
        clean = type(error)(error.reason, self._secrets.scrub(str(error)))
        clean.input_tokens, clean.output_tokens = bill.tokens
        clean.cost_usd = bill.known_usd
        await self._journal(call, None, bill, clean)
        return clean

    async def journal_lost(self, lost: Iterable[Lost]) -> None:
        """Journal what processes that died had in flight: it may have been billed, so the ledger must hold it."""
        for each in lost:
            bill = Bill(unknown_usd=each.usd, billed=True)
            text = "a process ended while calls were in flight, which may have been billed"
            call = ModelCall("", ({"role": "system", "content": f"{each.run_id} {uuid.uuid4()}"},), step=each.step)
            line = self._line(call, None, bill, FinalError("killed", text))
            await self._record(line | {"messages": [], "model": None, "run_id": each.run_id})

    def _stop_model(self, model: Model, error: ModelStoppedError) -> None:
        """No further call to this model or to others behind its limiter; said once."""
        if model.stopped is not None:
            return
        clean = ModelStoppedError(error.reason, self._secrets.scrub(str(error)))
        log.error("Model '%s' is stopped for this run: %s", model.name, clean)
        for other in self.models.values():
            if other.limiter is model.limiter:
                other.stopped = clean
        model.limiter.close(clean)

    async def _journal(self, call: ModelCall, answer: Answer | None, bill: Bill, error: ProviderError | None) -> None:
        bill.journalled = True
        await self._record(self._line(call, answer, bill, error))

    def _line(self, call: ModelCall, answer: Answer | None, bill: Bill, error: ProviderError | None) -> dict[str, Any]:
        input_tokens, output_tokens = bill.tokens
        return {
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
            "response_text": None if answer is None else answer.text,
            "logprobs": None if answer is None else answer.logprobs,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "cost_usd": bill.known_usd,
            "charged_usd": bill.charged_usd,
            "latency_s": bill.latency_s,
            "attempts": bill.attempts,
            "error": None if error is None else f"{error.reason}: {error}",
            "run_id": self._run_id,
            "called_at": datetime.now(UTC).isoformat(),
        }

    async def _record(self, line: dict[str, Any]) -> None:
        try:
            await self._ledger.record(line)
        except LedgerError as problem:
            if not isinstance(self.closed, LedgerError):
                log.error("%s", problem)
                self.close(problem)
            raise


@dataclass(slots=True)
class Bill:
    """What the attempts at one call have come to."""

    attempts: int = 0
    latency_s: float = 0.0
    """Of the last attempt."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    """Of the tokens that were counted."""
    unknown_usd: float = 0.0
    """Set aside for attempts that nobody counted."""
    billed: bool = False
    """The provider has worked at least once, or may have."""
    counted: bool | None = None
    """Whether the last attempt that may have been billed was counted."""
    free: bool = False
    journalled: bool = False

    @property
    def charged_usd(self) -> float:
        """What counts under the caps."""
        return self.cost_usd + self.unknown_usd

    @property
    def known_usd(self) -> float | None:
        """What the call has cost: None where the attempt that ended it was not counted. 0 where nothing was billed."""
        return self.cost_usd if self.counted or self.free or not self.billed else None

    @property
    def tokens(self) -> tuple[int | None, int | None]:
        return (self.input_tokens, self.output_tokens) if self.counted else (None, None)


class _ElsewhereError(Exception):
    """Another process is paying for this call."""


_NO_PROBLEM = ProviderError("none", "")


def _over_bound(model: Model, cost_usd: float, most_usd: float) -> ModelStoppedError:
    return ModelStoppedError(
        "over_bound",
        f"Model '{model.name}' counted tokens for ${cost_usd:.6f} where the call allowed ${most_usd:.6f} at most: the provider "
        "does not keep to max_tokens, so `caps: hard` cannot bound what it bills.",
    )


def _cut_short(error: BaseException) -> ProviderError:
    """What the ledger says of a call that ended before its time."""
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return FinalError("cancelled", "The run ended while the call was in flight.")
    return FinalError("not_finished", f"After attempts that may have been billed: {error}")


def _result(call: ModelCall, answer: Answer, bill: Bill) -> CallResult:
    return CallResult(
        call_key=call.key,
        text=answer.text,
        input_tokens=bill.input_tokens,
        output_tokens=bill.output_tokens,
        cost_usd=bill.known_usd,
        latency_s=bill.latency_s,
        attempts=bill.attempts,
        cached=False,
        logprobs=answer.logprobs,
    )


def _used(outcome: Answer | ProviderError, load: CallLoad) -> tuple[float, float] | None:
    """Tokens that an attempt used, as expected where nobody counted an answer; None for one that failed so."""
    if outcome.input_tokens is not None and outcome.output_tokens is not None:
        return outcome.input_tokens, outcome.output_tokens
    return load.expected if isinstance(outcome, Answer) else None
