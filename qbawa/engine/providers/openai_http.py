"""OpenAI-compatible servers over our own HTTP: the public wire format at a tenth of a client library's CPU."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from qbawa.engine.calls import Answer, ModelCall, ModelSettings
from qbawa.engine.error_classes import SHOWN, classify, malformed, redirected
from qbawa.engine.providers.body import ACCEPT_ENCODING, BodyBytes, ByteBudget
from qbawa.engine.providers.connections import BrokenReplyError, CannotConnectError, Reply, Server, plain_url
from qbawa.engine.providers.openai_wire import parse_json, read_limits, read_response, request_params
from qbawa.errors import ConfigError, FinalError, ProviderError, TransientError

MAX_FILES = 10_240  # as many as macOS lets a process ask for
OPENAI_URL = "https://api.openai.com/v1"


class HttpSession:
    """The connections to all models' servers. Opened on first use, inside the event loop.

    Straight ones are our own (`connections`); through proxies, and to addresses that need encoding, aiohttp's.
    """

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._servers: dict[str, Server] = {}
        self._proxied = any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ)
        self.bytes = ByteBudget()

    def open(self) -> aiohttp.ClientSession:
        if self._session is None:
            _allow_many_files()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
                cookie_jar=aiohttp.DummyCookieJar(),
                # Looking proxies up costs CPU on every call, so only where there is one to find.
                trust_env=self._proxied,
                auto_decompress=False,  # ours counts what it unpacks
                raise_for_status=False,
                timeout=aiohttp.ClientTimeout(total=None),
            )
        return self._session

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> contextlib.AbstractAsyncContextManager[Reply]:
        """The reply to a POST; no redirect is followed. How long that may take is for the caller to say."""
        if self._proxied or not plain_url(url):
            return self._post_by_aiohttp(url, headers, body)
        split = url.find("/", url.find("//") + 2)
        server = self._servers.get(url[:split])
        if server is None:
            _allow_many_files()
            server = self._servers[url[:split]] = Server(url[:split])
        return server.post(url[split:], headers, body)

    @contextlib.asynccontextmanager
    async def _post_by_aiohttp(self, url: str, headers: Mapping[str, str], body: bytes) -> AsyncIterator[Reply]:
        async with self.open().post(url, data=body, headers=headers, allow_redirects=False) as response:
            yield _AiohttpReply(response)

    async def close(self) -> None:
        for server in self._servers.values():
            server.close()
        self._servers.clear()
        if self._session is not None:
            await self._session.close()
            self._session = None


class _AiohttpReply:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.chunks = response.content.iter_any


class OpenAIProvider:
    """Sends calls to one model behind `{base_url}/chat/completions`."""

    def __init__(self, model: str, settings: ModelSettings, session: HttpSession, api_key: str | None) -> None:
        base = (settings.base_url or OPENAI_URL).rstrip("/")
        if urlsplit(base).scheme not in ("http", "https"):
            raise ConfigError(f"models.{model}.base_url is '{base}'; it must begin with http:// or https://.")
        self.url = f"{base}/chat/completions"
        self.model_name = wire_name(model, settings)
        self._settings = settings
        self._session = session
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        self._headers["Accept-Encoding"] = ACCEPT_ENCODING
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    async def send(self, call: ModelCall) -> Answer:
        body = self._body(call)
        try:
            async with (
                asyncio.timeout(self._settings.timeout_s),
                self._session.post(self.url, self._headers, body) as reply,
            ):
                with BodyBytes(self._session.bytes) as body_bytes:
                    data = await body_bytes.read(reply.chunks(), reply.headers.get("content-encoding", ""))
                    return _interpret(reply.status, reply.headers, data)
        except ProviderError:
            raise
        except TimeoutError:
            raise TransientError(
                "timeout", f"no whole answer within {self._settings.timeout_s:g} s", billing="unknown"
            ) from None
        except (BrokenReplyError, aiohttp.ContentTypeError, aiohttp.ClientPayloadError) as error:
            raise malformed(f"{type(error).__name__} while reading") from None
        except aiohttp.InvalidURL:
            raise FinalError("bad_request", f"models: base_url of '{call.model}' is not a usable address.") from None
        except (aiohttp.ClientError, OSError) as error:
            # The error's own text may hold the address with credentials; its kind says enough.
            what = type(error).__name__
            if isinstance(error, OSError) and error.errno:
                what = os.strerror(error.errno)
            elif isinstance(error, CannotConnectError):
                what = str(error)
            # Whatever broke after the request had left may have cost something.
            never_sent = isinstance(error, CannotConnectError | aiohttp.ClientConnectorError)
            raise TransientError(
                "connection", f"connection failed: {what}", billing="no" if never_sent else "unknown"
            ) from None
        except ValueError as error:  # hostile headers
            raise malformed(f"unreadable response: {type(error).__name__}") from None

    async def close(self) -> None:
        await self._session.close()

    def _body(self, call: ModelCall) -> bytes:
        params = request_params(call, self._settings.extra)
        try:
            return orjson.dumps({"model": self.model_name, "messages": call.messages, **params})
        except TypeError as error:
            raise FinalError("bad_request", f"The messages cannot be sent as JSON: {str(error)[:SHOWN]}") from None


def wire_name(model: str, settings: ModelSettings) -> str:
    """The name in the request's body: litellm's `openai/` and `hosted_vllm/` prefixes are addresses, not names."""
    name = settings.litellm_model or model
    prefix, slash, rest = name.partition("/")
    return rest if slash and prefix in ("openai", "hosted_vllm", "openai_like", "custom_openai") else name


def speaks_openai(model: str, settings: ModelSettings) -> bool:
    """Whether this provider can serve the model: it has its own base_url in OpenAI's form, or it is OpenAI's."""
    prefix, slash, _ = (settings.litellm_model or model).partition("/")
    if slash and prefix in ("openai", "hosted_vllm", "openai_like", "custom_openai"):
        return True
    # With a litellm name of another provider the address is that provider's own, in its own form.
    return settings.base_url is not None and settings.litellm_model is None


def _allow_many_files() -> None:
    """Lift the process's own limit on open files: thousands of calls in flight are thousands of sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _interpret(status: int, headers: Mapping[str, str], data: bytes) -> Answer:
    parsed: Any = None
    try:
        parsed = parse_json(data)
    except ValueError:
        if status == 200:
            raise malformed("not JSON" if data else "an empty body", data) from None
    if status != 200:
        if 300 <= status < 400:
            raise redirected(status)
        raise classify(status, parsed if parsed is not None else data[:2000].decode("utf-8", "replace"), headers)
    answer = read_response(parsed)
    limits = read_limits(headers)
    if limits:
        return Answer(answer.text, answer.input_tokens, answer.output_tokens, answer.logprobs, limits)
    return answer
