"""Files that several processes share: swapped whole, and locked. Standard library only."""

import contextlib
import fcntl
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

_DRAFT = re.compile(r"\..+\.[0-9a-f]{32}")


def write_atomically(path: Path, content: bytes | str) -> None:
    """Make `path` hold this content. Readers, and a machine that stops meanwhile, see the old file or the new one."""
    with atomic_swap(path) as draft, draft.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_swap(path: Path) -> Iterator[Path]:
    """Where to write what takes the place of `path` once the context ends; where it ends with an error, nothing changes."""
    # A dot, so that no glob for files of this kind finds a draft.
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def is_draft(path: Path) -> bool:
    """Whether a file has the name of one that `atomic_swap` was about to swap in; a killed process leaves it."""
    return _DRAFT.fullmatch(path.name) is not None


@contextlib.contextmanager
def file_lock(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[TextIO]:
    """The file, created where it is absent, locked while the context lasts or until the process dies.

    One process at a time holds a lock, or any number of them `shared` ones. Raises BlockingIOError where it is held and
    the caller does not `wait`.
    """
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        try:
            yield file
        finally:
            # By hand: a process forked meanwhile holds the file open, and with it the lock.
            fcntl.flock(file, fcntl.LOCK_UN)
