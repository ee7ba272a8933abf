"""OpenAI-compatible servers over our own HTTP (`connections`): the public wire format, without a client library."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import resource
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from qbawa.engine.calls import Answer, Json, ModelCall, ModelSettings
from qbawa.engine.error_classes import SHOWN, classify, malformed, redirected
from qbawa.engine.providers.body import ACCEPT_ENCODING, BodyBytes, ByteBudget
from qbawa.engine.providers.connections import BrokenReplyError, CannotConnectError, Reply, Server, plain_url
from qbawa.engine.providers.native import RESPONSES, native_body, read_native, wire_name
from qbawa.engine.providers.openai_wire import parse_json, read_limits, read_response, request_params
from qbawa.errors import ConfigError, FinalError, ProviderError, TransientError

MAX_FILES = 10_240  # as many as macOS lets a process ask for
OPENAI_URL = "https://api.openai.com/v1"
Reader = Callable[[Json], Answer]


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


class HttpProvider:
    """Sends requests to one model's server and says what came of them."""

    def __init__(self, model: str, settings: ModelSettings, session: HttpSession, default_url: str) -> None:
        self.base_url = (settings.base_url or default_url).rstrip("/")
        if urlsplit(self.base_url).scheme not in ("http", "https"):
            raise ConfigError(f"models.{model}.base_url is '{self.base_url}'; it must begin with http:// or https://.")
        self.model_name = wire_name(model, settings)
        self.settings = settings
        self._session = session
        self.headers = {"Content-Type": "application/json", "Accept": "application/json"}
        self.headers["Accept-Encoding"] = ACCEPT_ENCODING

    async def post(self, call: ModelCall, url: str, body: Json, headers: Mapping[str, str], read: Reader) -> Answer:
        """The answer that `read` finds in the server's response. Raises only ProviderError."""
        data = _encoded(body)
        try:
            async with asyncio.timeout(self.settings.timeout_s), self._session.post(url, headers, data) as reply:
                with BodyBytes(self._session.bytes) as body_bytes:
                    answered = await body_bytes.read(reply.chunks(), reply.headers.get("content-encoding", ""))
                    return _interpret(reply.status, reply.headers, answered, read)
        except ProviderError:
            raise
        except TimeoutError:
            raise TransientError(
                "timeout", f"no whole answer within {self.settings.timeout_s:g} s", billing="unknown"
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


class OpenAIProvider(HttpProvider):
    """Sends calls to one model behind `{base_url}/chat/completions`, and what was a response's request to `/responses`."""

    def __init__(self, model: str, settings: ModelSettings, session: HttpSession, api_key: str | None) -> None:
        super().__init__(model, settings, session, OPENAI_URL)
        self.url = f"{self.base_url}/chat/completions"
        if api_key:
            self.headers["Authorization"] = f"Bearer {api_key}"

    async def send(self, call: ModelCall) -> Answer:
        body = native_body(call, self.settings)
        if body is not None:
            read = functools.partial(read_native, RESPONSES)
            return await self.post(
                call, f"{self.base_url}/responses", {**body, "model": self.model_name}, self.headers, read
            )
        params = request_params(call, self.settings.extra)
        chat = {"model": self.model_name, "messages": call.messages, **params}
        return await self.post(call, self.url, chat, self.headers, read_response)


def _encoded(body: Json) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise FinalError("bad_request", f"The messages cannot be sent as JSON: {str(error)[:SHOWN]}") from None


def _allow_many_files() -> None:
    """Lift the process's own limit on open files: thousands of calls in flight are thousands of sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _interpret(status: int, headers: Mapping[str, str], data: bytes, read: Reader) -> Answer:
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
    answer = read(parsed)
    limits = read_limits(headers)
    if limits:
        return Answer(answer.text, answer.input_tokens, answer.output_tokens, answer.logprobs, limits)
    return answer
