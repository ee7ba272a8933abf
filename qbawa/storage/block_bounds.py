"""Which files of a table may hold a block, by what the table's log says of each file. Nothing is opened."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from qbawa.storage.frames import BLOCK


@dataclass(frozen=True, slots=True)
class FileBounds:
    """A file's name, and block names that are not after the first and not before the last of its own; None where unknown."""

    name: str
    first: str | None
    last: str | None

    def may_hold(self, blocks: Sequence[str]) -> bool:
        """Whether one of these sorted names may be in the file."""
        at = 0 if self.first is None else bisect.bisect_left(blocks, self.first)
        return at < len(blocks) and (self.last is None or blocks[at] <= self.last)

    def may_hold_between(self, first: str, end: str) -> bool:
        """Whether a name from `first` on, but before `end`, may be in the file."""
        return (self.last is None or first <= self.last) and (self.first is None or self.first < end)


def bounds_of(log: pl.DataFrame) -> list[FileBounds]:
    """The bounds of a table's live files; `log` has a row for each, as deltalake's flattened add actions."""
    names = (path.rsplit("/", 1)[-1] for path in log["path"])
    # Absent where no file has statistics.
    columns = (f"min.{BLOCK}", f"max.{BLOCK}")
    first, last = (log[column] if column in log.columns else [None] * log.height for column in columns)
    return [FileBounds(*row) for row in zip(names, first, last, strict=True)]


def files_below(log: pl.DataFrame, size: int) -> int:
    """How many of the files have fewer bytes."""
    return int((log["size_bytes"] < size).sum())
