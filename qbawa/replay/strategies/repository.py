"""Strategies in the lake: what the configuration says goes in, what can be run comes out."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import polars as pl

from qbawa.replay.strategies.imported import ids_of_names, imported_rows
from qbawa.replay.strategies.strategy import Strategy, Template
from qbawa.storage.frames import now, schema_of
from qbawa.storage.lake import Lake


def read_strategies(lake: Lake, step: str | None = None) -> dict[str, Strategy]:
    """Every strategy that the lake knows, by id, inactive ones included; of one step where it is named."""
    rows = lake.read("strategies", blocks=None if step is None else [step])
    return {strategy.strategy_id: strategy for strategy in from_rows(rows)}


def write_strategies(lake: Lake, strategies: Sequence[Strategy]) -> bool:
    """Bring the table up to these strategies, the configuration's whole and present list; False where nothing changed.

    Those of the configuration that have left it become inactive and keep their answers. Strategies of other origins
    (imports, earlier optimisation) stay as they are unless they are among these.
    """
    return lake.merge("strategies", to_rows(strategies, lake.read("strategies")))


def resolve(lake: Lake, step: str, names: list[str], *, answers: bool) -> dict[str, str]:
    """Strategy id of each name in a table, as `ids_of_names` finds it among what the lake knows."""
    return ids_of_names(lake.read("strategies", blocks=[step]), step, names, answers=answers)


def add_strategies(lake: Lake, step: str, ids: dict[str, str], models: dict[str, str | None]) -> int:
    """Add those of `resolve`'s strategies that the lake lacks; returns how many were new."""
    new = imported_rows(lake.read("strategies", blocks=[step]), step, ids, models)
    lake.merge("strategies", new)
    return new.height


def strategy_names(lake: Lake) -> pl.DataFrame:
    """strategy_id and name of every strategy."""
    return lake.read("strategies", ["strategy_id", "name"])


def to_rows(strategies: Sequence[Strategy], known: pl.DataFrame | None = None) -> pl.DataFrame:
    """Rows of the table `strategies`; a block is a step.

    `known`, rows that the table holds already, keep their `created_at`. Those of them that came from the configuration
    and are absent from `strategies` come back inactive, since their answers stay. Equal input gives equal rows.
    """
    at = now()
    before: dict[str, dict[str, Any]] = {} if known is None else {row["strategy_id"]: row for row in known.to_dicts()}
    rows = [_row(strategy, before.get(strategy.strategy_id, {}).get("created_at") or at) for strategy in strategies]
    here = {strategy.strategy_id for strategy in strategies}
    gone = [row for identity, row in before.items() if identity not in here and row["origin"] == "config"]
    rows += [{**row, "active": False} for row in gone]
    return pl.DataFrame(rows, schema=schema_of("strategies"), orient="row")


def from_rows(rows: pl.DataFrame) -> list[Strategy]:
    """The strategies that rows of the table describe, in their order."""
    return [
        Strategy(
            strategy_id=row["strategy_id"],
            name=row["name"],
            step=row["step"],
            model=row["model"],
            template=Template.of(json.loads(row["template"])),
            params=json.loads(row["params"]),
            program=json.loads(row["program"]),
            origin=row["origin"],
            parent_strategy_id=row["parent_strategy_id"],
        )
        for row in rows.iter_rows(named=True)
    ]


def _row(strategy: Strategy, created_at: datetime) -> dict[str, Any]:
    return {
        "strategy_id": strategy.strategy_id,
        "name": strategy.name,
        "step": strategy.step,
        "model": strategy.model,
        "template": _json(strategy.template.content()),
        "params": _json(dict(strategy.params)),
        "program": _json(dict(strategy.program)),
        "origin": strategy.origin,
        "parent_strategy_id": strategy.parent_strategy_id,
        "active": True,
        "created_at": created_at,
        "block_id": strategy.step,
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
