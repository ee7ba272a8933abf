"""What the lake's calls have cost: for those who ask about a cap and make no call."""

from datetime import UTC, datetime, timedelta

import polars as pl

from qbawa.storage.lake import Lake


def spent_usd(lake: Lake, account: str) -> float:
    """What the lake's calls have spent on the account of a cap: `run:ID`, `day:DATE` or `step:NAME`."""
    kind, _, name = account.partition(":")
    if kind == "day":
        midnight = datetime.fromisoformat(name).replace(tzinfo=UTC)
        mine = pl.col("called_at").is_between(midnight, midnight + timedelta(days=1), closed="left")
    else:
        mine = pl.col("run_id" if kind == "run" else "step") == name
    calls = lake.read("calls", ["cost_usd", "charged_usd"], keep=mine)
    return float(calls.select(pl.coalesce("charged_usd", "cost_usd").sum()).item() or 0.0)


def spent_today_usd(lake: Lake) -> float:
    """What has been spent since midnight (UTC), under the cap of a day."""
    return spent_usd(lake, f"day:{datetime.now(UTC):%Y-%m-%d}")
