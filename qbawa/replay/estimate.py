"""What answering cells would cost, found by running their programs against an engine that only takes notes."""

import asyncio
from collections.abc import Mapping
from typing import Any

import polars as pl

from qbawa.engine.calls import CallResult, ModelCall
from qbawa.engine.cost_estimate import Estimate, ModelHistory, estimate
from qbawa.engine.ledger.ledger import Ledger
from qbawa.engine.session import held_calls
from qbawa.errors import QbawaError
from qbawa.project import Project
from qbawa.replay.inputs import Material, read_material
from qbawa.replay.strategies.programs import run_program
from qbawa.storage.lake import Lake


class Notes:
    """An engine that asks nobody and notes what it was asked. Programs of several layers go on with stand-ins."""

    def __init__(self) -> None:
        self.calls: list[ModelCall] = []

    async def call(self, call: ModelCall) -> CallResult:
        self.calls.append(call)
        # Stand-ins differ, or a judge would not be asked which of them is better.
        return CallResult(call.key, call.key, 0, 0, 0.0, 0.0, 0, cached=True)


def plan(project: Project, cells: pl.DataFrame) -> Estimate:
    """Calls, dollars and minutes for those of `cells` (as in `wanted_cells`) that are not answered yet. Pays nothing.

    Exact for prompts that are known beforehand; calls of later layers count by number, and a `refine` for one round.
    """
    due = cells.filter(pl.col("state") != "ok")
    return asyncio.run(_plan(project, due, read_material(project.lake, due)))


async def _plan(project: Project, due: pl.DataFrame, material: Material) -> Estimate:
    ledger = Ledger(project.home.calls, lambda keys: held_calls(project.lake, keys))
    try:
        return await estimate_cells(project, ledger, due, material)
    finally:
        await ledger.close()


async def estimate_cells(project: Project, ledger: Ledger, due: pl.DataFrame, material: Material) -> Estimate:
    """The estimate for cells that are all to be answered."""
    notes = Notes()
    for cell in due.iter_rows(named=True):
        strategy = material.strategies[cell["strategy_id"]]
        if strategy.is_recorded:
            continue
        try:
            question = material.question(cell["recording_id"])
            await run_program(
                strategy,
                request_id=cell["request_id"],
                inputs=question.inputs,
                messages=question.messages,
                engine=notes,
            )
        except QbawaError:
            continue  # the cell's outcome will say so; it costs nothing
    return await estimate(
        notes.calls, project.config.models, ledger, cells=due.height, history=model_history(project.lake)
    )


def model_history(lake: Lake) -> Mapping[str, ModelHistory]:
    """What the ledger has seen of each model."""
    means = (
        lake.read("calls", ["model", "input_tokens", "output_tokens", "latency_s"], where="error IS NULL")
        .group_by("model")
        .agg(pl.col("input_tokens", "output_tokens", "latency_s").mean())
    )
    history: dict[str, Any] = {model: ModelHistory(*(v or 0.0 for v in rest)) for model, *rest in means.iter_rows()}
    return history
