"""Names of the blocks that a table's files hold. A Parquet file never changes, so each is looked into once."""

import json
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

import polars as pl

from qbawa.storage.files import write_atomically

_FILE = "blocks.json"
_UNSAVED_FILES = 8
"""From which on it is cheaper to write down what was found than to let the next process look again."""


class BlockNames:
    """Names of blocks by file, kept in `folder` where there is one. They may be lost at any time, and are found again."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / _FILE if folder is not None else None
        self._of: dict[str, list[str]] | None = None
        self._unsaved = 0

    def of(self, files: Collection[str], look: Callable[[Sequence[str]], pl.DataFrame]) -> set[str]:
        """Names of the blocks in these files, addresses of Parquet files.

        `look` gives rows of file and block for some of them, and is asked for those alone that are new.
        """
        known = self._load() if self._of is None else self._of
        new = [file for file in files if _name(file) not in known]
        found: dict[str, list[str]] = {_name(file): [] for file in new}
        for file, block in look(new).iter_rows() if new else ():
            found[_name(file)].append(block)
        # Made anew, not changed: another thread may be going through it.
        known = {name: names for file in files if (names := known.get(name := _name(file))) is not None} | found
        self._of = known
        self._unsaved += len(new)
        if self._unsaved >= _UNSAVED_FILES and self._path is not None:
            # A full or read-only disk must not end what is done here. Of several processes the last one's stays.
            with suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._path, json.dumps(known))
                self._unsaved = 0
        return {block for names in known.values() for block in names}

    def _load(self) -> dict[str, list[str]]:
        if self._path is not None:
            with suppress(OSError, ValueError):
                found = json.loads(self._path.read_bytes())
                if isinstance(found, dict):
                    return found
        return {}


def _name(file: str) -> str:
    return file.rsplit("/", 1)[-1]
