"""Where words still stand: every byte of a home's files, and every text, bytea and json column of a PostgreSQL database."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg2
import pyarrow.parquet as pq
from psycopg2 import sql


def in_files(root: Path, words: Sequence[str]) -> dict[str, set[str]]:
    """By word, the files under `root` that hold it, in whatever form."""
    found: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            for said in _contents(path):
                for word in words:
                    if any(form in said for form in forms(word)):
                        found.setdefault(word, set()).add(str(path.relative_to(root)))
    return found


def in_database(url: str, words: Sequence[str]) -> dict[str, set[str]]:
    """By word, the `table.column`s of all schemas but PostgreSQL's own that hold it; statistics of columns too."""
    found: dict[str, set[str]] = {}
    with (
        psycopg2.connect(url.replace("postgresql+psycopg2", "postgresql")) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(
            "SELECT table_schema, table_name, column_name FROM information_schema.columns JOIN information_schema.tables "
            "USING (table_schema, table_name) WHERE table_type = 'BASE TABLE' AND data_type IN ('text', "
            "'character varying', 'json', 'jsonb', 'bytea') AND table_schema NOT IN ('pg_catalog', 'information_schema')"
        )
        for schema, table, column in cursor.fetchall():
            query = sql.SQL("SELECT {} FROM {}").format(sql.Identifier(column), sql.Identifier(schema, table))
            cursor.execute(query)
            for (value,) in cursor:
                for said in _unpacked(value):
                    for word in words:
                        if any(form in said for form in forms(word)):
                            found.setdefault(word, set()).add(f"{table}.{column}")
        cursor.execute(
            "SELECT tablename || '.' || attname, most_common_vals::text || histogram_bounds::text FROM pg_stats"
        )
        for column, values in cursor:
            for word in words:
                if word in (values or ""):
                    found.setdefault(word, set()).add(f"pg_stats of {column}")
    connection.close()
    return found


def forms(word: str) -> set[bytes]:
    """The word's bytes as they stand plainly, in JSON of either kind, in UTF-16 and in base64 at each of its three places."""
    whole = word.encode()
    packed = {base64.b64encode(b"\0" * k + whole)[k * 8 // 6 + 1 : -4] for k in range(3)}
    return {whole, json.dumps(word)[1:-1].encode(), word.encode("utf-16-le"), *packed}


def _contents(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    yield data
    if data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    if data[:4] == b"PAR1":
        file = pq.ParquetFile(path)
        yield repr([file.metadata.row_group(k).column(c).statistics for k in range(file.num_row_groups)
                    for c in range(file.metadata.num_columns)]).encode()  # fmt: skip
        yield json.dumps(file.read().to_pylist(), default=str, ensure_ascii=False).encode()


def _unpacked(value: object) -> Iterator[bytes]:
    if isinstance(value, memoryview | bytes):
        yield bytes(value)
        try:
            yield zlib.decompress(bytes(value))
        except zlib.error:
            return
    elif value is not None:
        yield (value if isinstance(value, str) else json.dumps(value)).encode()
