"""What a run would cost, before anything is spent: calls, dollars and minutes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from qbawa.engine.calls import ModelCall, ModelSettings
from qbawa.engine.providers.registry import provider_price
from qbawa.engine.rate_limiter import PACE
from qbawa.engine.token_usage import CHARS_PER_TOKEN, UNKNOWN_OUTPUT, max_tokens, text_length
from qbawa.errors import FinalError

LATENCY_S = 3.0
"""Of a call to a model that was never called before, for the estimate of minutes."""


@dataclass(frozen=True, slots=True)
class ModelHistory:
    """What the ledger has seen of a model: means over its answered calls."""

    input_tokens: float
    output_tokens: float
    latency_s: float


@dataclass(slots=True)
class Refused:
    """Cells that cannot be asked as they are, which costs nothing."""

    cells: int = 0
    first: str = ""
    """What is wrong with the first of them."""

    def note(self, why: str) -> None:
        self.cells += 1
        self.first = self.first or why


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would do. `calls` = `cached_calls` + `calls_to_pay`."""

    cells: int
    calls: int
    cached_calls: int
    calls_to_pay: int
    cost_usd: float
    minutes: float
    by_model: Mapping[str, int] = field(default_factory=dict)
    """Calls to pay."""
    unusable: Mapping[str, str] = field(default_factory=dict)
    """Models that cannot be called, and why; their calls count as neither cached nor to pay nor in the cost."""
    guessed: tuple[str, ...] = ()
    """Models never called before, whose output tokens and latency are therefore guessed."""
    refused: Refused = field(default_factory=Refused)

    def line(self) -> str:
        """The estimate in one line, as a run's first."""
        text = (
            f"{self.cells:,} cells: {self.calls:,} calls, {self.cached_calls:,} already in the ledger, "
            f"{self.calls_to_pay:,} to pay: about ${self.cost_usd:.4f} and {self.minutes:.1f} minutes"
        )
        if self.guessed:
            text += f" (guessed for {', '.join(self.guessed)}: never called before)"
        for model, why in self.unusable.items():
            text += f"; {model}: {why}"
        if self.refused.cells:
            text += f". {self.refused.cells:,} of the cells cannot be asked, the first because: {self.refused.first}"
        return text


class Foreseen(NamedTuple):
    """What an estimate needs of a call; the calls themselves of a large matrix would take hundreds of megabytes."""

    key: str
    model: str
    chars: int
    """Of text in its messages."""
    most: float | None
    """Output tokens that it allows."""

    @classmethod
    def of(cls, call: ModelCall) -> Foreseen:
        return cls(call.key, call.model, text_length(call.messages), max_tokens(call.params))


class HeldCalls(Protocol):
    """Where answers that were paid before are found: a ledger, or one who only reads it."""

    async def prefetch(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys whose answers or refusals are held."""


async def estimate(
    calls: Iterable[Foreseen],
    models: Mapping[str, ModelSettings],
    held: HeldCalls,
    *,
    cells: int | None = None,
    history: Mapping[str, ModelHistory] | None = None,
    extra_calls: Mapping[str, int] | None = None,
    refused: Refused | None = None,
) -> Estimate:
    """The estimate for these calls; equal ones count once, as they are paid once.

    `history` holds recorded token counts and latencies by model. `extra_calls` counts, by model, calls whose prompts
    are not known yet (later layers of a program); they are taken to be of mean size. `cells` defaults to the calls.
    """
    unique: dict[str, Foreseen] = {}
    asked = 0
    for call in calls:
        asked += 1
        unique.setdefault(call.key, call)
    paid = await held.prefetch(unique)
    found = estimate_calls(
        [call for key, call in unique.items() if key not in paid],
        models,
        cells=asked if cells is None else cells,
        cached=len(paid),
        history=history or {},
        extra_calls=extra_calls or {},
    )
    return found if refused is None else replace(found, refused=refused)


def estimate_calls(
    to_pay: Sequence[Foreseen],
    models: Mapping[str, ModelSettings],
    *,
    cells: int,
    cached: int,
    history: Mapping[str, ModelHistory],
    extra_calls: Mapping[str, int],
) -> Estimate:
    """The estimate for calls that are all to be paid."""
    loads: defaultdict[str, _Load] = defaultdict(_Load)
    guessed = set()
    for call in to_pay:
        known = history.get(call.model)
        tokens_in, most = call.chars / CHARS_PER_TOKEN, call.most
        if known is None:
            tokens_out = UNKNOWN_OUTPUT if most is None else most
            guessed.add(call.model)
        else:
            tokens_out = known.output_tokens if most is None else min(known.output_tokens, most)
        loads[call.model].add(1, tokens_in, tokens_out)
    for model, count in extra_calls.items():
        known = history.get(model)
        mean = loads[model].mean() if loads[model].calls else None
        tokens_in, tokens_out = mean or (
            (known.input_tokens, known.output_tokens) if known else (UNKNOWN_OUTPUT, UNKNOWN_OUTPUT)
        )
        if known is None:
            guessed.add(model)
        loads[model].add(count, count * tokens_in, count * tokens_out)

    cost_usd = minutes = 0.0
    by_model: Counter[str] = Counter()
    unusable: dict[str, str] = {}
    for model, load in sorted(loads.items()):
        settings = models.get(model)
        if model.startswith("offline/"):
            by_model[model] = load.calls
            guessed.discard(model)
            continue
        if settings is None:
            unusable[model] = f"no model '{model}' stands under `models`"
            continue
        try:
            price = provider_price(model, settings)
        except FinalError as error:
            unusable[model] = str(error)
            continue
        by_model[model] = load.calls
        cost_usd += price.of(load.input_tokens, load.output_tokens)
        latency_s = history[model].latency_s if model in history else LATENCY_S
        # Models run side by side, so the slowest decides.
        minutes = max(minutes, load.minutes(settings, latency_s))
    return Estimate(
        cells=cells,
        calls=cached + sum(by_model.values()),
        cached_calls=cached,
        calls_to_pay=sum(by_model.values()),
        cost_usd=cost_usd,
        minutes=minutes,
        by_model=dict(by_model),
        unusable=unusable,
        guessed=tuple(sorted(guessed)),
    )


@dataclass(slots=True)
class _Load:
    calls: int = 0
    input_tokens: float = 0.0
    output_tokens: float = 0.0

    def add(self, calls: int, input_tokens: float, output_tokens: float) -> None:
        self.calls += calls
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens

    def mean(self) -> tuple[float, float]:
        return self.input_tokens / self.calls, self.output_tokens / self.calls

    def minutes(self, settings: ModelSettings, latency_s: float) -> float:
        """By the tightest of requests a minute, tokens a minute and calls in flight; plus the last call's latency."""
        paces = [self.calls * latency_s / settings.max_in_flight / 60]
        if settings.requests_per_minute:
            paces.append(self.calls / (settings.requests_per_minute * PACE))
        if settings.tokens_per_minute:
            paces.append((self.input_tokens + self.output_tokens) / (settings.tokens_per_minute * PACE))
        return max(paces) + latency_s / 60
