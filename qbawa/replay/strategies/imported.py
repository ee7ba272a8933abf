"""Strategies that came with a table: known by name alone, with answers but without a way to get more."""

import json

import polars as pl

from qbawa.ids import RECORDED, recorded_id, strategy_id
from qbawa.storage.frames import frame, now
from qbawa.storage.lake import Lake


def imported_id(step: str, name: str) -> str:
    """Id of a strategy that is known by its name only."""
    return strategy_id(step=step, template={"kind": "imported", "name": name}, model="", params={}, program={})


def resolve(lake: Lake, step: str, names: list[str], *, answers: bool) -> dict[str, str]:
    """Strategy id of each name in a table: an id of the step, `recorded`, an earlier import, or a new import.

    Where a table brings verdicts, not answers, the name of an active strategy of the step means that strategy.
    """
    known = lake.read("strategies", ["strategy_id", "name", "origin", "active"], blocks=[step])
    ids = set(known["strategy_id"])
    active = known.filter(pl.col("active") & pl.col("name").is_in(names)).unique("name", keep="none")
    by_name = {} if answers else dict(active.select("name", "strategy_id").iter_rows())
    by_name[RECORDED] = recorded_id(step)
    return {
        name: name
        if name in ids
        else imported_id(step, name)
        if imported_id(step, name) in ids
        else by_name.get(name, imported_id(step, name))
        for name in names
    }


def add_strategies(lake: Lake, step: str, ids: dict[str, str], models: dict[str, str | None]) -> int:
    """Rows for those of `resolve`'s strategies that the lake lacks; returns how many were new."""
    known = set(lake.read("strategies", ["strategy_id"], blocks=[step])["strategy_id"])
    created_at = now()
    rows = [
        {
            "strategy_id": identity,
            "name": name,
            "step": step,
            "model": models.get(name),
            # Never replayed: nobody told us the prompt.
            "template": json.dumps({"kind": "recorded"}),
            "params": "{}",
            "program": json.dumps({"kind": "single"}),
            "origin": "recorded" if identity == recorded_id(step) else "import",
            "active": True,
            "created_at": created_at,
            "block_id": step,
        }
        for name, identity in ids.items()
        if identity not in known
    ]
    if rows:
        lake.merge("strategies", frame("strategies", rows))
    return len(rows)
