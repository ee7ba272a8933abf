"""An engine opened on a project: its models, its ledger, its budget; and everything that it paid in the lake afterwards."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import polars as pl

from qbawa.engine.budget import Budget
from qbawa.engine.engine import Engine
from qbawa.engine.ledger.index import CallIndex
from qbawa.engine.ledger.ledger import Ledger
from qbawa.engine.ledger.to_lake import load_calls
from qbawa.engine.progress import Progress
from qbawa.project import Project
from qbawa.storage.frames import now
from qbawa.storage.lake import Lake

Log = Callable[[str], Any]


@asynccontextmanager
async def open_engine(
    project: Project, progress: Progress, *, run_id: str, usd: float | None = None
) -> AsyncIterator[Engine]:
    """An engine under the caps of qbawa.yaml and, besides, `usd` for this run. What it paid is in the lake when it closes.

    A run may open several, for its answers and for its verdicts: they share its cap.
    """
    load_calls(project.lake, project.home.calls)
    caps = [cap for cap in (project.config.budget.usd_per_run, usd) if cap is not None]
    budget = Budget(
        usd_per_run=min(caps) if caps else None,
        usd_per_day=project.config.budget.usd_per_day,
        usd_per_step=project.config.budget.usd_per_step,
        spent_by_run_usd=_spent_by_run(project.lake, run_id),
        spent_today_usd=_spent_today(project.lake),
        spent_by_step_usd=_spent_by_step(project.lake),
    )
    ledger = Ledger(project.home.calls, lambda keys: held_calls(project.lake, keys))
    engine = Engine(project.config.models, ledger, budget, progress, run_id=run_id)
    try:
        async with engine:
            yield engine
    finally:
        load_calls(project.lake, project.home.calls)


class LedgerReader:
    """Looks up what a project has paid for, in its journals and its lake, and writes nothing."""

    def __init__(self, project: Project) -> None:
        self._project = project

    async def prefetch(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys whose answers are held."""
        wanted = set(keys)
        index = CallIndex(self._project.home.calls)
        try:
            index.refresh()
            held = {key for key in wanted if key in index}
        finally:
            index.close()
        return held | {row["call_key"] for row in held_calls(self._project.lake, sorted(wanted - held))}


def held_calls(lake: Lake, keys: Sequence[str]) -> Iterable[Mapping[str, Any]]:
    """Answered calls among these keys, as the ledger reads them."""
    columns = [
        "call_key",
        "response_text",
        "logprobs",
        "input_tokens",
        "output_tokens",
        "cost_usd",
        "latency_s",
        "attempts",
    ]
    held = pl.col("call_key").is_in(list(keys)) & pl.col("error").is_null()
    return lake.read("calls", columns, keep=held).iter_rows(named=True)


def _spent_by_run(lake: Lake, run_id: str) -> float:
    return float(lake.read("calls", ["cost_usd"], keep=pl.col("run_id") == run_id)["cost_usd"].sum())


def _spent_today(lake: Lake) -> float:
    midnight = now().replace(hour=0, minute=0, second=0, microsecond=0)
    return float(lake.read("calls", ["cost_usd"], keep=pl.col("called_at") >= midnight)["cost_usd"].sum())


def _spent_by_step(lake: Lake) -> dict[str, float]:
    spent = lake.read("calls", ["step", "cost_usd"]).group_by("step").agg(pl.col("cost_usd").sum())
    return {step: float(usd) for step, usd in spent.iter_rows() if step is not None}
