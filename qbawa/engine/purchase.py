"""Buying one answer: budget, limiter, claim, provider, journal; again where the problem may pass."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from qbawa.engine.budget import Budget
from qbawa.engine.calls import Answer, CallResult, ModelCall, ModelSettings, Provider
from qbawa.engine.ledger.ledger import Ledger
from qbawa.engine.prices import Price
from qbawa.engine.progress import Stats
from qbawa.engine.rate_limiter import RateLimiter
from qbawa.engine.retry import RetryState, copy_exception
from qbawa.engine.secrets import Secrets
from qbawa.engine.token_usage import CallLoad, TokenUsage
from qbawa.errors import FinalError, LedgerError, ModelStoppedError, NotMadeError, ProviderError, TransientError

log = logging.getLogger("qbawa.engine")

LONGEST_WAIT_S = 600.0
"""How long to wait for another process that claims a call, before paying for it all the same."""


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


class CallExecutor:
    """Buys answers for one engine, until `close`."""

    def __init__(self, ledger: Ledger, budget: Budget, secrets: Secrets, stats: Stats, run_id: str) -> None:
        self.models: dict[str, Model] = {}
        self.closed: NotMadeError | LedgerError | None = None
        self._ledger = ledger
        self._budget = budget
        self._secrets = secrets
        self._stats = stats
        self._run_id = run_id

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
        reservation = await self._budget.reserve(call.step, lambda: model.price.of(*load.expected))
        cost_usd, attempts, ours = 0.0, 0, False
        try:
            while True:
                await self._enter(model, load, again=attempts > 0)
                if attempts == 0:
                    # As late as possible: while we waited, another process may have begun or even finished.
                    ours = not claimed and self._ledger.claim(call.key)
                    found = self._ledger.journalled(call.key)
                    if found is not None or not (ours or claimed):
                        model.limiter.cancel(load)
                        if found is None:
                            raise _ElsewhereError
                        self._stats.cached += 1
                        return found
                attempts += 1
                answer, problem, latency_s = await self._attempt(call, model, load, retries)
                if answer is not None:
                    cost_usd = await self._keep(call, model, answer, latency_s, attempts)
                    return _result(call, answer, cost_usd, latency_s, attempts)
                if isinstance(problem, TransientError):
                    try:
                        pause_s = retries.pause_s(problem)
                    except FinalError as final:
                        problem = final
                    else:
                        self._stats.retries[problem.reason] += 1
                        if pause_s:
                            await asyncio.sleep(pause_s)
                        continue
                raise await self._fail(call, problem, latency_s, attempts)
        finally:
            self._budget.settle(reservation, cost_usd)
            if ours:
                self._ledger.release(call.key)

    async def _enter(self, model: Model, load: CallLoad, *, again: bool) -> None:
        """Wait for leave to send; raises where nothing may be sent any more."""
        for error in (self.closed, model.stopped):
            if error is not None:
                raise copy_exception(error)
        await model.limiter.acquire(load, front=again)
        while self._ledger.stuck and self.closed is None:
            await self._ledger.changed()
        if self.closed is not None:
            model.limiter.cancel(load)
            raise copy_exception(self.closed)

    async def _attempt(
        self, call: ModelCall, model: Model, load: CallLoad, retries: RetryState
    ) -> tuple[Answer | None, ProviderError, float]:
        """Send the call once: the answer or the problem, and the seconds it took."""
        self._stats.attempts += 1
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
                    model.limiter.backoff(retries.backoff_s(error))
                except ModelStoppedError as stopped:
                    problem = stopped
            if isinstance(problem, ModelStoppedError):
                self._stop_model(model, problem)  # before the limiter lets the next one through
        finally:
            model.limiter.release(load, _used(answer, load))
        # To the microsecond, as the ledger keeps it: an answer found there equals the one that was paid for.
        return answer, problem, round(time.perf_counter() - started, 6)

    def _without_keys(self, answer: Answer) -> Answer:
        text = self._secrets.hide(answer.text)
        return answer if text is answer.text else replace(answer, text=text)

    async def _keep(self, call: ModelCall, model: Model, answer: Answer, latency_s: float, attempts: int) -> float:
        """Journal a paid answer; what it cost. Raises FinalError('unpriced') where the provider counted no tokens."""
        tokens = (answer.input_tokens or 0, answer.output_tokens or 0)
        unpriced = None
        if (answer.input_tokens is None or answer.output_tokens is None) and model.price.of(1, 1) > 0:
            unpriced = FinalError("unpriced", f"Model '{model.name}' answered without counting tokens.")
        cost_usd = model.price.of(*tokens)
        await self._journal(call, answer, None if unpriced else cost_usd, latency_s, attempts, unpriced)
        if unpriced is not None:
            raise unpriced
        self._stats.answered += 1
        self._stats.cost_usd += cost_usd
        self._stats.input_tokens += tokens[0]
        self._stats.output_tokens += tokens[1]
        if answer.limits is not None:
            model.limiter.apply_limits(answer.limits.requests_per_minute, answer.limits.tokens_per_minute)
        return cost_usd

    async def _fail(self, call: ModelCall, error: ProviderError, latency_s: float, attempts: int) -> ProviderError:
        """The error to raise for a call that failed for good, journalled for the record; it is no answer to reuse."""
        clean = type(error)(error.reason, self._secrets.scrub(str(error)))
        await self._journal(call, None, 0.0, latency_s, attempts, clean)
        return clean

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
            "response_text": None if answer is None else answer.text,
            "logprobs": None if answer is None else answer.logprobs,
            "input_tokens": None if answer is None else answer.input_tokens,
            "output_tokens": None if answer is None else answer.output_tokens,
            "cost_usd": cost_usd,
            "latency_s": latency_s,
            "attempts": attempts,
            "error": None if error is None else f"{error.reason}: {error}",
            "run_id": self._run_id,
            "called_at": datetime.now(UTC).isoformat(),
        }
        try:
            await self._ledger.record(line)
        except LedgerError as problem:
            if not isinstance(self.closed, LedgerError):
                log.error("%s", problem)
                self.close(problem)
            raise


class _ElsewhereError(Exception):
    """Another process is paying for this call."""


_NO_PROBLEM = ProviderError("none", "")


def _result(call: ModelCall, answer: Answer, cost_usd: float, latency_s: float, attempts: int) -> CallResult:
    return CallResult(
        call_key=call.key,
        text=answer.text,
        input_tokens=answer.input_tokens or 0,
        output_tokens=answer.output_tokens or 0,
        cost_usd=cost_usd,
        latency_s=latency_s,
        attempts=attempts,
        cached=False,
        logprobs=answer.logprobs,
    )


def _used(answer: Answer | None, load: CallLoad) -> tuple[float, float] | None:
    """Tokens that an attempt used, as expected where nobody counted; None for one that failed."""
    if answer is None:
        return None
    if answer.input_tokens is None or answer.output_tokens is None:
        return load.expected
    return answer.input_tokens, answer.output_tokens
