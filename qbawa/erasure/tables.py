"""A request's rows in the lake's tables, and rows of others that carry its text."""

from collections.abc import Sequence

import polars as pl

from qbawa.erasure.plan import Plan, holds
from qbawa.erasure.quotes import name_pattern
from qbawa.storage.lake import Lake
from qbawa.storage.sql import sql_literal

BY_REQUEST = ("recordings", "feedback", "replay_set", "replay_matrix", "matches", "verdicts", "qbawa")


def forget_rows(lake: Lake, plan: Plan) -> tuple[dict[str, int], int]:
    """Rows removed by table, and calls that were given to another request that shares them.

    What tells the calls whose they are goes last, so that a second try after a kill finds as much as the first.
    """
    rows: dict[str, int] = {}
    reassigned, rows["calls"] = _forget_calls(lake, plan.request_id, plan.texts)
    _retire_strategies(lake, plan.texts)
    rows["quarantine"] = _forget_raw_lines(lake, plan.request_id, plan.texts)
    rows["datasets"] = _forget_versions(lake, plan)
    for table in BY_REQUEST:
        rows[table] = lake.delete(table, f"request_id = {sql_literal(plan.request_id)}")
    return {table: n for table, n in rows.items() if n}, reassigned


def _forget_calls(lake: Lake, request_id: str, identifying: Sequence[str]) -> tuple[int, int]:
    """(calls given to another request that shares them, calls removed)."""
    own = pl.col("request_id") == request_id
    users = pl.concat(
        [
            lake.read("replay_matrix", ["request_id", "call_keys"]).rename({"call_keys": "call_key"}),
            # A pointwise verdict has two calls, joined by `+`.
            lake.read("verdicts", ["request_id", "call_key"]).with_columns(pl.col("call_key").str.split("+")),
        ]
    ).explode("call_key", empty_as_null=True)
    users = users.drop_nulls()
    shared = users.filter(~own).group_by("call_key").agg(new_owner=pl.col("request_id").min())
    its = users.filter(own)["call_key"].unique()
    calls = lake.read("calls").with_columns(identifying=holds(("messages", "response_text"), identifying))
    # A shared answer is the other user's too; a text that only this request has is not, whoever was answered with it.
    mine = calls.filter(own | pl.col("call_key").is_in(its.implode()) | pl.col("identifying")).join(
        shared, on="call_key", how="left"
    )
    gone = mine.filter(pl.col("new_owner").is_null() | pl.col("identifying"))
    given = mine.filter(pl.col("new_owner").is_not_null() & ~pl.col("identifying") & own)
    if gone.is_empty() and given.is_empty():
        return 0, 0
    blocks = pl.concat([gone["block_id"], given["block_id"]]).unique().to_list()
    new_owners = given.select("call_key", "new_owner").unique("call_key")
    rows = (
        calls.filter(pl.col("block_id").is_in(blocks))
        .join(
            gone.select("block_id", "call_key", "called_at"),
            on=["block_id", "call_key", "called_at"],
            how="anti",
            nulls_equal=True,
        )
        .join(new_owners, on="call_key", how="left")
        .with_columns(request_id=pl.when(own).then(pl.coalesce("new_owner", "request_id")).otherwise("request_id"))
        .drop("new_owner", "identifying")
    )
    lake.replace("calls", blocks, rows)
    return given.height, gone.height


def _retire_strategies(lake: Lake, identifying: Sequence[str]) -> None:
    """Erase templates that carry the request's text; such a strategy can never run again."""
    rows = lake.read("strategies")
    holding = rows.filter(holds(("template", "params", "program"), identifying))
    if holding.is_empty():
        return
    empty = holding.with_columns(
        template=pl.lit(None, pl.String), params=pl.lit("{}"), program=pl.lit(None, pl.String), active=False
    )
    lake.merge("strategies", empty)


def _forget_raw_lines(lake: Lake, request_id: str, identifying: Sequence[str]) -> int:
    """Remove quarantined lines that mention the request or hold its text."""
    rows = lake.read("quarantine")
    name = name_pattern(request_id)
    raw = pl.col("raw").fill_null("")
    mentioned = raw.str.contains(request_id, literal=True) & raw.map_elements(
        lambda line: name.search(line) is not None, return_dtype=pl.Boolean, skip_nulls=False
    )
    rows = rows.with_columns(mine=mentioned | holds(("raw",), identifying))
    mine = pl.col("mine")
    gone = rows.filter(mine)
    if gone.height:
        blocks = gone["block_id"].unique().to_list()
        lake.replace("quarantine", blocks, rows.filter(pl.col("block_id").is_in(blocks) & ~mine).drop("mine"))
    return gone.height


def _forget_versions(lake: Lake, plan: Plan) -> int:
    """Remove the rows of dataset versions that hold the request: tnew_owner files go too, or are named as copies."""
    rows = lake.read("datasets")
    gone = rows.filter(pl.col("request_ids").list.contains(plan.request_id) | pl.col("path").is_in(plan.datasets))
    if gone.height:
        blocks = gone["block_id"].unique().to_list()
        kept = rows.filter(pl.col("block_id").is_in(blocks)).join(gone, on=["block_id", "version"], how="anti")
        lake.replace("datasets", blocks, kept)
    return gone.height
