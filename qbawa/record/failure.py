"""Exceptions as data: type, message and trace, without the frames that would keep the application's objects alive."""

from __future__ import annotations

import linecache

from qbawa.record.snapshot import text_of, type_name

_MAX_FRAMES, _MAX_CAUSES, _MAX_MESSAGE = 50, 4, 10_000


class Failure:
    """An exception, its frames and what it was raised from. The trace becomes text later, in the writer thread."""

    __slots__ = ("type", "message", "_frames", "_cause", "_direct", "_text")

    def __init__(self, error: BaseException, depth: int = 0) -> None:
        self.type = type_name(error)
        self.message = text_of(error)[:_MAX_MESSAGE]
        self._text: str | None = None
        self._frames: list[tuple[str, int, str]] = []
        trace = error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            self._frames.append((code.co_filename, trace.tb_lineno, code.co_qualname))
            trace = trace.tb_next
        if len(self._frames) > _MAX_FRAMES:
            self._frames = self._frames[: _MAX_FRAMES // 2] + self._frames[-_MAX_FRAMES // 2 :]
        self._direct = error.__cause__ is not None
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        self._cause = Failure(cause, depth + 1) if cause is not None and depth < _MAX_CAUSES else None

    @classmethod
    def reported(cls, kind: str, message: str, traceback: str = "") -> Failure:
        """A failure that someone else described."""
        failure = cls.__new__(cls)
        failure.type, failure.message, failure._text = kind, message[:_MAX_MESSAGE], traceback
        return failure

    @property
    def size(self) -> int:
        return 200 + len(self.message) + (len(self._text) if self._text else 200 * len(self._frames))

    def as_dict(self) -> dict[str, str]:
        """`type`, `message` and `traceback`, the latter as Python prints it."""
        return {"type": self.type, "message": self.message, "traceback": self.traceback()}

    def traceback(self) -> str:
        if self._text is not None:
            return self._text
        text = ""
        if self._cause is not None:
            link = "was the direct cause of" if self._direct else "was being handled when this happened:"
            text = f"{self._cause.traceback()}\n(the above {link} the following)\n\n"
        text += "Traceback (most recent call last):\n"
        for file, line, name in self._frames:
            source = linecache.getline(file, line).strip()
            text += f'  File "{file}", line {line}, in {name}\n' + (f"    {source}\n" if source else "")
        return f"{text}{self.type}: {self.message}"
