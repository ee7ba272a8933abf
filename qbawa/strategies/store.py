"""Strategies in the lake: what the configuration says goes in, what can be run comes out."""

from collections.abc import Sequence

from qbawa.storage.lake import Lake
from qbawa.strategies.rows import from_rows, to_rows
from qbawa.strategies.strategy import Strategy


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
