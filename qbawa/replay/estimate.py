"""What answering cells would cost, found by running their programs against an engine that only takes notes."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from qbawa.engine.calls import CallResult, ModelCall, ModelSettings
from qbawa.engine.cost_estimate import Estimate, Foreseen, HeldCalls, ModelHistory, Refused, estimate
from qbawa.engine.providers.native import unfaithful
from qbawa.errors import QbawaError, UnfaithfulError
from qbawa.replay.inputs import Material
from qbawa.replay.strategies.programs import run_program


class Notes:
    """An engine that asks nobody and notes what it was asked. Programs of several layers go on with stand-ins."""

    def __init__(self, models: Mapping[str, ModelSettings]) -> None:
        self.calls: list[Foreseen] = []
        self.refused = Refused()
        self._models = models

    async def call(self, call: ModelCall) -> CallResult:
        why = unfaithful(call, self._models.get(call.model))
        if why is not None:
            raise UnfaithfulError(why)
        self.calls.append(Foreseen.of(call))
        # Stand-ins differ, or a judge would not be asked which of them is better.
        return CallResult(call.key, call.key, 0, 0, 0.0, 0.0, 0, cached=True)


async def estimate_cells(
    due: pl.DataFrame,
    material: Material,
    models: Mapping[str, ModelSettings],
    held: HeldCalls,
    history: Mapping[str, ModelHistory],
) -> Estimate:
    """The estimate for cells that are all to be answered.

    Exact for prompts that are known beforehand; calls of later layers count by number, and a `refine` for one round.
    Cells whose question cannot be asked cost nothing; they are counted, with what is wrong.
    """
    notes = Notes(models)
    for cell in due.iter_rows(named=True):
        strategy = material.strategies[cell["strategy_id"]]
        if strategy.is_recorded:
            continue
        try:
            await run_program(strategy, material.question(cell["recording_id"]), notes)
        except QbawaError as error:
            notes.refused.note(str(error))  # calls that it would make before are paid all the same
    return await estimate(notes.calls, models, held, cells=due.height, history=history, refused=notes.refused)


def model_history(answered: pl.DataFrame) -> Mapping[str, ModelHistory]:
    """What was seen of each model, from rows of `calls` that brought an answer."""
    means = answered.group_by("model").agg(pl.col("input_tokens", "output_tokens", "latency_s").mean())
    history: dict[str, Any] = {model: ModelHistory(*(v or 0.0 for v in rest)) for model, *rest in means.iter_rows()}
    return history
