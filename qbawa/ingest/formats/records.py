"""The records of a file: one a line, the elements of one list, or one single object; in bounded memory."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from qbawa.errors import InputError
from qbawa.ingest.journal_lines import MAX_LINE_BYTES, BadLine, read_object
from qbawa.ingest.line_reader import numbered_lines, open_bytes

MAX_DOCUMENT_BYTES = 256 << 20
_READ_CHARS = 1 << 20
_decode_one = json.JSONDecoder().raw_decode


class Record(NamedTuple):
    number: int
    """Line, or place in the list, from 1."""
    raw: bytes
    value: dict[str, Any] | BadLine


def records(path: Path, progress: Callable[[int], None] | None = None) -> Iterator[Record]:
    """Every record of the file, good or bad; blank lines are none. `progress` is told the bytes seen so far."""
    found = _rows(path) if is_parquet(path) else _list(path) if _is_list(path) else _lines_or_document(path)
    seen = 0
    for record in found:
        yield record
        seen += len(record.raw) + 1
        if progress and record.number % 1_000 == 0:
            progress(seen)


def is_parquet(path: Path) -> bool:
    """Whether the file is a table in Parquet."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False


def _rows(path: Path) -> Iterator[Record]:
    """Rows of a table in Parquet; their raw text is what they are as JSON."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(1_000):
                for row in batch.to_pylist():
                    number += 1
                    yield Record(
                        number, json.dumps(row, default=str, ensure_ascii=False).encode("utf-8", "replace"), row
                    )
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is no readable Parquet: {error}") from None


def file_digest(path: Path) -> str:
    """SHA-256 of the file's bytes. Raises InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None


def _is_list(path: Path) -> bool:
    """Whether the file is one list, rather than lines of which the first happens to be one."""
    lines = (line for _, line in numbered_lines(path) if line.strip(b"\xef\xbb\xbf \t\r"))
    first = next(lines, b"").removeprefix(b"\xef\xbb\xbf").lstrip()
    if not first.startswith(b"["):
        return False
    if next(lines, None) is None:
        return True
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return True
    return False


def _lines_or_document(path: Path) -> Iterator[Record]:
    lines = ((number, line.removeprefix(b"\xef\xbb\xbf")) for number, line in numbered_lines(path) if line.strip())
    ahead = list(itertools.islice(lines, 2))
    values = [read_object(line) for _, line in ahead]
    document = None
    if ahead and ahead[0][1].lstrip().startswith(b"{") and all(isinstance(value, BadLine) for value in values):
        document = _document(path)  # perhaps one object, written over many lines
    if document is not None:
        yield document
        return
    for (number, line), value in zip(ahead, values, strict=True):
        yield Record(number, line, value)
    for number, line in lines:
        yield Record(number, line, read_object(line))


def _document(path: Path) -> Record | None:
    """The one object that a file consists of, if it is not too large to be held."""
    with open_bytes(path) as file:
        whole = file.read(MAX_DOCUMENT_BYTES + 1)
    value = _object(whole) if len(whole) <= MAX_DOCUMENT_BYTES else None
    return None if value is None else Record(1, whole, value)


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _list(path: Path) -> Iterator[Record]:
    """Elements of a JSON list, one at a time."""
    with open_bytes(path) as file:
        text = _Text(file.read)
        text.skip(" \t\r\n\ufeff")
        text.take("[")
        number = 0
        while True:
            text.skip(" \t\r\n,")
            if text.take("]"):
                text.skip(" \t\r\n")
                if text.more():
                    yield Record(number + 1, text.rest(), BadLine("malformed", "text after the end of the list"))
                return
            if not text.more():
                yield Record(number + 1, b"", BadLine("truncated", "the list does not end"))
                return
            number += 1
            try:
                element = text.element()
            except (ValueError, RecursionError) as error:
                # Where one element ends cannot be told any more, so nothing after it can be read.
                rest = text.rest()
                what = f"element {number} of the list and all that follows: {error}"
                yield Record(number, rest, BadLine("truncated" if text.ends_within(error) else "malformed", what))
                return
            yield Record(number, element, read_object(element))


class _Text:
    """A text that is read piece by piece while its beginning is consumed."""

    ended = False

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._text = ""
        self._at = 0
        self._left = b""

    def more(self, size: int = _READ_CHARS) -> bool:
        """Whether there is text left, having read some if there was none."""
        if self._at >= len(self._text):
            self._grow(size)
        return self._at < len(self._text)

    def skip(self, characters: str) -> None:
        while self.more() and self._text[self._at] in characters:
            self._at += 1

    def take(self, character: str) -> bool:
        if self.more() and self._text[self._at] == character:
            self._at += 1
            return True
        return False

    def element(self) -> bytes:
        """The text of the next JSON value. Raises ValueError where there is none."""
        size = _READ_CHARS
        while True:
            try:
                _, end = _decode_one(self._text, self._at)
                # A number at the very end of what was read may go on.
                if end < len(self._text) or self.ended:
                    element = self._text[self._at : end]
                    self._at = end
                    return element.encode("utf-8", "replace")
            except ValueError:
                if self.ended or len(self._text) - self._at > MAX_LINE_BYTES:
                    raise
            self._grow(size)
            size *= 2

    def ends_within(self, error: Exception) -> bool:
        """Whether it was the end of the text that made the value incomplete."""
        at_end = isinstance(error, json.JSONDecodeError) and (
            error.pos >= len(self._text) or "Unterminated" in error.msg
        )
        return self.ended and at_end

    def rest(self) -> bytes:
        return self._text[self._at : self._at + (64 << 10)].encode("utf-8", "replace")

    def _grow(self, size: int) -> None:
        piece = self._left + self._read(size)
        if len(piece) == len(self._left):
            self.ended = True
        # A character may be cut in two.
        cut = len(piece)
        while not self.ended and cut and len(piece) - cut < 4 and piece[cut - 1] >= 0x80:
            cut -= 1
            if piece[cut] >= 0xC0:
                break
        self._left = piece[cut:]
        self._text = self._text[self._at :] + piece[:cut].decode("utf-8", "replace")
        self._at = 0
