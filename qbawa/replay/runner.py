"""Cells get their answers: every cell a task on one event loop, finished cells to the lake in portions."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from qbawa import __version__
from qbawa.engine.engine import Engine
from qbawa.engine.error_classes import REFUSALS
from qbawa.engine.progress import Progress
from qbawa.engine.session import Log, open_engine
from qbawa.errors import FinalError, NotMadeError, UserError
from qbawa.project import Project
from qbawa.replay.cells import state_of
from qbawa.replay.estimate import estimate_cells
from qbawa.replay.inputs import Material, read_material
from qbawa.replay.strategies.programs import CellAnswer, Tally, run_program
from qbawa.storage.frames import frame, now

logger = logging.getLogger("qbawa.replay")

# 10,000 requests a minute at 30 s each are 5,000 in flight; more would only queue at the gates, at a few KB a cell.
CELLS_AT_ONCE = 5_000
# Answers are safe in the ledger already, so the lake may lag: each portion rewrites the blocks that it touches.
PORTION_CELLS = 2_500
PORTION_S = 15.0

OnCells = Callable[[pl.DataFrame], None]


@dataclass
class ReplayReport:
    """What a replay did. ok + failed + refused + missing = cells."""

    cells: int = 0
    ok: int = 0
    failed: int = 0
    refused: int = 0
    """Failed for a reason that lies in what was asked; not asked again unless somebody says so."""
    missing: int = 0
    """Not answered since a budget, Ctrl-C or the ledger stopped the run; a rerun goes on there."""
    done_before: int = 0
    """Of `ok`: answered by an earlier run, so nothing was done."""
    stopped: str | None = None
    reasons: Counter[str] = field(default_factory=Counter)
    """Failed and refused cells by reason."""
    calls_paid: int = 0
    calls_cached: int = 0
    cost_usd: float = 0.0
    """Paid by this run, as far as tokens were counted."""
    unknown_usd: float = 0.0
    """What it may have paid besides, at most; it counts under the caps."""
    latencies_s: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def summary(self) -> str:
        """The report in one line."""
        text = f"{self.ok:,} of {self.cells:,} cells answered"
        if self.done_before:
            text += f" ({self.done_before:,} before)"
        refused = f", {self.refused:,} refused" if self.refused else ""
        text += f", {self.failed:,} failed{refused}, {self.missing:,} missing; {self.calls_paid:,} calls made, "
        text += f"{self.calls_cached:,} found in the ledger; ${self.cost_usd:.4f}"
        text += f" and at most ${self.unknown_usd:.4f} that nobody counted" if self.unknown_usd else ""
        text += f", {self.seconds:.1f} s"
        if self.reasons:
            text += f". Failures: {', '.join(f'{n} {reason}' for reason, n in self.reasons.most_common())}"
        return text + (f". Stopped: {self.stopped}" if self.stopped else "")

    def metadata(self) -> dict[str, Any]:
        """The report as plain values, for a UI."""
        asked = self.calls_paid + self.calls_cached
        return {
            "cells": self.cells,
            "answered": self.ok - self.done_before,
            "done_before": self.done_before,
            "failed": self.failed,
            "refused": self.refused,
            "missing": self.missing,
            "reasons": dict(self.reasons),
            "cost_usd": round(self.cost_usd, 6),
            "calls_paid": self.calls_paid,
            "cache_share": round(self.calls_cached / asked, 4) if asked else 0.0,
            **{f"latency_{name}_s": round(value, 3) for name, value in self.latencies_s.items()},
            "seconds": round(self.seconds, 1),
        } | ({"stopped": self.stopped} if self.stopped else {})


def replay(
    project: Project,
    cells: pl.DataFrame,
    *,
    run_id: str,
    log: Log | None = None,
    on_cells: OnCells | None = None,
    usd: float | None = None,
    retry_refused: bool = False,
) -> ReplayReport:
    """Answer the cells that are missing, failed or refused among `cells`, which are in the form of `wanted_cells`.

    `on_cells` is told of every finished cell (request_id, strategy_id, state, error, cost_usd, latency_s) once it is
    in the lake, those done before included. `usd` caps this run, besides the caps of qbawa.yaml. Cells that fail do
    not stop the others; a budget does, and leaves the rest missing. A call that was billed and refused is made again only
    with `retry_refused`; without it the cell is refused once more, for nothing.
    """
    return asyncio.run(_replay(project, cells, run_id, log, on_cells or (lambda _: None), usd, retry_refused))


async def _replay(
    project: Project,
    cells: pl.DataFrame,
    run_id: str,
    log: Log | None,
    on_cells: OnCells,
    usd: float | None,
    retry_refused: bool,
) -> ReplayReport:
    began = time.monotonic()
    report = ReplayReport(cells=cells.height)
    done = cells.filter(pl.col("state") == "ok")
    due = cells.filter(pl.col("state") != "ok")
    report.ok = report.done_before = done.height
    if done.height:
        on_cells(done_cells(project, done))
    if due.height:
        material = read_material(project.lake, due)
        progress = Progress(due.height, log)
        async with open_engine(project, progress, run_id=run_id, usd=usd, retry_refused=retry_refused) as engine:
            say = log or logger.info
            say((await estimate_cells(project, engine.ledger, due, material)).line())
            await _answer(project, engine, due, material, progress, report, on_cells, run_id)
            report.calls_paid, report.calls_cached = engine.stats.answered, engine.stats.cached
            report.cost_usd, report.unknown_usd = engine.stats.cost_usd, engine.stats.unknown_usd
    report.seconds = time.monotonic() - began
    return report


async def _answer(
    project: Project,
    engine: Engine,
    due: pl.DataFrame,
    material: Material,
    progress: Progress,
    report: ReplayReport,
    on_cells: OnCells,
    run_id: str,
) -> None:
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

    async def store() -> None:
        rows = finished[:]
        finished.clear()
        if rows:
            await asyncio.to_thread(_store, project, rows, on_cells)

    async def store_portions() -> None:
        stored_at = time.monotonic()
        while True:
            await asyncio.sleep(0.2)
            if len(finished) >= PORTION_CELLS or time.monotonic() - stored_at > PORTION_S:
                await store()
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
        await store()
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
            question = material.question(cell["recording_id"])
            answer = await run_program(
                strategy,
                request_id=cell["request_id"],
                inputs=question.inputs,
                messages=question.messages,
                engine=engine,
                tally=tally,
            )
        outcome: dict[str, Any] = {"status": "ok"}
    except NotMadeError as error:
        report.stopped = report.stopped or str(error)
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


def done_cells(project: Project, cells: pl.DataFrame) -> pl.DataFrame:
    """Cost and duration of cells that are done, in the form that `on_cells` takes."""
    stored = project.lake.read(
        "replay_matrix", ["cell_id", "cost_usd", "latency_s"], blocks=cells["request_id"].unique().to_list()
    ).unique("cell_id")
    return cells.join(stored, on="cell_id").select(
        "request_id", "strategy_id", "state", pl.lit(None, pl.String).alias("error"), "cost_usd", "latency_s"
    )


def _store(project: Project, rows: list[dict[str, Any]], on_cells: OnCells) -> None:
    stored = frame("replay_matrix", rows)
    project.lake.merge("replay_matrix", stored)
    on_cells(stored.select("request_id", "strategy_id", state_of().alias("state"), "error", "cost_usd", "latency_s"))
