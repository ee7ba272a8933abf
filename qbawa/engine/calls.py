"""What goes into the engine and what comes out: one model call and its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import orjson

Json = Any
Purpose = Literal["replay", "judge", "optimize"]


class ModelSettings(Protocol):
    """What the engine needs to know of a model; `qbawa.config.ModelConfig` is one."""

    @property
    def requests_per_minute(self) -> float | None: ...
    @property
    def tokens_per_minute(self) -> float | None: ...
    @property
    def max_in_flight(self) -> int: ...
    @property
    def timeout_s(self) -> float: ...
    @property
    def max_attempts(self) -> int: ...
    @property
    def base_url(self) -> str | None: ...
    @property
    def api_key_env(self) -> str | None: ...
    @property
    def litellm_model(self) -> str | None: ...
    @property
    def input_usd_per_million(self) -> float | None: ...
    @property
    def output_usd_per_million(self) -> float | None: ...
    @property
    def max_output_tokens(self) -> int | None: ...
    @property
    def free(self) -> bool: ...
    @property
    def extra(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Native:
    """A request in the form of the API that it was made for, such as `anthropic.messages`."""

    api: str
    body: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One question to one model. Who asks, and why, is not part of `key`: the answer serves everybody."""

    model: str
    """Name under `models` in qbawa.yaml, or `offline/…`."""
    messages: tuple[Mapping[str, Any], ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the provider's request, such as temperature; a null counts as absent."""
    sample: int = 0
    """Which of several answers to the same question."""
    purpose: Purpose = "replay"
    request_id: str | None = None
    strategy_id: str | None = None
    judge: str | None = None
    step: str | None = None
    """Whose budget pays."""
    native: Native | None = field(default=None, hash=False)
    """What messages and parameters say, as another API than chat completions was asked; sent to models that speak it."""
    key: str = field(init=False, compare=False)
    """`call_key`: hash of model, messages, parameters and sample; 32 hex digits."""

    def __post_init__(self) -> None:
        content = [self.model, list(self.messages), _canonical(self.params), self.sample]
        if self.native is not None:
            content.append([self.native.api, self.native.body])
        object.__setattr__(self, "key", hashlib.sha256(_encode(content)).hexdigest()[:32])


@dataclass(frozen=True, slots=True)
class CallResult:
    """What a model answered. `cost_usd` is what the answer cost whoever paid it, even where `cached`; None: unknown."""

    call_key: str
    text: str
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    latency_s: float
    """Of the attempt that succeeded."""
    attempts: int
    cached: bool
    """True where the ledger held the answer, so that this call cost nothing."""
    logprobs: list[Json] | None = None
    """Of the answer's tokens, in OpenAI's form: `{"token", "logprob", "top_logprobs"}`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider brings back from one attempt. Tokens are None where the provider does not count them."""

    text: str
    input_tokens: int | None
    output_tokens: int | None
    logprobs: list[Json] | None = None
    limits: Limits | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a provider's headers say that it sells, per minute."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None


class Provider(Protocol):
    """A way to reach a model. `send` makes exactly one attempt and raises only `ProviderError`s."""

    async def send(self, call: ModelCall) -> Answer: ...

    async def close(self) -> None: ...


def _canonical(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as the hash sees them: `0` and `0.0` are the same temperature, null is no parameter."""
    return {name: _number(value) for name, value in params.items() if value is not None}


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _encode(content: Json) -> bytes:
    try:
        return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        # Lone surrogates, huge integers: no provider takes them, but they still deserve a key to fail under.
        return json.dumps(content, sort_keys=True, default=str).encode()
