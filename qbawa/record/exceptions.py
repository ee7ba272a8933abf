"""Exceptions as data: type, message and trace, without the frames that would keep the application's objects alive."""

from __future__ import annotations

import linecache
import textwrap
from collections import Counter

from qbawa.record.snapshot import text_of, type_name

_MAX_FRAMES, _MAX_DEPTH, _MAX_MESSAGE = 50, 4, 10_000
_MAX_CHILDREN, _MAX_NOTES = 10, 20


class Failure:
    """An exception, its frames, notes, children (of a group) and what it was raised from, by value.

    The trace becomes text later, in the writer thread.
    """

    __slots__ = ("type", "message", "_frames", "_notes", "_cause", "_direct", "_children", "_others", "_text")

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
        notes = error.__dict__.get("__notes__") if hasattr(error, "__dict__") else None
        self._notes = [text_of(note)[:_MAX_MESSAGE] for note in notes[:_MAX_NOTES]] if isinstance(notes, list) else []
        self._direct = error.__cause__ is not None
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        self._cause = Failure(cause, depth + 1) if cause is not None and depth < _MAX_DEPTH else None
        # What several tasks raised: asyncio.TaskGroup, anyio and trio say no more about it themselves than how many.
        children = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
        shown = _MAX_CHILDREN if depth < _MAX_DEPTH else 0
        self._children = [Failure(child, depth + 1) for child in children[:shown]]
        self._others = Counter(type_name(child) for child in children[shown:])

    @classmethod
    def reported(cls, kind: str, message: str, traceback: str = "") -> Failure:
        """A failure that someone else described."""
        failure = cls.__new__(cls)
        failure.type, failure.message, failure._text = kind, message[:_MAX_MESSAGE], traceback
        return failure

    @property
    def size(self) -> int:
        """Roughly, of the row."""
        size = 200 + len(self.message)
        if self._text is not None:
            return size + len(self._text)
        return size + 200 * len(self._frames) + sum(map(len, self._notes)) + sum(child.size for child in self._children)

    def as_dict(self) -> dict[str, str]:
        """`type`, `message` and `traceback`, the latter much as Python prints it."""
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
        text = "\n".join([f"{text}{self.type}: {self.message}", *self._notes])
        total = len(self._children) + self._others.total()
        for number, child in enumerate(self._children, 1):
            text += f"\n  (exception {number} of {total} in this group)\n" + textwrap.indent(child.traceback(), "  | ")
        if self._others:
            counted = ", ".join(f"{count} {kind}" for kind, count in self._others.most_common(_MAX_CHILDREN))
            text += f"\n  (of {total} in this group, not shown: {counted})"
        return text
