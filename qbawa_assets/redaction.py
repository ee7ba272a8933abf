"""What Dagster's stored events, runs, ticks and tags quote of a request becomes `[forgotten]`.

Dagster has no API for that. This knows how the tables of Dagster 1.13 hold text: plainly, and as JSON of Dagster's own
objects, which must stay readable for it.
"""

import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from dagster._serdes import deserialize_value
from psycopg2 import sql

from qbawa.erasure.quotes import FORGOTTEN, Quotes, strings, without

Json = Any
Connection = Any
BATCH = 500
KEYS = ("partition",)
"""Columns that hold the name of a partition and nothing else. They are compared whole, elsewhere: who forgets `7` keeps
`a/7`."""
PARTITION_TAGS = ("dagster/partition", "dagster/asset_partition_range")
"""How the names of tags begin that say which partitions a run is about."""
PICTURE = "![picture](data:image"
PICTURES_OF_REQUESTS = ("matrix", "coverage_")
"""Pictures, by the beginning of their label, on which every request has its place."""
DELETED_WHOLE = (
    "run_tags",
    "backfill_tags",
    "asset_event_tags",
    "bulk_actions",
    "dynamic_partitions",
    "pending_steps",
)
"""Tables whose rows say nothing once their one value is gone."""


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    columns: tuple[str, ...]
    """Of text."""
    binary: tuple[str, ...]


def text_tables(connection: Connection) -> list[Table]:
    """Tables with a numeric id in Dagster's schema."""
    found: dict[str, list[tuple[str, str]]] = {}
    for table, column, kind in rows_of(
        connection,
        "SELECT table_name, column_name, data_type FROM information_schema.columns JOIN information_schema.tables "
        "USING (table_schema, table_name) WHERE table_schema = current_schema() AND table_type = 'BASE TABLE' ORDER BY 1, 2",
    ):
        found.setdefault(table, []).append((column, kind))
    text = ("text", "character varying", "json", "jsonb")
    return [
        Table(name, tuple(c for c, k in columns if k in text), tuple(c for c, k in columns if k == "bytea"))
        for name, columns in found.items()
        if "id" in {column for column, _ in columns}
    ]


def redact(connection: Connection, table: Table, quotes: Quotes, *, pictures: bool) -> Counter[str]:
    """Put FORGOTTEN where rows of a table name or quote the request; delete rows that are nothing else. How many rows.

    With `pictures` those on which every request has its place go too, whatever they show. Packed columns (snapshots of
    jobs) hold nobody's words; where one does all the same it stays, and is counted by itself.
    """
    changed: Counter[str] = Counter()
    last = -1
    wanted = [column for column in (*table.columns, *table.binary) if column not in KEYS]
    if not wanted:
        return changed
    page = sql.SQL("SELECT id, {} FROM {} WHERE id > %s ORDER BY id LIMIT %s").format(
        sql.SQL(", ").join(map(sql.Identifier, wanted)), sql.Identifier(table.name)
    )
    while rows := rows_of(connection, page, (last, BATCH)):
        last = rows[-1][0]
        values = [[_readable(value) for value in row[1:]] for row in rows]
        said = quotes.among(text for row in values for value in row for text in strings(value, names=True))
        with connection, connection.cursor() as cursor:
            for row, parsed in zip(rows, values, strict=True):
                old = dict(zip(wanted, row[1:], strict=True))
                new = {
                    column: _redacted(table.name, column, value, said, quotes.request_id, pictures)
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


def _redacted(table: str, column: str, value: Json, said: set[str], request_id: str, pictures: bool) -> Any:
    """The column's new value; _SAME where it stays, _GONE where the row shall go."""
    mentioned = not said.isdisjoint(strings(value, names=True))
    pictured = pictures and table in ("event_logs", "asset_keys") and _has_pictures(value)
    if not mentioned and not pictured:
        return _SAME
    if table == "asset_keys" and column == "last_materialization":
        return None  # Dagster then looks for the newest event
    if table in DELETED_WHOLE:
        return _GONE
    if isinstance(value, str):
        return FORGOTTEN
    if table == "runs" and isinstance(value, dict) and isinstance(value.get("tags"), dict):
        tags = {k: v for k, v in value["tags"].items() if not (k.startswith(PARTITION_TAGS) and v in said)}
        value = value | {"tags": tags}
    new = _with_all_columns(without(value, said, request_id))
    if pictured:
        new = _without_pictures(new)
    text = json.dumps(new)
    try:
        deserialize_value(text)
    except Exception:  # whatever Dagster's classes object to: then nobody could read it any more
        return _GONE
    return text


def _with_all_columns(value: Json) -> Json:
    """The value with every column in every row of its tables: Dagster cannot read a row that lacks one."""
    if isinstance(value, list):
        return [_with_all_columns(item) for item in value]
    if not isinstance(value, dict):
        return value
    rows = value.get("records")
    if isinstance(rows, list) and isinstance(value.get("schema"), dict):
        columns = [column["name"] for column in value["schema"]["columns"]]
        rows = [row | {"data": dict.fromkeys(columns) | row["data"]} for row in rows]
        return value | {"records": rows}
    return {name: _with_all_columns(inner) for name, inner in value.items()}


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


def rows_of(connection: Connection, query: Any, values: Any = None) -> list[tuple[Any, ...]]:
    with connection, connection.cursor() as cursor:
        cursor.execute(query, values)
        return list(cursor.fetchall())
