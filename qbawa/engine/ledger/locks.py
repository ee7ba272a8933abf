"""Who is paying for which call at this moment, across processes; a process that dies lets go of everything.

A claim is a lock on one byte of a file that has no bytes: the byte's place is the call's key. The kernel drops the
locks of a process that dies, however it dies, so there is nothing to expire and nothing to clean up.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from pathlib import Path

FOLDER = "claims"
FILES = 32
"""The kernel walks through all locks of a file to find one; spread over so many files thousands cost little."""


class CallLocks:
    """Claims on calls in one folder. All `CallLocks` of a folder within a process are one and the same."""

    def __init__(self, folder: Path) -> None:
        self._held = _open(folder)

    def try_lock(self, key: str) -> bool:
        """True where this caller now holds the claim; False where someone else does, here or in another process."""
        return self._held.try_lock(key)

    def release(self, key: str) -> None:
        self._held.release(key)


class _LockFiles:
    """POSIX locks belong to the process and vanish when *any* descriptor of the file closes: one for each process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._start()

    def try_lock(self, key: str) -> bool:
        with self._turn:
            if key in self._keys:
                return False
            try:
                fcntl.lockf(self._file(key), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(key))
            except (BlockingIOError, PermissionError):
                return False
            except OSError:
                # A file system without locks: two runs at once may then pay a call twice, one after another never.
                pass
            self._keys.add(key)
            return True

    def release(self, key: str) -> None:
        with self._turn:
            if key in self._keys:
                self._keys.discard(key)
                with contextlib.suppress(OSError):
                    fcntl.lockf(self._file(key), fcntl.LOCK_UN, 1, _place(key))

    def _file(self, key: str) -> int:
        number = int(key[-2:], 16) % FILES
        if number not in self._files:
            path = self._folder / f"{number:02}.lock"
            self._files[number] = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
        return self._files[number]

    def _start(self) -> None:
        self._turn = threading.Lock()
        self._keys: set[str] = set()
        self._files: dict[int, int] = {}

    def after_fork_in_child(self) -> None:
        for file in self._files.values():
            os.close(file)  # drops no lock of the parent: they belong to its process
        self._start()


_open_folders: dict[str, _LockFiles] = {}
_opening = threading.Lock()


def _open(folder: Path) -> _LockFiles:
    path = folder.resolve() / FOLDER
    path.mkdir(parents=True, exist_ok=True)
    with _opening:
        if str(path) not in _open_folders:
            _open_folders[str(path)] = _LockFiles(path)
        return _open_folders[str(path)]


def _place(key: str) -> int:
    return int(key[:15], 16)  # below 2**60, as offsets must be


def _after_fork_in_child() -> None:
    for files in _open_folders.values():
        files.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
