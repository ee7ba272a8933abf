"""Strategies as rows of the lake's table `strategies`, and back."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl

from qbawa.storage.tables import STRATEGIES
from qbawa.strategies.strategy import Strategy, Template

_TYPES = {"text": pl.String(), "bool": pl.Boolean(), "time": pl.Datetime("us", "UTC")}
_SCHEMA = pl.Schema({c.name: _TYPES[c.type] for c in STRATEGIES.columns} | {"block_id": pl.String()})


def to_rows(strategies: Sequence[Strategy], known: pl.DataFrame | None = None) -> pl.DataFrame:
    """Rows of the table `strategies`; a block is a step.

    `known`, rows that the table holds already, keep their `created_at`. Those of them that came from the configuration
    and are absent from `strategies` come back inactive, since their answers stay. Equal input gives equal rows.
    """
    now = datetime.now(UTC)
    before: dict[str, dict[str, Any]] = {} if known is None else {row["strategy_id"]: row for row in known.to_dicts()}
    rows = [_row(strategy, before.get(strategy.strategy_id, {}).get("created_at") or now) for strategy in strategies]
    here = {strategy.strategy_id for strategy in strategies}
    gone = [row for identity, row in before.items() if identity not in here and row["origin"] == "config"]
    rows += [{**row, "active": False} for row in gone]
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


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
