"""Who may write in a home: many at a time, or one command alone. Standard library only.

Runs, imports, exports and people who judge hold the home together; `qbawa forget` needs it for itself, since a run that
has already read what is being forgotten would write it back. The kernel lets go of a process that dies, however it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from qbawa.errors import BusyError

LOCK = "in_use.lock"
UNFINISHED = "forgetting.json"
"""What `qbawa forget` notes before it removes anything, and removes last. While it is there nobody else may write."""
_LOOK_S = 0.1


@contextlib.contextmanager
def in_use(root: Path, patience_s: float = 600.0) -> Iterator[None]:
    """Write in a home beside others. Waits while `qbawa forget` is at work.

    Raises BusyError where that lasts longer than `patience_s`, or where one was interrupted and must be finished first.
    """
    with _locked(root, fcntl.LOCK_SH, patience_s) as held:
        if not held:
            raise BusyError(f"`qbawa forget` is at work in {root}. Try again once it has ended.")
        if (root / UNFINISHED).exists():
            raise BusyError(
                f"`qbawa forget` was interrupted in {root}, so what it removes lies there in part. Finish it first: "
                "`qbawa forget --resume`."
            )
        yield


@contextlib.contextmanager
def alone(root: Path, patience_s: float = 5.0) -> Iterator[None]:
    """Write in a home while nobody else does. Raises BusyError where somebody still does after `patience_s`."""
    with _locked(root, fcntl.LOCK_EX, patience_s) as held:
        if not held:
            raise BusyError(
                f"A run, an import, an export or somebody who judges is writing in {root}. Wait until that has ended, or "
                "stop it, then try again."
            )
        yield


@contextlib.contextmanager
def _locked(root: Path, kind: int, patience_s: float) -> Iterator[bool]:
    root.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience_s
    file = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while not (held := _try(file, kind)) and time.monotonic() < until:
            time.sleep(_LOOK_S)
        yield held
    finally:
        os.close(file)


def _try(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A file system without locks: nobody can know who else is there.
        return True
    return True
