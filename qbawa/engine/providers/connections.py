"""HTTP/1.1 as a model's server is asked: one POST after another over kept connections, at a third of aiohttp's CPU.

Parsing is httptools' (llhttp, which Node and uvicorn read with). There are no cookies, no redirects, no proxies and no
retries here: an exchange is made once, or fails.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from socket import SOCK_STREAM, gaierror
from typing import Protocol
from urllib.parse import urlsplit

import httptools
from aiohappyeyeballs import AddrInfoType, start_connection

KEPT_S = 15.0
"""A connection that has been idle for longer is not used again: servers close theirs about then, and a request is lost."""
RESOLVED_S = 300.0
"""How long an address serves before its name is looked up again."""
MAX_HEAD_BYTES = 64 << 10
"""Of a reply's status line and headers."""
MAX_RAW_BYTES = 128 << 20
"""Of a whole reply as it stands on the wire; more than any body that is taken, with its chunks' own lengths."""
_BUFFER_BYTES = 256 << 10  # of one body that wait to be taken before the connection is read no further
_SECOND_FAMILY_S = 0.25  # RFC 8305: how long IPv6 has before IPv4 is tried beside it
_PLAIN_URL = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[!$-~]*)?")
_NOT_IN_HEADERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class CannotConnectError(OSError):
    """Nothing was sent, as there is no connection."""


class BrokenReplyError(Exception):
    """What came back is not HTTP, or is too much."""


class Reply(Protocol):
    """A reply whose body is still to be taken."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it came, packed if it is packed."""


class Server:
    """The connections to one address, such as `https://api.openai.com`. Belongs to one event loop."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._name = parts.netloc
        self._free: list[_Connection] = []
        self._used: set[_Connection] = set()
        self._addresses: Sequence[AddrInfoType] = ()
        self._resolved_at = -RESOLVED_S

    @asynccontextmanager
    async def post(self, path: str, headers: Mapping[str, str], body: bytes) -> AsyncIterator[Reply]:
        """The reply to a POST, once its headers and all or much of its body are there.

        Raises CannotConnectError where nothing was sent, BrokenReplyError, other OSErrors where the connection broke, and
        ValueError for a header that would be two.
        """
        request = self._head(path, headers, len(body)) + body
        connection = self._kept() or await self._connect()
        self._used.add(connection)
        try:
            yield await connection.exchange(request)
        finally:
            # Left before its end, a reply would be taken for the next one's.
            self._used.discard(connection)
            if connection.is_free:
                self._free.append(connection)
            else:
                connection.abort()

    def close(self) -> None:
        for connection in (*self._free, *self._used):
            connection.abort()
        self._free.clear()

    def _head(self, path: str, headers: Mapping[str, str], length: int) -> bytes:
        lines = [f"POST {path} HTTP/1.1", f"Host: {self._name}", f"Content-Length: {length}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if any(map(_NOT_IN_HEADERS.search, lines)):
            raise ValueError("a line break in a header")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def _kept(self) -> _Connection | None:
        """The connection that was used last: the others grow old and are closed."""
        oldest = time.monotonic() - KEPT_S
        while self._free:
            connection = self._free.pop()
            if connection.is_free and connection.free_since > oldest:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            socket = await start_connection([*await self._resolve()], happy_eyeballs_delay=_SECOND_FAMILY_S)
            name = self._host if self._tls else None
            _, connection = await loop.create_connection(_Connection, sock=socket, ssl=self._tls, server_hostname=name)
        except OSError as error:
            self._resolved_at = -RESOLVED_S
            # Of TLS and of names, the kind says more than the number.
            told = isinstance(error, ssl.SSLError | gaierror) or not error.errno
            raise CannotConnectError(*([type(error).__name__] if told else [error.errno, str(error)])) from error
        return connection

    async def _resolve(self) -> Sequence[AddrInfoType]:
        if time.monotonic() - self._resolved_at > RESOLVED_S:
            loop = asyncio.get_running_loop()
            self._addresses = await loop.getaddrinfo(self._host, self._port, type=SOCK_STREAM)
            self._resolved_at = time.monotonic()
        return self._addresses


def plain_url(url: str) -> bool:
    """Whether `Server` can reach this address as it is written: no credentials, nothing to encode."""
    return _PLAIN_URL.fullmatch(url) is not None


class _Connection(asyncio.Protocol):
    """One connection, and the reply that is coming in; httptools calls the methods that begin with `on_`."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._reply: _Reply | None = None
        self._raw_bytes = 0
        self.free_since = 0.0

    @property
    def is_free(self) -> bool:
        """Whether another request may be sent."""
        return self._reply is None and self._transport is not None

    async def exchange(self, request: bytes) -> _Reply:
        if self._transport is None:
            raise CannotConnectError("closed before anything was sent")
        self._reply = reply = _Reply(self._transport)
        self._raw_bytes = 0
        self._transport.write(request)
        await reply.more()
        return reply

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        if reply is None:
            self.abort()  # nobody has asked: it must not be the answer to what is asked next
            return
        self._raw_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(BrokenReplyError(f"no HTTP ({type(error).__name__})"))
            return
        if self._raw_bytes > MAX_RAW_BYTES or (not reply.begun and self._raw_bytes > MAX_HEAD_BYTES):
            self._fail(BrokenReplyError("headers or a body without end"))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        reply = self._reply
        if reply is None:
            return
        if error is None and reply.begun and reply.ends_with_connection:
            self._reply = None
            reply.end()
        else:
            self._fail(error if isinstance(error, OSError) else ConnectionResetError("closed before the reply's end"))

    def on_message_begin(self) -> None:
        if self._reply is None:
            self.abort()  # a second reply behind the first

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reply is not None and not self._reply.begun:
            self._reply.header(name.decode("latin-1").lower(), value.decode("utf-8", "surrogateescape"))

    def on_headers_complete(self) -> None:
        if self._reply is not None:
            self._reply.begin(self._parser.get_status_code())

    def on_body(self, data: bytes) -> None:
        if self._reply is not None:
            self._reply.add(data)

    def on_message_complete(self) -> None:
        reply = self._reply
        if reply is None or not reply.begun:
            return  # 1xx: the reply itself follows
        self._reply = None
        self.free_since = time.monotonic()
        if not self._parser.should_keep_alive():
            self.abort()
        reply.end()

    def _fail(self, error: Exception) -> None:
        reply, self._reply = self._reply, None
        self.abort()
        if reply is not None:
            reply.end(error)


class _Reply:
    """A reply as it comes in. Whoever waits for it is woken once, where it is short."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.begun = False
        """Its headers are there, and it is no 1xx."""
        self._transport = transport
        self._parts: deque[bytes] = deque()
        self._size = 0
        self._paused = False
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def ends_with_connection(self) -> bool:
        return "content-length" not in self.headers and "transfer-encoding" not in self.headers

    async def more(self) -> None:
        """Wait until it has ended or much of its body is there. Raises where it broke."""
        if not self._ended and self._size <= _BUFFER_BYTES:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._error is not None:
            raise self._error

    async def chunks(self) -> AsyncIterator[bytes]:
        while self._parts or not self._ended:
            if not self._parts:
                await self.more()
                continue
            part = self._parts.popleft()
            self._size -= len(part)
            if self._paused and self._size <= _BUFFER_BYTES:
                self._paused = False
                self._transport.resume_reading()
            yield part
        if self._error is not None:
            raise self._error

    def header(self, name: str, value: str) -> None:
        self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value

    def begin(self, status: int) -> None:
        if status < 200:
            self.headers.clear()
            return
        self.status, self.begun = status, True

    def add(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size > _BUFFER_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()
            self._wake()

    def end(self, error: Exception | None = None) -> None:
        self._ended, self._error = True, error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
