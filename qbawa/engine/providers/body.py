"""Bodies of responses, read under one budget of bytes that all calls in flight share.

A server, or twenty of them, must not take all memory: not by long bodies, nor by short ones that unpack to long ones.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator
from types import TracebackType

from qbawa.engine.error_classes import malformed

MAX_BODY_BYTES = 64 << 20
"""A longer body is not an answer."""
SHARED_BYTES = 128 << 20
"""Of all bodies together that are being read; one more may go on beyond, so that they never all wait for each other."""
_STEP_BYTES = 256 << 10  # that are unpacked at once
ACCEPT_ENCODING = "gzip, deflate"


class ByteBudget:
    """Bytes that all bodies under way may take together."""

    def __init__(self, shared_bytes: int = SHARED_BYTES) -> None:
        self.shared_bytes = shared_bytes
        self.taken = 0
        self.peak = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._first: BodyBytes | None = None
        """The one body that need not wait."""

    async def take(self, count: int, body: BodyBytes) -> None:
        while self.taken + count > self.shared_bytes and self._first not in (None, body):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        if self.taken + count > self.shared_bytes:
            self._first = body
        self.taken += count
        self.peak = max(self.peak, self.taken)

    def give_back(self, count: int, body: BodyBytes) -> None:
        self.taken -= count
        if self._first is body:
            self._first = None
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)


class BodyBytes:
    """What one body holds of the budget, until its block is left."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._held = 0

    def __enter__(self) -> BodyBytes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._held:
            self._budget.give_back(self._held, self)

    async def read(self, packed: AsyncIterable[bytes], encoding: str) -> bytes:
        """The unpacked body. Raises TransientError('malformed') for one that is too long or cannot be unpacked."""
        chunks = [chunk async for chunk in self.unpacked(packed, encoding)]
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def unpacked(self, packed: AsyncIterable[bytes], encoding: str) -> AsyncIterator[bytes]:
        """The parts of a body, unpacked. Raises as `read`."""
        unpack = _unpacker(encoding)
        async for chunk in packed:
            if unpack is None:
                await self._take(chunk)
                yield chunk
                continue
            while chunk:
                part = _unpacked(unpack, chunk)
                await self._take(part)
                yield part
                chunk = unpack.unconsumed_tail

    async def _take(self, chunk: bytes) -> None:
        if self._held + len(chunk) > MAX_BODY_BYTES:
            raise malformed(f"a body of more than {MAX_BODY_BYTES >> 20} MiB")
        await self._budget.take(len(chunk), self)
        self._held += len(chunk)


def _unpacker(encoding: str) -> zlib._Decompress | None:
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # either of the two, by its header
    raise malformed(f"a body packed as '{encoding[:40]}', which nobody asked for")


def _unpacked(unpack: zlib._Decompress, chunk: bytes) -> bytes:
    try:
        return unpack.decompress(chunk, _STEP_BYTES)
    except zlib.error as error:
        raise malformed(f"a body that cannot be unpacked: {error}") from None
