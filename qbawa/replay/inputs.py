"""What cells are answered from: strategies and recordings, read once for a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from qbawa.engine.prompting.question import Question
from qbawa.replay.strategies.repository import from_rows
from qbawa.replay.strategies.strategy import Strategy
from qbawa.storage.lake import Lake

COLUMNS = ["request_id", "step", "recording_id", "inputs", "messages", "output", "error"]
COLUMNS += ["input_tokens", "output_tokens", "cost_usd", "latency_s"]


@dataclass(frozen=True)
class Material:
    strategies: Mapping[str, Strategy]
    """By strategy_id."""
    recordings: Mapping[str, Mapping[str, Any]]
    """Rows of `recordings` by recording_id."""

    def question(self, recording_id: str) -> Question:
        """What was asked. Raises InputError where the recording's inputs are not JSON of the right shape."""
        return Question.from_row(self.recordings[recording_id])


def read_material(lake: Lake, cells: pl.DataFrame) -> Material:
    """The strategies and recordings of these cells."""
    strategies = lake.read("strategies", keep=pl.col("strategy_id").is_in(cells["strategy_id"].unique().implode()))
    recordings = lake.read(
        "recordings", COLUMNS, keep=pl.col("recording_id").is_in(cells["recording_id"].unique().implode())
    )
    return Material(
        {strategy.strategy_id: strategy for strategy in from_rows(strategies)},
        {row["recording_id"]: row for row in recordings.iter_rows(named=True)},
    )
