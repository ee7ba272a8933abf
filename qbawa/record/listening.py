"""Replies that an application reads piece by piece, noted as it reads them."""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from qbawa.record.context import Call
from qbawa.record.exceptions import Failure
from qbawa.record.llm_call import end_call

_EVENT = re.compile(rb".*?(?:\r?\n\r?\n|\Z)", re.DOTALL)


def by_event(piece: bytes) -> list[bytes]:
    """The same bytes of a stream, cut after each event, so that no more is noted than the application has read."""
    if piece.find(b"\n\n") == len(piece) - 2:
        return [piece]  # one whole event, as most are
    return [part for part in _EVENT.findall(piece) if part]


def finish(call: Call, error: BaseException | None = None) -> None:
    """End a call from what was heard. Never raises; the first end counts."""
    end_call(call, failure=Failure(error) if error is not None else None)


class Ear:
    """Notes pieces into the call's exchange until they end, break off, or are closed; then the call has ended.

    apart cuts a piece into those that the application gets one by one; kept makes of each what is noted.
    """

    def __init__(
        self,
        call: Call,
        apart: Callable[[Any], Iterable[Any]] = lambda piece: (piece,),
        kept: Callable[[Any], Any] = lambda piece: piece,
    ) -> None:
        self._call, self._apart, self._kept = call, apart, kept
        self._heard: list[Any] = []
        self._reading = False  # a response closes itself where reading fails, before the reason is known here
        if call.exchange is not None:
            call.exchange.heard = self._heard
        call.otherwise = functools.partial(finish, call)

    def listening(self, pieces: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """`pieces`, a function that gives an iterator, with an ear to what it yields."""

        @functools.wraps(pieces)
        def listened(*args: Any, **kwargs: Any) -> Iterator[Any]:
            self._reading = True
            try:
                for piece in pieces(*args, **kwargs):
                    self._reading = False
                    for part in self._apart(piece):
                        self._heard.append(self._kept(part))
                        yield part
                    self._reading = True
            except GeneratorExit:
                raise
            except BaseException as error:
                finish(self._call, error)
                raise
            finally:
                finish(self._call)

        return listened

    def alistening(self, pieces: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
        @functools.wraps(pieces)
        async def listened(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            self._reading = True
            try:
                async for piece in pieces(*args, **kwargs):
                    self._reading = False
                    for part in self._apart(piece):
                        self._heard.append(self._kept(part))
                        yield part
                    self._reading = True
            except GeneratorExit:
                raise
            except BaseException as error:
                finish(self._call, error)
                raise
            finally:
                finish(self._call)

        return listened

    def closing(self, close: Callable[[], None]) -> Callable[[], None]:
        """`close`, by which the application leaves the rest unread."""

        @functools.wraps(close)
        def closed() -> None:
            try:
                close()
            finally:
                if not self._reading:
                    finish(self._call)

        return closed

    def aclosing(self, close: Callable[[], Any]) -> Callable[[], Any]:
        @functools.wraps(close)
        async def closed() -> None:
            try:
                await close()
            finally:
                if not self._reading:
                    finish(self._call)

        return closed
