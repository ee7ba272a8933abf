"""Where applications send their OpenTelemetry traces: an ASGI application that keeps them in the journal.

A request is answered once its spans are on disk for good. Who may ask is decided around it (`qbawa.cli.launch`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from qbawa.ingest.formats.otlp_wire import (
    CONTENT_TYPES,
    ENCODINGS,
    BadBodyError,
    Encoding,
    Received,
    TooLargeError,
    accepted,
    failed,
    read_request,
    unpacked,
)
from qbawa.storage.journal import JournalWriter

log = logging.getLogger("qbawa.otlp")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

TRACES = "/v1/traces"
PASSED_OVER = ("/v1/metrics", "/v1/logs")
"""Sent by the same exporters to the same address; taken and let go, or they would complain for ever."""
MAX_BODY_BYTES = 32 << 20
"""Of a request, packed and unpacked; exporters send a few MiB, collectors take 20."""
MAX_HELD_BYTES = 128 << 20
"""Of all requests under way; further ones are asked to come again."""
BODY_PATIENCE_S = 30.0
TICK_S = 1.0


class _Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class SharedSync:
    """Lines of many requests put on disk together: while one fsync runs, those who come meanwhile wait for the next."""

    def __init__(self, journal: JournalWriter) -> None:
        self._journal = journal
        self._waiting: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._trouble: OSError | None = None

    async def write(self, lines: list[bytes]) -> None:
        """Returns once the lines survive kill -9 and power loss. Raises OSError where the disk refuses."""
        if self._trouble:
            raise self._trouble  # until the disk takes what waits: memory is no place to keep more
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        for line in lines:
            self._journal.append(line)
        on_disk: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(on_disk)
        self._wake.set()
        await on_disk

    async def close(self) -> None:
        """Put on disk what waits, and close the segment."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        await asyncio.to_thread(self._journal.close)

    async def _run(self) -> None:
        while not self._closing or self._waiting:
            # The tick closes a segment that is old enough, and asks a disk that refused again.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), TICK_S)
            self._wake.clear()
            waiting, self._waiting = self._waiting, []
            error: Exception | None = None
            try:
                await asyncio.to_thread(self._journal.sync)
                self._trouble = None
            except OSError as refused:
                if self._trouble is None:
                    log.warning("The journal cannot be written: %s. Spans are refused until it can.", refused)
                error = self._trouble = refused
            except Exception as stumbled:  # whoever waits must be answered, and the next ones served
                log.exception("Putting spans on disk failed")
                error = stumbled
            for on_disk in waiting:
                if on_disk.done():  # its client has gone
                    continue
                if error is None:
                    on_disk.set_result(None)
                else:
                    on_disk.set_exception(error)


class OtlpEndpoint:
    """The application. `received` and `refused` count spans."""

    def __init__(
        self, journal: JournalWriter, *, max_body: int = MAX_BODY_BYTES, max_held: int = MAX_HELD_BYTES
    ) -> None:
        self.received = self.refused = 0
        self._sync = SharedSync(journal)
        self.max_held, self.held = max_held, 0
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        if scope["type"] != "http":
            return None
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        encoding = ENCODINGS.get(headers.get(b"content-type", "").partition(";")[0].strip().lower())
        try:
            status, body = 200, await self._answer(scope, receive, headers, encoding)
        except _Refusal as refusal:
            status, body = refusal.status, failed(str(refusal), encoding)
        except ConnectionError:
            return None
        except Exception:
            log.exception("A request for %s failed", scope["path"][:100])
            status, body = 500, failed("This request could not be dealt with; the server's log says why.", encoding)
        answer = [(b"content-type", CONTENT_TYPES[encoding or "json"]), (b"x-content-type-options", b"nosniff")]
        if status == 503:
            answer.append((b"retry-after", b"1"))
        if status in (405, 408, 413, 415, 503):
            answer.append((b"connection", b"close"))  # its body may not have been read
        await send({"type": "http.response.start", "status": status, "headers": answer})
        await send({"type": "http.response.body", "body": body})
        return None

    async def _answer(
        self, scope: Scope, receive: Receive, headers: dict[bytes, str], encoding: Encoding | None
    ) -> bytes:
        path = scope["path"].rstrip("/")
        if scope["method"] in ("GET", "HEAD") and path == "":
            return failed("OpenTelemetry traces are received here: OTEL_EXPORTER_OTLP_ENDPOINT=this address", None)
        if path not in (TRACES, *PASSED_OVER):
            raise _Refusal(404, f"Traces are received at {TRACES}.")
        if scope["method"] != "POST":
            raise _Refusal(405, "Spans are sent by POST.")
        if encoding is None:
            raise _Refusal(415, f"Content-Type is one of {', '.join(ENCODINGS)}.")
        packing = headers.get(b"content-encoding", "identity").strip().lower()
        if packing not in ("identity", "", "gzip"):
            raise _Refusal(415, "Content-Encoding is gzip, or there is none.")
        hold = _Hold(self)
        try:
            body = await self._read(receive, headers, hold)
            if path in PASSED_OVER:
                return accepted(Received(), encoding)
            if packing == "gzip":
                body = unpacked(body, self._max_body)
                hold.more(len(body))
            received = read_request(body, encoding)
            del body
            if received.lines:
                await self._sync.write(received.lines)
        except BadBodyError as error:
            raise _Refusal(400, str(error)[:300]) from None
        except TooLargeError:
            raise self._too_large() from None
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise
            raise _Refusal(503, f"The journal cannot be written: {error.strerror or error}.") from None
        finally:
            hold.release()
        self.received += len(received.lines)
        self.refused += received.refused
        return accepted(received, encoding)

    def _too_large(self) -> _Refusal:
        return _Refusal(
            413, f"A request has at most {self._max_body >> 20} MiB, unpacked too; export fewer spans at once."
        )

    async def _read(self, receive: Receive, headers: dict[bytes, str], hold: "_Hold") -> bytes:
        """The body. Raises ConnectionError where the client goes away."""
        length = headers.get(b"content-length", "")
        if length.isdigit() and int(length[:20]) > self._max_body:
            raise self._too_large()
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(BODY_PATIENCE_S):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionError
                    parts.append(message.get("body", b""))
                    hold.more(len(parts[-1]))
                    if hold.size > self._max_body:
                        raise self._too_large()
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise _Refusal(408, f"The body did not come within {BODY_PATIENCE_S:.0f} s.") from None

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await self._sync.close()
        except OSError as error:
            log.warning("The journal cannot be written: %s. Its segment is closed by whoever reads it next.", error)
        await send({"type": "lifespan.shutdown.complete"})


class _Hold:
    """Bytes that one request keeps in memory, counted with those of all others."""

    def __init__(self, endpoint: OtlpEndpoint) -> None:
        self.size, self._endpoint = 0, endpoint

    def more(self, size: int) -> None:
        self.size += size
        self._endpoint.held += size
        if self._endpoint.held > self._endpoint.max_held:
            raise _Refusal(503, "Too much is being received at once; try again.")

    def release(self) -> None:
        self._endpoint.held -= self.size
