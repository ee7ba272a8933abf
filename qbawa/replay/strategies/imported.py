"""Strategies that came with a table: known by name alone, with answers but without a way to get more."""

import json

import polars as pl

from qbawa.ids import RECORDED, recorded_id, strategy_id
from qbawa.storage.frames import frame, now


def imported_id(step: str, name: str) -> str:
    """Id of a strategy that is known by its name only."""
    return strategy_id(step=step, template={"kind": "imported", "name": name}, model="", params={}, program={})


def ids_of_names(known: pl.DataFrame, step: str, names: list[str], *, answers: bool) -> dict[str, str]:
    """Strategy id of each name in a table: an id of the step, `recorded`, an earlier import, or a new import.

    `known` are the step's rows of `strategies`. Where a table brings verdicts, not answers, the name of an active
    strategy of the step means that strategy.
    """
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


def imported_rows(known: pl.DataFrame, step: str, ids: dict[str, str], models: dict[str, str | None]) -> pl.DataFrame:
    """Rows of `strategies` for those of `ids_of_names`'s strategies that are not `known`."""
    here, created_at = set(known["strategy_id"]), now()
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
        if identity not in here
    ]
    return frame("strategies", rows)
