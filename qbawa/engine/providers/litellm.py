"""Every provider that litellm knows. The only module that imports litellm, and only when a call or a price needs it.

litellm takes 6 CPU-seconds to import, fetches a price table and retries on its own unless these are switched
off. So: imported late, offline, one attempt a call; retries, limits and prices are the engine's. It follows redirects with
keys and prompts, and reads bodies of any length: its HTTP goes through `litellm_transport`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
from types import ModuleType
from typing import Any

from qbawa.engine.calls import Answer, ModelCall, ModelSettings
from qbawa.engine.error_classes import SHOWN, classify, malformed, readable
from qbawa.engine.prices import Price
from qbawa.engine.providers.body import ByteBudget
from qbawa.engine.providers.litellm_transport import GuardedTransport, exchange
from qbawa.engine.providers.openai_wire import read_limits, read_response, request_params
from qbawa.errors import FinalError, ProviderError, TransientError

_SETTINGS = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_OFFLINE_MODE": "true",
    # 0 would silently mean 100; litellm's default of 500 is less than a fast provider needs.
    "AIOHTTP_CONNECTOR_LIMIT": "20000",
    "AIOHTTP_CONNECTOR_LIMIT_PER_HOST": "20000",
    "LITELLM_LOG": "ERROR",
}


class LitellmProvider:
    """Sends calls to one model by `litellm.acompletion`."""

    def __init__(
        self, model: str, settings: ModelSettings, api_key: str | None, bytes_: ByteBudget | None = None
    ) -> None:
        self._model = settings.litellm_model or model
        self._settings = settings
        self._api_key = api_key
        self._bytes = bytes_ or ByteBudget()

    async def send(self, call: ModelCall) -> Answer:
        litellm = await asyncio.to_thread(load)
        params = request_params(call, self._settings.extra)
        address: dict[str, Any] = {"api_base": self._settings.base_url} if self._settings.base_url else {}
        if self._api_key:
            address["api_key"] = self._api_key
        if params.get("tools"):
            # Or it imports its MCP gateway, which needs a package that nobody else does, only to see that no tool is one.
            address["_skip_mcp_handler"] = True
        with exchange(self._bytes) as this:
            try:
                async with asyncio.timeout(self._settings.timeout_s):
                    response = await litellm.acompletion(
                        model=self._model,
                        messages=[dict(message) for message in call.messages],
                        timeout=self._settings.timeout_s,
                        max_retries=0,
                        num_retries=0,
                        **address,
                        **params,
                    )
                body = response.model_dump()
                headers = (getattr(response, "_hidden_params", None) or {}).get("additional_headers") or {}
            except ProviderError:
                raise
            except TimeoutError:
                raise TransientError(
                    "timeout", f"no whole answer within {self._settings.timeout_s:g} s", billing="unknown"
                ) from None
            except Exception as error:  # litellm wraps and leaks any kind of exception
                raise this.problem or _translate(error) from None
        answer = read_response(body)
        limits = read_limits({name.removeprefix("llm_provider-"): str(value) for name, value in headers.items()})
        return Answer(answer.text, answer.input_tokens, answer.output_tokens, answer.logprobs, limits)

    async def close(self) -> None: ...


@functools.cache
def load() -> ModuleType:
    """litellm, set up so that it neither reaches for the network nor retries nor prints."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.drop_params = False
    litellm.num_retries = 0
    _guard()
    return litellm


def _guard() -> None:
    """Put our transport before litellm's, which has no setting for either of its promises."""
    from litellm.llms.custom_httpx import aiohttp_transport, http_handler

    class Transport(GuardedTransport, aiohttp_transport.LiteLLMAiohttpTransport): ...

    setattr(aiohttp_transport, "LiteLLMAiohttpTransport", Transport)  # noqa: B010
    # Its other transport cannot be guarded, and exists for what nobody needs here.
    setattr(http_handler.AsyncHTTPHandler, "should_use_aiohttp_transport", staticmethod(lambda: True))  # noqa: B010
    # Clients that do not wait (asking a server about a model) have a setting, which each of them is made with.
    for handler in (http_handler.HTTPHandler, http_handler.AsyncHTTPHandler):
        setattr(handler, "follow_redirects", property(lambda _: False, lambda _, wanted: None))  # noqa: B010


@functools.cache
def table_price(model: str) -> Price | None:
    """The price of a model by litellm's table, None where it knows none. Looked up once per model."""
    try:
        of_input, of_output = load().cost_per_token(model=model, prompt_tokens=1_000_000, completion_tokens=1_000_000)
    except Exception:  # unknown models raise several kinds of exception
        return None
    return Price(of_input / 1e6, of_output / 1e6)


def missing_keys(model: str) -> tuple[str, ...]:
    """Environment variables of which the model's provider needs one, where none is set; () where nobody can tell.

    Others than these find their keys in files and services too. litellm's own list would take seconds to import, and asks
    for variables that are not needed.
    """
    return () if usual_key(model) else _USUAL_KEYS.get(model.partition("/")[0], ())


def usual_key(model: str) -> str | None:
    """The key that litellm would find for the model's provider in the environment, where that has a usual name."""
    names = _USUAL_KEYS.get(model.partition("/")[0], ())
    return next((key for name in names if (key := os.environ.get(name, "").strip())), None)


_USUAL_KEYS: dict[str, tuple[str, ...]] = {
    "anthropic": ("ANTHROPIC_API_KEY",),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "groq": ("GROQ_API_KEY",),
    "mistral": ("MISTRAL_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY",),
    "xai": ("XAI_API_KEY",),
}


def _translate(error: Exception) -> ProviderError:
    """Our error for litellm's. Its exceptions carry the provider's status, code and headers, if in varying places."""
    kind = type(error).__name__
    status = getattr(error, "status_code", None)
    response = getattr(error, "response", None)
    body = getattr(error, "body", None)
    headers = (
        getattr(error, "litellm_response_headers", None)
        or getattr(error, "headers", None)
        or getattr(response, "headers", None)
        or {}
    )
    message, _, _ = readable(str(getattr(error, "message", None) or error)).partition("\nTraceback (most recent call")
    if kind == "ContextWindowExceededError":
        return FinalError("context_too_long", message)
    if kind == "ContentPolicyViolationError":
        return FinalError("refused", message)
    if kind == "Timeout":
        return TransientError("timeout", message, billing="unknown")
    # litellm reports both as a server's error 500, although no server said so.
    if kind == "APIConnectionError" or (kind == "InternalServerError" and message.endswith("Connection error.")):
        return TransientError("connection", message, billing="no" if _never_sent(error) else "unknown")
    if kind in ("JSONSchemaValidationError", "APIResponseValidationError") or (
        kind == "InternalServerError"
        and re.search(r"invalid response from LLM|Expecting |Extra data|char \d+", message)
    ):
        return malformed(message)
    if not isinstance(status, int):
        return TransientError("malformed", f"{kind}: {message[:SHOWN]}", billing="unknown")
    code = getattr(error, "code", None)
    detail = body if isinstance(body, dict) else {"message": message, "code": code if code != str(status) else None}
    if "error" not in detail:
        detail = {"message": message, **detail}
    found = classify(status, detail, dict(headers))
    # litellm invents a status for an error object in a 200, and calls its own trouble with an answer a server's error.
    invented = not headers and type(error.__context__).__name__ == "OpenAIError"
    if found.billing == "unlikely" or invented or "response object" in message:
        found.billing = "unknown"
    return found


def _never_sent(error: BaseException) -> bool:
    """Whether no connection came about, so that nothing can have been billed."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return False
        if type(seen).__name__ in ("ConnectError", "ConnectTimeout", "ClientConnectorError", "ClientConnectorDNSError"):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
