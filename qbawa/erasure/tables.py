"""A request's rows in the lake's tables, and rows of others that carry its text."""

from collections.abc import Iterator, Sequence

import polars as pl

from qbawa.erasure.plan import Plan, holds, versions_of
from qbawa.erasure.quotes import name_pattern
from qbawa.storage.frames import schema_of
from qbawa.storage.lake import Lake
from qbawa.storage.sql import sql_literal

BY_REQUEST = (
    *("recordings", "feedback", "question_clusters", "replay_set"),
    *("replay_matrix", "matches", "verdicts", "qbawa"),
)


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
    its = pl.concat(part.filter(own) for part in _users(lake))["call_key"].unique()
    # A shared answer is the other user's too; a text that only this request has is not, whoever was answered with it.
    said = holds(("messages", "response_text"), identifying)
    columns = ["block_id", "call_key", "called_at", "request_id", "messages", "response_text"]
    mine = pl.concat(
        part.with_columns(identifying=said)
        .filter(own | pl.col("call_key").is_in(its.implode()) | pl.col("identifying"))
        .drop("messages", "response_text")
        for part in _batches(lake, "calls", columns)
    )
    keys = mine["call_key"].drop_nulls().unique()
    others = pl.concat(part.filter(~own & pl.col("call_key").is_in(keys.implode())) for part in _users(lake))
    shared = others.group_by("call_key").agg(new_owner=pl.col("request_id").min())
    mine = mine.join(shared, on="call_key", how="left")
    gone = mine.filter(pl.col("new_owner").is_null() | pl.col("identifying"))
    given = mine.filter(pl.col("new_owner").is_not_null() & ~pl.col("identifying") & own)
    if gone.is_empty() and given.is_empty():
        return 0, 0
    blocks = pl.concat([gone["block_id"], given["block_id"]]).unique().to_list()
    new_owners = given.select("call_key", "new_owner").unique("call_key")
    rows = (
        lake.read("calls", blocks=blocks)
        .join(
            gone.select("block_id", "call_key", "called_at"),
            on=["block_id", "call_key", "called_at"],
            how="anti",
            nulls_equal=True,
        )
        .join(new_owners, on="call_key", how="left")
        .with_columns(request_id=pl.when(own).then(pl.coalesce("new_owner", "request_id")).otherwise("request_id"))
        .drop("new_owner")
    )
    lake.replace("calls", blocks, rows)
    return given.height, gone.height


def _users(lake: Lake) -> Iterator[pl.DataFrame]:
    """Which request uses which call, a batch at a time: request_id, call_key."""
    for part in _batches(lake, "replay_matrix", ["request_id", "call_keys"]):
        yield part.rename({"call_keys": "call_key"}).explode("call_key", empty_as_null=True).drop_nulls()
    for part in _batches(lake, "verdicts", ["request_id", "call_key"]):
        # A pointwise verdict has two calls, joined by `+`.
        split = part.drop_nulls().with_columns(pl.col("call_key").str.split("+"))
        yield split.explode("call_key", empty_as_null=True)


def _batches(lake: Lake, table: str, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """As `Lake.batches`, with one frame without rows at least."""
    yield schema_of(table).to_frame().select(columns)
    yield from lake.batches(table, columns)


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
    name = name_pattern(request_id)
    raw = pl.col("raw").fill_null("")
    mentioned = raw.str.contains(request_id, literal=True) & raw.map_elements(
        lambda line: name.search(line) is not None, return_dtype=pl.Boolean, skip_nulls=False
    )
    mine = mentioned | holds(("raw",), identifying)
    blocks = {
        block for part in lake.batches("quarantine", ["block_id", "raw"]) for block in part.filter(mine)["block_id"]
    }
    rows = lake.read("quarantine", blocks=sorted(blocks))
    kept = rows.filter(~mine)
    lake.replace("quarantine", sorted(blocks), kept)
    return rows.height - kept.height


def _forget_versions(lake: Lake, plan: Plan) -> int:
    """Remove the rows of dataset versions that hold the request: their files go too, or are named as copies."""
    gone = versions_of(lake, plan.request_id, plan.datasets)
    if gone.is_empty():
        return 0
    # Deleted, not replaced: nobody needs to read the lists of what the others hold.
    names = [
        f"(block_id = {sql_literal(block)} AND version = {sql_literal(version)})"
        for block, version in gone.select("block_id", "version").unique().sort("block_id", "version").iter_rows()
    ]
    return lake.delete("datasets", " OR ".join(names))
