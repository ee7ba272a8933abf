"""Removes a request from Dagster's own storage: `python -m qbawa_assets.forget_request PLAN RESULT [--resumed]`.

`qbawa forget` runs it. Dagster's API deletes runs, dynamic partitions and cached states. It has none for the events of
single partitions: that is SQL on the tables of Dagster 1.13. Everything may be done twice.
"""

import argparse
import json
import os
import shutil
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
from dagster import AssetKey, DagsterInstance
from sqlalchemy.engine import make_url

from qbawa.erasure import Plan, read_plan
from qbawa.errors import UserError
from qbawa_assets.partition_keys import partition_key
from qbawa_assets.partitions import requests
from qbawa_assets.postgres_leftovers import Connection, remove_leftovers
from qbawa_assets.redaction import redact, rows_of, text_tables

TABLES = (
    "event_logs", "asset_keys", "asset_event_tags", "asset_check_executions", "dynamic_partitions", "pending_steps",
    "runs", "run_tags", "bulk_actions", "backfill_tags", "daemon_heartbeats", "kvs", "snapshots", "job_ticks", "jobs",
    "instigators", "asset_daemon_asset_evaluations",
)  # fmt: skip
"""Dagster's tables that can hold what somebody said. In the home's own server every other table is searched too."""


def forget_in_dagster(instance: DagsterInstance, connection: Connection, plan: Plan, own_server: bool) -> Counter[str]:
    """Remove the request from the instance's storage; how many rows were deleted or redacted, by table.

    `own_server`: it belongs to the home alone, so that tables nobody knows are searched too.
    """
    key, quotes = partition_key(plan.request_id), plan.quotes
    done: Counter[str] = Counter()
    for run_id in _runs_of_partition(connection, key):
        # A run of this one partition is about nothing else.
        instance.delete_run(run_id)
        for folder in (run_id, f"storage/{run_id}"):  # what it printed, and what its stages handed to one another
            shutil.rmtree(Path(instance.root_directory, folder), ignore_errors=True)
        done["runs"] += 1
    name = str(requests.name)
    if instance.has_dynamic_partition(name, key):
        instance.delete_dynamic_partition(name, key)
        done["dynamic_partitions"] += 1
    done["event_logs"] += _delete_events_of_partition(connection, key)
    for table in text_tables(connection):
        if own_server or table.name in TABLES:
            done += redact(connection, table, quotes, pictures=plan.pictured)
    # They list the keys of all partitions; Dagster makes them again when it needs them.
    keys = [AssetKey.from_db_string(key) for (key,) in rows_of(connection, "SELECT asset_key FROM asset_keys")]
    instance.wipe_asset_cached_status([key for key in keys if key is not None])
    return +done


def _runs_of_partition(connection: Connection, key: str) -> list[str]:
    of_partition = (
        "SELECT DISTINCT run_id FROM run_tags "
        "WHERE key IN ('dagster/partition', 'dagster/partition/request') AND value = %(key)s"
    )
    return [run_id for (run_id,) in rows_of(connection, of_partition, {"key": key})]


def _delete_events_of_partition(connection: Connection, key: str) -> int:
    """Delete all events of the request's bracket and cells, and their tags; how many events."""
    with connection, connection.cursor() as cursor:
        # Of cells the name of the strategy follows.
        mine = (
            "(partition = %(key)s OR starts_with(partition, %(key)s || '|') "
            "AND strpos(substr(partition, length(%(key)s) + 2), '|') = 0)"
        )
        cursor.execute(
            f"DELETE FROM asset_event_tags WHERE event_id IN (SELECT id FROM event_logs WHERE {mine})",
            {"key": key},
        )
        cursor.execute(f"DELETE FROM asset_check_executions WHERE {mine}", {"key": key})
        cursor.execute(f"DELETE FROM event_logs WHERE {mine}", {"key": key})
        return int(cursor.rowcount)


def main() -> int:
    """Exit code: 0 if it is done, 2 with a sentence where somebody stands in the way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("result", type=Path, help="File that takes how many rows were changed, by table, as JSON.")
    parser.add_argument("--resumed", action="store_true", help="An earlier call was interrupted.")
    arguments = parser.parse_args()
    plan = read_plan(arguments.plan)
    url = make_url(os.environ["QBAWA_POSTGRES_URL"])
    # Of a server of the user's own the URL says nothing: the PG* variables do.
    own_server = url.database is not None
    with DagsterInstance.get() as instance:
        with closing(_connect(url)) as connection:
            done = forget_in_dagster(instance, connection, plan, own_server)
        if done or arguments.resumed:
            try:
                with closing(_connect(url)) as connection:
                    remove_leftovers(connection, TABLES, own_server)
            except UserError as error:
                print(f"qbawa: {error}", file=sys.stderr)
                return 2
    arguments.result.write_text(json.dumps(done))
    return 0


def _connect(url: Any) -> Connection:
    return psycopg2.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))


if __name__ == "__main__":
    sys.exit(main())
