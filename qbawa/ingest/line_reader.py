"""Lines of a file, numbered, in bounded memory even where a line is not."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from qbawa.ingest.journal_lines import MAX_LINE_BYTES

_SKIP_BYTES = 1 << 20


def open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked where its name ends in .gz."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb", buffering=1 << 20)


def numbered_lines(path: Path, limit: int = MAX_LINE_BYTES, *, whole: bool = False) -> Iterator[tuple[int, bytes]]:
    """Line numbers from 1 and lines without their line ends; of a line beyond `limit`, its first `limit` + 1 bytes.

    Where only `whole` lines count, a last one without a line end is left out.
    """
    with open_bytes(path) as file:
        number = 0
        while line := file.readline(limit + 2):
            number += 1
            if line.endswith(b"\n"):
                line = line[:-2] if line.endswith(b"\r\n") else line[:-1]
            elif len(line) > limit + 1:
                line = line[: limit + 1]
                while (more := file.readline(_SKIP_BYTES)) and not more.endswith(b"\n"):
                    pass
                if whole and not more:
                    return
            elif whole:
                return
            yield number, line
