"""The lake's tables as Delta tables. The only module that imports deltalake.

A write replaces whole *blocks*, in one atomic commit; a writer that loses a race reads again, merges again and commits
again. So a rerun is idempotent and nothing is lost or doubled by a crash, which
tests/storage/test_lake.py tries with kill -9 and concurrent writers.
"""

import contextlib
import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
from deltalake import CommitProperties, DeltaTable, Schema, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError

from qbawa.errors import InputError, LakeConflictError
from qbawa.storage.block_bounds import FileBounds, bounds_of, files_below
from qbawa.storage.block_names import BlockNames
from qbawa.storage.frames import BLOCK, schema_of
from qbawa.storage.known_keys import KnownKeys
from qbawa.storage.sql import sql_literal
from qbawa.storage.tables import TABLES, table_named
from qbawa.storage.versions import files_added, newest_commit
from qbawa.storage.views import view_sql

MAX_TRIES = 50
MOST_FILES = 64
"""Commits that a table may have behind it before its small files are joined; each leaves one."""
SMALL_BYTES = 1 << 20
"""Files of this size are left to `maintain`: to join them would cost a commit more than it spares those who read them."""
JOINED_BYTES = 64 << 20
"""Files of this size are not joined any more."""
MOST_UNJOINED = 512
"""Files below JOINED_BYTES that a table may have before a commit joins them after all, where nobody maintains the lake."""
BATCH_ROWS = 5_000
"""Rows that are held at once where a table is looked through."""
MOST_COMMITS = 1_000
"""Behind a table's newest version, of which the log is read."""
LOG_DAYS = 1
"""How long the log keeps what earlier versions were: as long as their files are kept."""
# What delta-rs (and, of `?`, DuckDB) takes for part of an address: they panic, or write elsewhere.
_NOT_IN_FOLDERS = re.compile(r"[\[\]\\^|?\x00-\x1f\x7f]|%[0-9A-Fa-f]{2}")
_LOG_RETENTION = "delta.logRetentionDuration"
_FORMAT, _FORMAT_KEY = "_format", "qbawa.format"
_KNOWN = "_known"
_WRITER = WriterProperties(compression="ZSTD")


@dataclass(frozen=True, slots=True)
class _Seen:
    """A table that was opened, and the commit that it was seen at."""

    delta: DeltaTable
    commit: Path
    mark: tuple[int, int, int] | None


def _mark(commit: Path) -> tuple[int, int, int] | None:
    """What tells a file from any other that takes its place; None where there is none."""
    try:
        found = commit.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


class Lake:
    """Reads and writes the tables of `qbawa.storage.tables` under one folder or object-store prefix.

    `uri` is a path or an `s3://…` (or other object store) address, for which `storage_options` go to the store's client.
    Raises InputError for a path that Delta tables or the catalog cannot have.
    """

    def __init__(self, uri: str | Path, storage_options: Mapping[str, str] | None = None) -> None:
        self.uri = str(uri).rstrip("/") if "://" in str(uri) else str(Path(uri).absolute())
        strange = _NOT_IN_FOLDERS.search(self.uri)
        if strange and not self._is_remote:
            raise InputError(
                f"The lake cannot lie in {self.uri!r}: Delta and DuckDB work in no folder with {strange.group()!r} in its name. "
                "Move the home (QBAWA_HOME) or set lake.uri."
            )
        self.storage_options = dict(storage_options or {})
        self._ready: set[str] = set()
        # Each thread has its own: a table that another one's commit moves on between reading and writing loses rows.
        self._seen = threading.local()
        self._compact_at: dict[tuple[str, int], int] = {}
        self._names: dict[str, BlockNames] = {}
        self._keys: dict[tuple[str, ...], KnownKeys] = {}
        self.format_when_made: int | None = None
        """What to note as the lake's format before its first table is made."""

    def replace(self, table: str, blocks: Sequence[str], rows: pl.DataFrame) -> bool:
        """Make these blocks hold exactly these rows. False where they did already, and nothing was written."""
        stray = set(rows[BLOCK].unique()) - set(blocks)
        if stray:
            raise InputError(
                f"Rows for table '{table}' belong to blocks {sorted(stray)[:3]}, not among those replaced."
            )
        return self._commit(table, list(blocks), lambda _: rows)

    def merge(self, table: str, rows: pl.DataFrame, key: Sequence[str] | None = None) -> bool:
        """Within each block that `rows` name, the new row wins by key and all other rows stay. False where nothing changed.

        `key` defaults to the table's own; among the new rows the last of a key wins.
        """
        by = list(key or table_named(table).key)
        new = _conform(table, rows).unique([BLOCK, *by], keep="last", maintain_order=True)
        if new.is_empty():
            return False

        def merged(old: pl.DataFrame) -> pl.DataFrame:
            kept = old.join(new.select(BLOCK, *by), on=[BLOCK, *by], how="anti", nulls_equal=True)
            return pl.concat([kept, new])

        return self._commit(table, new[BLOCK].unique().to_list(), merged)

    def delete(self, table: str, where: str) -> int:
        """Remove the rows that an SQL condition selects; returns how many went."""
        metrics = self._open(table).delete(where)
        return int(metrics.get("num_deleted_rows") or 0)

    def read(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        blocks: Sequence[str] | None = None,
        keep: pl.Expr | None = None,
    ) -> pl.DataFrame:
        """The table's rows at its newest version, all columns and `block_id` unless told otherwise.

        `keep` is a condition, pushed down to the files.
        """
        rows = self.scan(table, blocks)
        if keep is not None:
            rows = rows.filter(keep)
        return (rows.select(columns) if columns is not None else rows).collect()

    def scan(self, table: str, blocks: Sequence[str] | None = None) -> pl.LazyFrame:
        """The table's rows at its newest version, not read yet: for those who want less of them than `read` can say."""
        delta = self._open(table)
        return self._scan(delta, table) if blocks is None else self._scan_blocks(delta, table, blocks)

    def batches(self, table: str, columns: Sequence[str], rows: int = BATCH_ROWS) -> Iterator[pl.DataFrame]:
        """The table's rows at its newest version, so many at a time, as those need them who look at every text.

        What is held at once does not grow with the table, nor with its files.
        """
        for file in self.files(table):
            yield from self._batches(table, file, columns, rows)

    def by_file(self, table: str, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """The table's rows at its newest version, a file at a time, for columns of which a file's can be held: faster."""
        for file in self.files(table):
            yield self._scan_files(table, [file]).select(columns).collect()

    def _batches(self, table: str, file: str, columns: Sequence[str], rows: int) -> Iterator[pl.DataFrame]:
        schema = pl.Schema({name: schema_of(table)[name] for name in columns})
        if self._is_remote:
            yield from self._scan_files(table, [file]).select(columns).collect().iter_slices(rows)
            return
        # Slow to import, and few need it. Polars reads a row group whole, often the whole file.
        import pyarrow.parquet as pq

        with pq.ParquetFile(file, pre_buffer=False) as parquet:
            held = [name for name in columns if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(batch_size=rows, columns=held, use_threads=False):
                part = pl.DataFrame(batch)
                # Columns that a newer qbawa added are absent from older files.
                absent = [pl.lit(None, dtype=schema[name]).alias(name) for name in columns if name not in held]
                yield part.with_columns(absent).select(columns).cast(schema)

    def blocks(self, table: str, of: str | None = None) -> set[str]:
        """Names of the blocks that hold at least one row; with `of` the block of this name and those below it (`of/…`)."""
        if of is not None:
            end = f"{of}0"  # after all that begin with `of/`
            files = self._files(self._open(table), table, lambda file: file.may_hold_between(of, end))
            names = self._scan_files(table, files).select(pl.col(BLOCK).unique()).collect()[BLOCK]
            return {name for name in names if name == of or name.startswith(f"{of}/")}
        if table not in self._names:
            self._names[table] = BlockNames(self._known(table))
        return self._names[table].of(self.files(table), self._blocks_of)

    def may_hold(self, table: str, keys: pl.DataFrame) -> pl.DataFrame:
        """Those of these keys, distinct values of some columns, that the table may hold at its newest version.

        All that it holds are among them. Only files that came since the last time are read, by this process or another.
        """
        of = (table, *keys.columns)
        if of not in self._keys:
            folder = self._known(table)
            self._keys[of] = KnownKeys(folder and folder / "-".join(keys.columns), keys.columns)
        return self._keys[of].among(
            keys, self.files(table), lambda files: self._scan_files(table, list(files)).select(keys.columns).collect()
        )

    def _blocks_of(self, files: Sequence[str], among: Sequence[str] | None = None) -> pl.DataFrame:
        """Each `file` with each `block` that it holds, or that it holds among some."""
        options = self.storage_options or None
        rows = pl.scan_parquet(list(files), storage_options=options, glob=False, include_file_paths="__file")
        if among is not None:
            rows = rows.filter(pl.col(BLOCK).is_in(list(among)))
        return rows.select(file="__file", block=BLOCK).unique().collect()

    def _known(self, table: str) -> Path | None:
        """Where lies what is known of a table's files, on this machine; nowhere of a lake in an object store."""
        return None if self._is_remote else Path(self.uri, _KNOWN, table)

    def blocks_since(self, table: str, state: tuple[str, int]) -> set[str] | None:
        """Names of the blocks that may have come, or come back, after this `state`; among them are all that did.

        Reads only files that came after it. None where the log does not say which: then every block may have.
        """
        known, version = state
        table_id, newest = self.state(table)
        if self._is_remote or table_id != known or not newest - MOST_COMMITS <= version <= newest:
            return None
        added = files_added(Path(self.uri, table), version, newest)
        if not added:
            return None if added is None else set()
        files = [Path(self.uri, table, name) for name in added]
        if not all(file.exists() for file in files):
            return None
        return set(pl.scan_parquet(files, glob=False).select(pl.col(BLOCK).unique()).collect()[BLOCK])

    def files(self, table: str) -> list[str]:
        """Addresses of the live Parquet files."""
        return self._files(self._open(table), table)

    def files_alike(self, table: str) -> bool:
        """Whether each live file surely has all columns of the table, by what the log says of each."""
        log = _log(self._open(table))
        # Of lists the log says nothing.
        return all(
            (counts := f"null_count.{name}") in log.columns and not log[counts].has_nulls() for name in schema_of(table)
        )

    def versions(self) -> dict[str, int]:
        """Version of every table; grows by one with each commit."""
        return {
            name: self._newest_commit(name) if name in self._ready else self._open(name).version() for name in TABLES
        }

    def state(self, table: str) -> tuple[str, int]:
        """Which table this is, whatever its address, and its version: one that was made anew has another id."""
        delta = self._open(table)
        return str(delta.metadata().id), delta.version()

    def query(self, sql: str) -> pl.DataFrame:
        """The answer of DuckDB to `sql`, with every table as a view at its newest version."""
        with self._views(sql) as connection:
            return pl.DataFrame(connection.sql(sql).to_arrow_table())

    def ask(self, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """As `query`, for small answers: names of the columns, and rows. Without pyarrow and numpy, slow to import."""
        with self._views(sql) as connection:
            answer = connection.execute(sql)
            return [column[0] for column in answer.description or []], answer.fetchall()

    @contextlib.contextmanager
    def _views(self, sql: str) -> Iterator[duckdb.DuckDBPyConnection]:
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            for name in TABLES:
                # A view opens the files of its table.
                if name in sql.lower():
                    connection.execute(view_sql(name, self.files(name)))
            yield connection

    def maintain(self, *, keep: timedelta = timedelta(hours=24)) -> dict[str, dict[str, int]]:
        """Compact small files and delete those that no version younger than `keep` needs; says what was done, by table.

        What writers that were killed left behind goes too, once it is as old.
        """
        done = {}
        for name in TABLES:
            table = self._open(name)
            compacted = table.optimize.compact(target_size=JOINED_BYTES, writer_properties=_WRITER)
            _shorten_log(table)
            gone = table.vacuum(_hours(keep), dry_run=False, enforce_retention_duration=False, full=True)
            done[name] = {
                "files_before": int(compacted["numFilesRemoved"]),
                "files_after": int(compacted["numFilesAdded"]),
                "files_deleted": len(gone),
            }
        return done

    def format(self) -> int | None:
        """Number of the last migration that the lake has been through, 0 as 0.1.0 left it; None where it has no table yet."""
        options = self.storage_options or None
        if self._is_there(_FORMAT):
            table = DeltaTable(f"{self.uri}/{_FORMAT}", storage_options=options)
            return int(table.metadata().configuration.get(_FORMAT_KEY, 0))
        return 0 if any(map(self._is_there, TABLES)) else None

    def note_format(self, number: int) -> None:
        """Write down that the lake has been through the migration of this number. A number never goes back."""
        if not self._is_remote:
            Path(self.uri, _FORMAT).mkdir(parents=True, exist_ok=True)
        options = self.storage_options or None
        schema = pl.DataFrame(schema={"note": pl.String}).to_arrow().schema
        note = "A property of this table is the lake's format; docs/lake.md says more. It has no rows."
        table = DeltaTable.create(
            f"{self.uri}/{_FORMAT}", schema, mode="ignore", description=note, storage_options=options
        )
        for _ in range(MAX_TRIES):
            if int(table.metadata().configuration.get(_FORMAT_KEY, 0)) >= number:
                return
            try:
                table.alter.set_table_properties({_FORMAT_KEY: str(number)}, raise_if_not_exists=False)
                return
            except CommitFailedError:  # another process is at it
                table.update_incremental()

    def purge(self, table: str, *, alone: bool = False) -> int:
        """Delete every file of a table that its newest version does not need; returns how many. Ends time travel.

        The log of earlier versions goes too, since its statistics hold the least and the greatest text of each column, and
        its commits the conditions of deletions. Files that belong to no version yet stay while they are younger than an
        hour, as somebody may be writing them; not so where the caller is `alone` with a lake on disk.
        """
        delta = self._open(table)
        gone = delta.vacuum(0, dry_run=False, enforce_retention_duration=False)
        gone += delta.vacuum(1, dry_run=False, enforce_retention_duration=False, full=True)
        delta.alter.set_table_properties(
            {_LOG_RETENTION: "interval 0 seconds", "delta.enableExpiredLogCleanup": "true"}
        )
        delta = self._open(table)
        delta.create_checkpoint()
        delta.cleanup_metadata()
        self._forget_known(table)
        return len(gone) + (self._drop_strays(delta, table) if alone and not self._is_remote else 0)

    def _forget_known(self, table: str) -> None:
        """Hashes of keys that are gone, and names of blocks, tell of them too. What is left is read again."""
        self._names.pop(table, None)
        for of in [of for of in self._keys if of[0] == table]:
            del self._keys[of]
        if (folder := self._known(table)) is not None and folder.is_dir():
            shutil.rmtree(folder)

    def _drop_strays(self, delta: DeltaTable, table: str) -> int:
        """Delete what is neither live nor part of the newest version's log, such as the drafts of a writer that was killed.

        The checkpoint that was just made holds all that the log before it said.
        """
        newest = f"{delta.version():020}"
        live = {Path(path).name for path in self._files(delta, table)}
        stray = [
            path
            for path in Path(self.uri, table).rglob("*")
            if path.is_file()
            and not (
                path.name in live
                or (
                    path.parent.name == "_delta_log"
                    and (path.name.startswith(newest) or path.name == "_last_checkpoint")
                )
            )
        ]
        for path in stray:
            path.unlink(missing_ok=True)
        return len(stray)

    def _commit(self, table: str, blocks: list[str], make: Callable[[pl.DataFrame], pl.DataFrame]) -> bool:
        if not blocks:
            return False
        predicate = f"{BLOCK} IN ({', '.join(sql_literal(block) for block in sorted(blocks))})"
        for attempt in range(MAX_TRIES):
            delta = self._open(table)
            old = self._scan_blocks(delta, table, blocks).collect()
            rows = _conform(table, make(old))
            if _same(old, rows):
                return False
            try:
                # New blocks are added: overwriting looks into the files for rows to replace, and more the more there are.
                replacing: dict[str, Any] = {"mode": "overwrite", "predicate": predicate}
                write_deltalake(
                    delta,
                    rows,
                    **({"mode": "append"} if old.is_empty() else replacing),
                    writer_properties=_WRITER,
                    # Our own retry re-reads; a blind retry inside delta-rs would keep a merge that is out of date.
                    commit_properties=CommitProperties(max_commit_retries=0),
                )
                self._compact_if_many(table, delta)
                return True
            except CommitFailedError:
                time.sleep(random.uniform(0, min(0.02 * 2**attempt, 1.0)))
        raise LakeConflictError(
            f"Table '{table}' was changed by others {MAX_TRIES} times while {len(blocks)} of its blocks were written."
        )

    def _compact_if_many(self, table: str, delta: DeltaTable) -> None:
        """Join small files where commits have left many: reading a table opens them all. The old ones stay for readers."""
        if len(delta.file_uris()) < MOST_FILES:
            return
        for size, most in ((SMALL_BYTES, MOST_FILES), (JOINED_BYTES, MOST_UNJOINED)):
            if files_below(_log(delta), size) < self._compact_at.get((table, size), most):
                continue
            with contextlib.suppress(CommitFailedError):  # another writer was faster; the next commit tries again
                delta.optimize.compact(target_size=size, writer_properties=_WRITER)
            delta = self._open(table)
            self._compact_at[table, size] = files_below(_log(delta), size) + most

    def _open(self, table: str) -> DeltaTable:
        uri = f"{self.uri}/{table_named(table).name}"
        options = self.storage_options or None
        if table not in self._ready:
            if not self._is_there(table):
                if not self._is_remote:
                    Path(uri).mkdir(parents=True, exist_ok=True)
                if self.format_when_made is not None:
                    self.note_format(self.format_when_made)
                    self.format_when_made = None
                schema = schema_of(table).to_frame().to_arrow().schema
                try:
                    DeltaTable.create(
                        uri, schema, mode="ignore", description=table_named(table).rows, storage_options=options
                    )
                except CommitFailedError:
                    if not self._is_there(table):  # else another one has made it at the same moment
                        raise
            _add_new_columns(self._newest(table, uri), table)
            self._ready.add(table)
        return self._newest(table, uri)

    def _newest(self, table: str, uri: str) -> DeltaTable:
        """The table at its newest version; one that this thread has opened before reads what was committed since.

        That takes a tenth of opening it, which reads all that the log says. A table is opened again where the commit
        that it was seen at is not there any more: it was made anew, or its log was shortened.
        """
        if self._is_remote:
            return DeltaTable(uri, storage_options=self.storage_options or None)
        seen: dict[str, _Seen] = self._seen.__dict__
        before, log = seen.get(table), Path(uri, "_delta_log")
        if before is not None and before.mark is not None and before.mark == _mark(before.commit):
            delta = before.delta
            # Looked for by name: delta-rs lists the log, which takes as long as there are commits in it.
            if (log / _commit_name(delta.version() + 1)).exists():
                delta.update_incremental()
        else:
            delta = DeltaTable(uri)
        commit = log / _commit_name(delta.version())
        if before is None or before.delta is not delta or before.commit != commit:
            seen[table] = _Seen(delta, commit, _mark(commit))
        return delta

    def _is_there(self, table: str) -> bool:
        if not self._is_remote:
            return newest_commit(Path(self.uri, table)) is not None
        return bool(DeltaTable.is_deltatable(f"{self.uri}/{table}", self.storage_options or None))

    def _newest_commit(self, table: str) -> int:
        """A table's version. On disk by the names in its log, a hundredth of the cost of opening it."""
        newest = None if self._is_remote else newest_commit(Path(self.uri, table))
        return self._open(table).version() if newest is None else newest

    @property
    def _is_remote(self) -> bool:
        return "://" in self.uri

    def _files(self, delta: DeltaTable, table: str, where: Callable[[FileBounds], bool] | None = None) -> list[str]:
        uris = delta.file_uris()
        if where is not None:
            names = {file.name for file in bounds_of(_log(delta)) if where(file)}
            uris = [uri for uri in uris if uri.rsplit("/", 1)[1] in names]
        if self._is_remote:
            return uris
        # delta-rs writes the folder as in a URL (`my%20lake`); the files lie directly in it, under plain names.
        return [f"{self.uri}/{table}/{uri.rsplit('/', 1)[1]}" for uri in uris]

    def _scan(self, delta: DeltaTable, table: str) -> pl.LazyFrame:
        return self._scan_files(table, self._files(delta, table))

    def _scan_blocks(self, delta: DeltaTable, table: str, blocks: Sequence[str]) -> pl.LazyFrame:
        """The rows of some blocks, out of the files that hold them."""
        wanted = sorted(blocks)
        files = self._files(delta, table, lambda file: file.may_hold(wanted))
        if files:
            # Names alone first: of a file that may hold a block Polars reads all columns, to find no row in most.
            held = {file.rsplit("/", 1)[-1] for file in self._blocks_of(files, wanted)["file"]}
            files = [file for file in files if file.rsplit("/", 1)[-1] in held]
        return self._scan_files(table, files).filter(pl.col(BLOCK).is_in(wanted))

    def _scan_files(self, table: str, files: list[str]) -> pl.LazyFrame:
        schema = schema_of(table)
        if not files:
            return schema.to_frame().lazy()
        # Columns that a newer qbawa added are absent from older files.
        return pl.scan_parquet(
            files, storage_options=self.storage_options or None, schema=schema, missing_columns="insert", glob=False
        )


class DraftLake(Lake):
    """A lake as it would be: shows what another one holds, keeps in memory what is written to it, and touches no file.

    What is about files (`files`, `batches`, `versions`, `query`, `delete`, `maintain`, `purge`) it cannot do.
    """

    def __init__(self, base: Lake) -> None:
        super().__init__(base.uri, base.storage_options)
        self._drafts: dict[str, pl.DataFrame] = {}
        self._replaced: dict[str, set[str]] = {name: set() for name in TABLES}

    def scan(self, table: str, blocks: Sequence[str] | None = None) -> pl.LazyFrame:
        rows = self._rows(table)
        return rows if blocks is None else rows.filter(pl.col(BLOCK).is_in(list(blocks)))

    def blocks(self, table: str, of: str | None = None) -> set[str]:
        names = set(self.read(table, [BLOCK])[BLOCK].unique())
        return names if of is None else {name for name in names if name == of or name.startswith(f"{of}/")}

    def may_hold(self, table: str, keys: pl.DataFrame) -> pl.DataFrame:
        return keys

    def _rows(self, table: str) -> pl.LazyFrame:
        delta = self._held(table)
        held = self._scan(delta, table) if delta is not None else schema_of(table).to_frame().lazy()
        if table not in self._drafts:
            return held
        stays = ~pl.col(BLOCK).is_in(list(self._replaced[table]))
        return pl.concat([held.filter(stays), self._drafts[table].lazy()])

    def by_file(self, table: str, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        yield self.scan(table).select(columns).collect()

    def state(self, table: str) -> tuple[str, int]:
        """Of the table as it is without what was written here; ("", -1) where there is none."""
        delta = self._held(table)
        return (str(delta.metadata().id), delta.version()) if delta is not None else ("", -1)

    def blocks_since(self, table: str, state: tuple[str, int]) -> set[str] | None:
        found = super().blocks_since(table, state)
        return None if found is None else found | self._replaced[table]

    def _held(self, table: str) -> DeltaTable | None:
        uri, options = f"{self.uri}/{table_named(table).name}", self.storage_options or None
        return DeltaTable(uri, storage_options=options) if DeltaTable.is_deltatable(uri, options) else None

    def _commit(self, table: str, blocks: list[str], make: Callable[[pl.DataFrame], pl.DataFrame]) -> bool:
        old = self.read(table, blocks=blocks)
        rows = _conform(table, make(old))
        if not blocks or _same(old, rows):
            return False
        others = self._drafts.get(table, rows.clear()).filter(~pl.col(BLOCK).is_in(blocks))
        self._drafts[table] = pl.concat([others, rows])
        self._replaced[table].update(blocks)
        return True

    def _open(self, table: str) -> DeltaTable:
        raise NotImplementedError(f"A draft of table '{table}' lies in memory and has no files.")


def _add_new_columns(delta: DeltaTable, table: str) -> None:
    """Give a table of an older qbawa the columns that have been added since."""
    for _ in range(MAX_TRIES):
        held = {column.name for column in delta.schema().fields}
        # Looked at first: pyarrow, which brings numpy, is slow to import.
        if held.issuperset(schema_of(table)):
            return
        wanted = Schema.from_arrow(schema_of(table).to_frame().to_arrow().schema)
        new = [column for column in wanted.fields if column.name not in held]
        try:
            delta.alter.add_columns(new)
            return
        except CommitFailedError:  # another process is at it
            delta.update_incremental()


def _commit_name(version: int) -> str:
    return f"{version:020}.json"


def _log(delta: DeltaTable) -> pl.DataFrame:
    """What the log says of each live file."""
    return pl.DataFrame(delta.get_add_actions(flatten=True))


def _shorten_log(delta: DeltaTable) -> None:
    """Put the log together in a checkpoint, and delete what is older than LOG_DAYS; a table that was purged keeps nothing."""
    if _LOG_RETENTION not in delta.metadata().configuration:
        delta.alter.set_table_properties({_LOG_RETENTION: f"interval {LOG_DAYS} days"})
        delta.update_incremental()
    delta.create_checkpoint()
    delta.cleanup_metadata()


def _conform(table: str, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows in the table's column order and types; absent columns become null, strange ones are an error."""
    schema = schema_of(table)
    strange = [name for name in rows.columns if name not in schema]
    if strange:
        raise InputError(f"Table '{table}' has no column {strange}. Columns: {', '.join(schema)}.")
    absent = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in schema.items() if name not in rows.columns]
    return rows.with_columns(absent).select([pl.col(name).cast(dtype) for name, dtype in schema.items()])


def _same(old: pl.DataFrame, new: pl.DataFrame) -> bool:
    if old.height != new.height:
        return False
    if old.is_empty():
        return True
    order = [name for name, dtype in old.schema.items() if not isinstance(dtype, pl.List)]
    return old.sort(order, nulls_last=True).equals(new.sort(order, nulls_last=True), null_equal=True)


def _hours(span: timedelta) -> int:
    return int(span.total_seconds() // 3600)
