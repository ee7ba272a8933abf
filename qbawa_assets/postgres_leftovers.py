"""What PostgreSQL keeps of deleted rows: dead rows in its files, samples of columns, the write-ahead log.

A deleted row stays in the table's file until that is written once more (`VACUUM FULL`), the most frequent values of a column
stand in pg_statistic, and all of it in the log, whose old files PostgreSQL would keep under new names to write over.
The price is one rewrite of Dagster's tables, which nobody can read meanwhile, and 16 MB written for each file of the log.
"""

import re
import time
from collections.abc import Sequence
from typing import Any

from psycopg2 import errors, sql

from qbawa.errors import BusyError

Connection = Any
PATIENCE_S = 60.0
_STILL_SEEN = re.compile(r"\b([1-9]\d*) dead row versions cannot be removed yet")


def remove_leftovers(connection: Connection, tables: Sequence[str], own_server: bool) -> None:
    """Leave nothing of deleted rows in the files of these tables; in a server of our own of all tables, and in its log.

    Of a server of the user's own the log, its replicas and its back-ups are out of reach.
    Raises BusyError where a transaction that is open elsewhere keeps old rows alive.
    """
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '60s'")
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace"
        )
        present = [name for (name,) in cursor.fetchall()]
        try:
            for name in present if own_server else [name for name in present if name in tables]:
                _rewrite(connection, cursor, sql.Identifier(name))
                cursor.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(name)))
            if own_server:
                _rewrite(connection, cursor, sql.SQL("pg_catalog.pg_statistic"))
                _renew_log(cursor)
        except errors.LockNotAvailable:
            raise BusyError(
                "Somebody holds on to Dagster's tables for more than a minute. Close what works on them, then "
                "`qbawa forget --resume`."
            ) from None


def _rewrite(connection: Connection, cursor: Any, table: sql.Composable) -> None:
    until = time.monotonic() + PATIENCE_S
    while True:
        connection.notices.clear()
        cursor.execute(sql.SQL("VACUUM (FULL, VERBOSE) {}").format(table))
        if not any(_STILL_SEEN.search(notice) for notice in connection.notices):
            return
        if time.monotonic() > until:
            raise BusyError(
                "A transaction that is open in PostgreSQL still sees deleted rows, so they cannot be removed from its "
                "files. Close it (or stop `qbawa up`), then `qbawa forget --resume`."
            )
        time.sleep(1)


def _renew_log(cursor: Any) -> None:
    """Go on in new files until all those that are there now are gone."""
    cursor.execute("ALTER SYSTEM SET wal_recycle = off")
    try:
        cursor.execute("SELECT pg_reload_conf()")
        time.sleep(0.5)  # the process that removes old files must have heard of it
        old = set(_log_files(cursor))
        while left := old.intersection(now := _log_files(cursor)):
            # Files that wait under a later name are passed one by one; to switch takes that something was written.
            for _ in range(sum(name >= now[0] for name in left)):
                cursor.execute("SELECT pg_logical_emit_message(false, 'qbawa', 'x')")
                cursor.execute("SELECT pg_switch_wal()")
            cursor.execute("CHECKPOINT")
    finally:
        cursor.execute("ALTER SYSTEM RESET wal_recycle")
        cursor.execute("SELECT pg_reload_conf()")


def _log_files(cursor: Any) -> list[str]:
    """Names of the log's files, in the order in which they are written."""
    cursor.execute(r"SELECT name FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' ORDER BY name")
    return [name for (name,) in cursor.fetchall()]
