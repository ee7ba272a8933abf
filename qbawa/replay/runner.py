"""Cells get their answers: every cell a task on one event loop, finished cells to the lake in portions."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from qbawa import __version__
from qbawa.engine.engine import Engine
from qbawa.engine.error_classes import REFUSALS
from qbawa.engine.progress import Progress
from qbawa.errors import BudgetError, FinalError, NotMadeError, UserError
from qbawa.replay.inputs import Material
from qbawa.replay.report import ReplayReport
from qbawa.replay.strategies.programs import CellAnswer, Tally, run_program
from qbawa.storage.frames import frame, now

# 10,000 requests a minute at 30 s each are 5,000 in flight; more would only queue at the gates, at a few KB a cell.
CELLS_AT_ONCE = 5_000
# Answers are safe in the ledger already, so the lake may lag: each portion rewrites the blocks that it touches.
PORTION_CELLS = 2_500
PORTION_S = 15.0

Store = Callable[[pl.DataFrame], None]
"""Takes finished cells, rows of `replay_matrix`."""


async def answer_cells(
    engine: Engine,
    due: pl.DataFrame,
    material: Material,
    progress: Progress,
    report: ReplayReport,
    store: Store,
    run_id: str,
    say: Callable[[str], Any] = lambda message: None,
) -> None:
    """Answer these cells, count them in the report, and hand the finished ones to `store` in portions, in a thread.

    Cells that fail do not stop the others; a budget does, and leaves the rest missing.
    """
    finished: list[dict[str, Any]] = []
    latencies: list[float] = []
    waiting = due.iter_rows(named=True)

    def account(row: dict[str, Any] | None) -> None:
        if row is None:
            report.missing += 1
            progress.cell("missing")
            return
        finished.append(row)
        if row["status"] == "ok":
            progress.cell("ok")
            report.ok += 1
            latencies.append(row["latency_s"] or 0.0)
            return
        reason = row["error"].split(":", 1)[0]
        report.reasons[reason] += 1
        progress.cell("failed")
        if reason in REFUSALS:
            report.refused += 1
        else:
            report.failed += 1

    async def work() -> None:
        # All workers draw from one iterator: as many cells are under way as there are workers.
        for cell in waiting:
            account(await _answer_cell(engine, cell, material, run_id, report))

    async def store_finished() -> None:
        rows = finished[:]
        finished.clear()
        if rows:
            progress.doing = f"writing {len(rows):,} answered cells"
            await asyncio.to_thread(store, frame("replay_matrix", rows))
            progress.doing = ""

    async def store_portions() -> None:
        stored_at = time.monotonic()
        while True:
            await asyncio.sleep(0.2)
            if len(finished) >= PORTION_CELLS or time.monotonic() - stored_at > PORTION_S:
                await store_finished()
                stored_at = time.monotonic()

    storing = asyncio.create_task(store_portions())
    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(CELLS_AT_ONCE, due.height)):
                workers.create_task(work())
    finally:
        storing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await storing
        if finished:
            say(
                f"{progress.done:,}/{progress.cells:,} cells ended; writing the last {len(finished):,} of them to the lake"
            )
        await store_finished()
    if latencies:
        quantiles = pl.Series(latencies)
        report.latencies_s = {f"p{q}": float(quantiles.quantile(q / 100) or 0.0) for q in (50, 95, 99)}


async def _answer_cell(
    engine: Engine,
    cell: Mapping[str, Any],
    material: Material,
    run_id: str,
    report: ReplayReport,
) -> dict[str, Any] | None:
    """The cell's row for the lake; None where it was not answered and stays missing."""
    row = {
        "cell_id": cell["cell_id"],
        "request_id": cell["request_id"],
        "step": cell["step"],
        "strategy_id": cell["strategy_id"],
        "sample": 0,
        "run_id": run_id,
        "code_version": __version__,
        "block_id": cell["request_id"],
    }
    strategy, tally = material.strategies[cell["strategy_id"]], Tally()
    try:
        if strategy.is_recorded:
            answer = _recorded_answer(material.recordings[cell["recording_id"]])
        else:
            answer = await run_program(strategy, material.question(cell["recording_id"]), engine, tally=tally)
        outcome: dict[str, Any] = {"status": "ok"}
    except NotMadeError as error:
        report.stopped = report.stopped or str(error)
        report.capped |= isinstance(error, BudgetError)
        return None
    except FinalError as error:
        answer, outcome = tally.answer(""), _failed(error.reason, error)
    except UserError as error:
        # The request lacks what the prompt needs, or the strategy asks for the impossible: this cell's outcome.
        answer, outcome = tally.answer(""), _failed(type(error).__name__.removesuffix("Error").lower(), error)
    return (
        row
        | outcome
        | {
            "answer": answer.answer if outcome["status"] == "ok" else None,
            "input_tokens": answer.input_tokens,
            "output_tokens": answer.output_tokens,
            "cost_usd": answer.cost_usd,
            "latency_s": answer.latency_s,
            "call_keys": list(answer.call_keys),
            "answered_at": now(),
        }
    )


def _failed(reason: str, error: Exception) -> dict[str, Any]:
    return {"status": "failed", "error": f"{reason}: {error}"}


def _recorded_answer(recording: Mapping[str, Any]) -> CellAnswer:
    """What production answered. Raises FinalError where production failed."""
    if recording["error"] is not None:
        raise FinalError("recorded_error", f"production failed on this request: {recording['error']:.500}")
    return CellAnswer(
        answer=recording["output"] or "",
        input_tokens=recording["input_tokens"],
        output_tokens=recording["output_tokens"],
        cost_usd=recording["cost_usd"],
        latency_s=recording["latency_s"] or 0.0,
        call_keys=(),
    )
