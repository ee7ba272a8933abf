"""What litellm's HTTP requests go through: no redirect is followed, and bodies are read under our budget of bytes.

A redirect would carry prompts, and the keys of providers with headers of their own (`x-api-key`, `api-key`,
`x-goog-api-key`), to whatever address an answer names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import aiohttp
import httpx

from qbawa.engine.error_classes import redirected
from qbawa.engine.providers.body import ACCEPT_ENCODING, BodyBytes, ByteBudget
from qbawa.errors import ProviderError


class Exchange:
    """The bodies of one call, and what was wrong with an answer, which litellm would tell as something else."""

    def __init__(self, body: BodyBytes) -> None:
        self.body = body
        self.problem: ProviderError | None = None


_current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


@contextmanager
def exchange(budget: ByteBudget) -> Iterator[Exchange]:
    """Whatever is sent inside belongs to one call."""
    with BodyBytes(budget) as body:
        this = Exchange(body)
        token = _current.set(this)
        try:
            yield this
        finally:
            _current.reset(token)


class GuardedTransport(httpx.AsyncBaseTransport):
    """Stands before another transport, as the first of two base classes."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["Accept-Encoding"] = ACCEPT_ENCODING
        try:
            response = await super().handle_async_request(request)
        except httpx.ConnectError as error:
            if isinstance(error.__cause__, aiohttp.ClientConnectorError):
                raise
            # litellm calls a reset after sending the same, and would send the whole request once more.
            raise httpx.ReadError(str(error), request=request) from error.__cause__
        this = _current.get()
        if 300 <= response.status_code < 400:
            await response.aclose()
            problem = redirected(response.status_code)
            if this is not None:
                this.problem = problem
            raise httpx.TooManyRedirects(str(problem), request=request)
        if this is None:  # not a call of ours
            return response
        packed = ("content-encoding", "content-length")
        return httpx.Response(
            response.status_code,
            headers=[(name, value) for name, value in response.headers.multi_items() if name.lower() not in packed],
            stream=_Unpacked(response, this),
            request=request,
        )


class _Unpacked(httpx.AsyncByteStream):
    def __init__(self, response: httpx.Response, this: Exchange) -> None:
        self._response = response
        self._exchange = this

    async def __aiter__(self) -> AsyncIterator[bytes]:
        encoding = self._response.headers.get("content-encoding", "")
        try:
            async for chunk in self._exchange.body.unpacked(self._response.stream, encoding):  # type: ignore[arg-type]
                yield chunk
        except ProviderError as error:
            self._exchange.problem = error
            raise httpx.DecodingError(str(error)) from None

    async def aclose(self) -> None:
        await self._response.aclose()
