"""Removes a request from Dagster's own storage: `python -m qbawa_assets.forget_request PLAN RESULT [--resumed]`.

`qbawa forget` runs it. Dagster's API deletes runs, dynamic partitions and cached states. It has none for the events of
single partitions, nor for what events, ticks and runs quote: that is SQL, and stands in this module alone. It knows the
tables of Dagster 1.13. Everything may be done twice.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psycopg2
from dagster import AssetKey, DagsterInstance
from dagster._serdes import deserialize_value
from psycopg2 import sql
from sqlalchemy.engine import make_url

from qbawa.erasure import read_plan
from qbawa.erasure.quotes import FORGOTTEN, Quotes, strings, without
from qbawa.errors import UserError
from qbawa_assets.partitions import requests
from qbawa_assets.postgres_leftovers import Connection, remove_leftovers

Json = Any
BATCH = 500
TABLES = (
    "event_logs", "asset_keys", "asset_event_tags", "asset_check_executions", "dynamic_partitions", "pending_steps",
    "runs", "run_tags", "bulk_actions", "backfill_tags", "daemon_heartbeats", "kvs", "snapshots", "job_ticks", "jobs",
    "instigators", "asset_daemon_asset_evaluations",
)  # fmt: skip
"""Dagster's tables that can hold what somebody said. In the home's own server every other table is searched too."""
PARTITION_TAGS = ("dagster/partition", "dagster/asset_partition_range")
"""How the names of tags begin that say which partitions a run is about."""
PICTURE = "![picture](data:image"
PICTURES_OF_REQUESTS = ("matrix", "coverage_")
"""Pictures, by the beginning of their label, on which every request has its place."""
_DELETED_WHOLE = (
    "run_tags",
    "backfill_tags",
    "asset_event_tags",
    "bulk_actions",
    "dynamic_partitions",
    "pending_steps",
)
"""Tables whose rows say nothing once their one value is gone."""


def forget_in_dagster(
    instance: DagsterInstance, connection: Connection, request_id: str, quotes: Quotes, ours: bool
) -> Counter[str]:
    """Remove the request from the instance's storage; how many rows were deleted or blackened, by table.

    `ours`: the server belongs to the home alone, so that tables nobody knows are searched too.
    """
    done: Counter[str] = Counter()
    for run_id in _runs_of_partition(connection, request_id):
        # A run of this one partition is about nothing else.
        instance.delete_run(run_id)
        for folder in (run_id, f"storage/{run_id}"):  # what it printed, and what its stages handed to one another
            shutil.rmtree(Path(instance.root_directory, folder), ignore_errors=True)
        done["runs"] += 1
    name = str(requests.name)
    if instance.has_dynamic_partition(name, request_id):
        instance.delete_dynamic_partition(name, request_id)
        done["dynamic_partitions"] += 1
    done["event_logs"] += _delete_events_of_partition(connection, request_id)
    for table in _tables(connection):
        if ours or table.name in TABLES:
            done += _blacken(connection, table, quotes)
    # They list the keys of all partitions; Dagster makes them anew when it needs them.
    keys = [AssetKey.from_db_string(key) for (key,) in _rows(connection, "SELECT asset_key FROM asset_keys")]
    instance.wipe_asset_cached_status([key for key in keys if key is not None])
    return +done


@dataclass(frozen=True, slots=True)
class _Table:
    name: str
    columns: tuple[str, ...]
    """Of text."""
    binary: tuple[str, ...]


def _tables(connection: Connection) -> list[_Table]:
    """Tables with a numeric id in Dagster's schema."""
    found: dict[str, list[tuple[str, str]]] = {}
    for table, column, kind in _rows(
        connection,
        "SELECT table_name, column_name, data_type FROM information_schema.columns JOIN information_schema.tables "
        "USING (table_schema, table_name) WHERE table_schema = current_schema() AND table_type = 'BASE TABLE' ORDER BY 1, 2",
    ):
        found.setdefault(table, []).append((column, kind))
    text = ("text", "character varying", "json", "jsonb")
    return [
        _Table(name, tuple(c for c, k in columns if k in text), tuple(c for c, k in columns if k == "bytea"))
        for name, columns in found.items()
        if "id" in {column for column, _ in columns}
    ]


def _runs_of_partition(connection: Connection, request_id: str) -> list[str]:
    of_partition = (
        "SELECT DISTINCT run_id FROM run_tags WHERE (key = 'dagster/partition' AND (value = %(id)s "
        "OR starts_with(value, %(id)s || '|'))) OR (key = 'dagster/partition/request' AND value = %(id)s)"
    )
    return [run_id for (run_id,) in _rows(connection, of_partition, {"id": request_id})]


def _delete_events_of_partition(connection: Connection, request_id: str) -> int:
    """Delete all events of the request's bracket and cells, and their tags; how many events."""
    with connection, connection.cursor() as cursor:
        mine = "partition = %(id)s OR starts_with(partition, %(id)s || '|')"
        cursor.execute(
            f"DELETE FROM asset_event_tags WHERE event_id IN (SELECT id FROM event_logs WHERE {mine})",
            {"id": request_id},
        )
        cursor.execute(f"DELETE FROM asset_check_executions WHERE {mine}", {"id": request_id})
        cursor.execute(f"DELETE FROM event_logs WHERE {mine}", {"id": request_id})
        return int(cursor.rowcount)


def _blacken(connection: Connection, table: _Table, quotes: Quotes) -> Counter[str]:
    """Put FORGOTTEN where rows of a table name or quote the request; delete rows that are nothing else. How many rows.

    Packed columns (snapshots of jobs) hold nobody's words; where one does all the same it stays, and is counted by itself.
    """
    changed: Counter[str] = Counter()
    last = -1
    wanted = [*table.columns, *table.binary]
    if not wanted:
        return changed
    page = sql.SQL("SELECT id, {} FROM {} WHERE id > %s ORDER BY id LIMIT %s").format(
        sql.SQL(", ").join(map(sql.Identifier, wanted)), sql.Identifier(table.name)
    )
    while rows := _rows(connection, page, (last, BATCH)):
        last = rows[-1][0]
        values = [[_readable(value) for value in row[1:]] for row in rows]
        said = quotes.among(text for row in values for value in row for text in strings(value, names=True))
        with connection, connection.cursor() as cursor:
            for row, parsed in zip(rows, values, strict=True):
                old = dict(zip(wanted, row[1:], strict=True))
                new = {
                    column: _blackened(table.name, column, value, said, quotes.request_id)
                    for column, value in zip(wanted, parsed, strict=True)
                    if value is not None
                }
                new = {column: value for column, value in new.items() if value is not _SAME}
                for column in table.binary:
                    if new.pop(column, None) is not None:
                        changed[f"{table.name}.{column}, left as it is"] += 1
                if new:
                    changed[table.name] += 1
                    _write(cursor, table.name, row[0], old, new)
    return changed


_SAME = object()
_GONE = object()
"""What a row without which is nothing."""


def _blackened(table: str, column: str, value: Json, said: set[str], request_id: str) -> Any:
    """The column's new value; _SAME where it stays, _GONE where the row shall go."""
    mentioned = not said.isdisjoint(strings(value, names=True))
    if table == "asset_keys" and column == "last_materialization" and (mentioned or _has_pictures(value)):
        return None  # Dagster then looks for the newest event
    pictured = table == "event_logs" and _has_pictures(value)
    if not mentioned and not pictured:
        return _SAME
    if table in _DELETED_WHOLE:
        return _GONE
    if isinstance(value, str):
        return FORGOTTEN
    if table == "runs" and isinstance(value, dict) and isinstance(value.get("tags"), dict):
        tags = {k: v for k, v in value["tags"].items() if not (k.startswith(PARTITION_TAGS) and v in said)}
        value = value | {"tags": tags}
    new = _without_pictures(without(value, said, request_id))
    text = json.dumps(new)
    try:
        deserialize_value(text)
    except Exception:  # whatever Dagster's classes object to: then nobody could read it any more
        return _GONE
    return text


def _write(cursor: Any, table: str, row_id: int, old: dict[str, Any], new: dict[str, Any]) -> None:
    name = sql.Identifier(table)
    if any(value is _GONE for value in new.values()):
        if table == "bulk_actions":
            cursor.execute("DELETE FROM backfill_tags WHERE backfill_id = %s", (old["key"],))
        cursor.execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(name), (row_id,))
        return
    values = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(column)) for column in new)
    cursor.execute(sql.SQL("UPDATE {} SET {} WHERE id = %s").format(name, values), (*new.values(), row_id))


def _readable(value: Any) -> Json:
    """What a column says: JSON where it is some, packed or not."""
    if isinstance(value, memoryview | bytes):
        try:
            value = zlib.decompress(bytes(value)).decode()
        except (zlib.error, UnicodeDecodeError):
            value = bytes(value).decode("utf-8", "ignore")
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def _has_pictures(value: Json) -> bool:
    return any(True for _ in _pictures(value))


def _pictures(value: Json) -> Iterator[dict[str, Json]]:
    """Entries of metadata that are pictures of requests."""
    if isinstance(value, list):
        for item in value:
            yield from _pictures(item)
    elif isinstance(value, dict):
        label = value.get("label")
        if isinstance(label, str) and label.startswith(PICTURES_OF_REQUESTS):
            if any(text.startswith(PICTURE) for text in strings(value)):
                yield value
        else:
            for inner in value.values():
                yield from _pictures(inner)


def _without_pictures(value: Json) -> Json:
    pictures = {text for entry in _pictures(value) for text in strings(entry) if text.startswith(PICTURE)}
    return without(value, pictures, "") if pictures else value


def _rows(connection: Connection, query: Any, values: Any = None) -> list[tuple[Any, ...]]:
    with connection, connection.cursor() as cursor:
        cursor.execute(query, values)
        return list(cursor.fetchall())


def main() -> int:
    """Exit code: 0 if it is done, 2 with a sentence where somebody stands in the way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("result", type=Path, help="File that takes how many rows were changed, by table, as JSON.")
    parser.add_argument("--resumed", action="store_true", help="An earlier call was interrupted.")
    arguments = parser.parse_args()
    plan = read_plan(arguments.plan)
    url = make_url(os.environ["QBAWA_POSTGRES_URL"])
    ours = url.database is not None
    with arguments.plan.with_name("forgetting.lock").open("w") as lock:
        # One that was left behind when `qbawa forget` was killed may still be at it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        with DagsterInstance.get() as instance:
            with closing(_connect(url)) as connection:
                done = forget_in_dagster(instance, connection, plan.request_id, plan.quotes, ours)
            if done or arguments.resumed:
                try:
                    with closing(_connect(url)) as connection:
                        remove_leftovers(connection, TABLES, ours)
                except UserError as error:
                    print(f"qbawa: {error}", file=sys.stderr)
                    return 2
    arguments.result.write_text(json.dumps(done))
    return 0


def _connect(url: Any) -> Connection:
    return psycopg2.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))


if __name__ == "__main__":
    sys.exit(main())
