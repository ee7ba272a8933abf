"""What cells are answered from: strategies and recordings, read once for a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from qbawa.engine.prompting.question import COLUMNS as QUESTION
from qbawa.engine.prompting.question import Question
from qbawa.replay.strategies.repository import from_rows
from qbawa.replay.strategies.strategy import Strategy

COLUMNS = [*QUESTION, "output", "error", "input_tokens", "output_tokens", "cost_usd", "latency_s"]
"""What cells need of `recordings`."""


@dataclass(frozen=True)
class Material:
    strategies: Mapping[str, Strategy]
    """By strategy_id."""
    recordings: Mapping[str, Mapping[str, Any]]
    """Rows of `recordings` by recording_id."""

    @classmethod
    def of(cls, strategies: pl.DataFrame, recordings: pl.DataFrame) -> "Material":
        """From rows of the tables `strategies` and `recordings` (`COLUMNS`)."""
        return cls(
            {strategy.strategy_id: strategy for strategy in from_rows(strategies)},
            {row["recording_id"]: row for row in recordings.iter_rows(named=True)},
        )

    def question(self, recording_id: str) -> Question:
        """What was asked. Raises InputError where the recording's inputs are not JSON of the right shape."""
        return Question.from_row(self.recordings[recording_id])
