"""Which provider, key and rate limiter a model uses, and what it costs."""

from __future__ import annotations

import os
from dataclasses import dataclass

from qbawa.config import ModelConfig
from qbawa.engine.calls import ModelSettings, Provider
from qbawa.engine.prices import Price, price_of
from qbawa.engine.providers.litellm import LitellmProvider, table_price, usual_key
from qbawa.engine.providers.native import native_api, speaks_openai, wire_name
from qbawa.engine.providers.native_http import NativeProvider
from qbawa.engine.providers.offline import OfflineProvider
from qbawa.engine.providers.openai_http import OPENAI_URL, HttpSession, OpenAIProvider
from qbawa.engine.rate_limiter import RateLimiter
from qbawa.engine.secrets import Secrets
from qbawa.engine.token_usage import HARD_MAX_TOKENS, max_tokens
from qbawa.errors import ModelStoppedError

_OFFLINE = ModelConfig.model_validate({"free": True, "max_in_flight": 64})


@dataclass(frozen=True, slots=True)
class Connection:
    settings: ModelSettings
    provider: Provider
    limiter: RateLimiter


class ProviderRegistry:
    """Connections to models. Models of the same provider, key and name there share a limiter, as they share a limit."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._session = HttpSession()
        self._limiters: dict[tuple[str, str | None, str], RateLimiter] = {}

    def connect(self, model: str, settings: ModelSettings | None) -> Connection:
        """Provider and limiter of a model. Raises ModelStoppedError where the key it needs is not in the environment."""
        if settings is None or model.startswith("offline/"):
            return Connection(
                settings or _OFFLINE, OfflineProvider(), RateLimiter(max_in_flight=_OFFLINE.max_in_flight)
            )
        key = self._key(model, settings)
        if speaks_openai(model, settings):
            provider: Provider = OpenAIProvider(model, settings, self._session, key)
            address, name = settings.base_url or OPENAI_URL, wire_name(model, settings)
        else:
            self._secrets.add_environment()
            provider = LitellmProvider(model, settings, key, self._session.bytes)
            if native_api(model, settings):
                own_key = key or usual_key(settings.litellm_model or model)
                provider = NativeProvider(model, settings, self._session, own_key, provider)
            address, name = settings.base_url or "", settings.litellm_model or model
        limiter = self._limiters.get((address, key, name))
        if limiter is None:
            limiter = RateLimiter(settings.requests_per_minute, settings.tokens_per_minute, settings.max_in_flight)
            self._limiters[address, key, name] = limiter
        else:
            limiter.apply_limits(settings.requests_per_minute, settings.tokens_per_minute)
        return Connection(settings, provider, limiter)

    async def close(self) -> None:
        await self._session.close()

    def _key(self, model: str, settings: ModelSettings) -> str | None:
        name = key_variable(model, settings)
        if name is None:
            return None
        key = os.environ.get(name, "").strip()
        if not key:
            raise ModelStoppedError(
                "wrong_key", f"Model '{model}' needs a key in the environment variable {name}, which is not set."
            )
        self._secrets.add(key)
        return key


def key_variable(model: str, settings: ModelSettings) -> str | None:
    """The environment variable that must hold the model's key.

    None where litellm looks for its providers' usual ones, or a server of one's own may need none.
    """
    if settings.api_key_env is None and settings.base_url is None and speaks_openai(model, settings):
        return "OPENAI_API_KEY"
    return settings.api_key_env


def provider_price(model: str, settings: ModelSettings) -> Price:
    """The price of a model as configured, else by litellm's table (which imports litellm). Raises as `price_of` does."""
    return price_of(model, settings, table_price)


def with_maximum(model: str, settings: ModelSettings | None) -> ModelSettings | None:
    """The settings with a maximum of the answer's tokens that is sent where a call sets none, as hard caps need it."""
    if not isinstance(settings, ModelConfig) or settings.free or max_tokens(settings.extra) is not None:
        return settings
    # OpenAI's reasoning models refuse the older name, other servers do not know the newer one.
    own = settings.base_url is None and speaks_openai(model, settings)
    most = settings.max_output_tokens or HARD_MAX_TOKENS
    return settings.model_copy(
        update={"extra": {**settings.extra, "max_completion_tokens" if own else "max_tokens": most}}
    )
