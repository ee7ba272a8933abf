"""A lake that counts what is read of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from qbawa.storage.lake import BATCH_ROWS, Lake


class CountedLake(Lake):
    """Notes how many rows came back at once, by table; whatever is asked of it, it answers as a lake."""

    def __init__(self, uri: object) -> None:
        super().__init__(str(uri))
        self.most: dict[str, int] = {}

    def read(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        blocks: Sequence[str] | None = None,
        keep: pl.Expr | None = None,
    ) -> pl.DataFrame:
        return self._note(table, super().read(table, columns, blocks, keep))

    def batches(self, table: str, columns: Sequence[str], rows: int = BATCH_ROWS) -> Iterator[pl.DataFrame]:
        for part in super().batches(table, columns, rows):
            yield self._note(table, part)

    def _note(self, table: str, rows: pl.DataFrame) -> pl.DataFrame:
        self.most[table] = max(self.most.get(table, 0), rows.height)
        return rows
