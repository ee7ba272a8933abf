"""An engine opened on a project: its models, its ledger, its budget; and everything that it paid in the lake afterwards."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import polars as pl

from qbawa.engine.budget import Budget
from qbawa.engine.engine import Engine
from qbawa.engine.error_classes import REFUSALS
from qbawa.engine.ledger.index import CallIndex, is_answer
from qbawa.engine.ledger.ledger import Ledger
from qbawa.engine.ledger.to_lake import load_calls
from qbawa.engine.progress import Progress
from qbawa.engine.reservations import SharedReservations
from qbawa.engine.spending import spent_usd
from qbawa.project import Project
from qbawa.storage.lake import Lake
from qbawa.storage.occupancy import in_use

Log = Callable[[str], Any]


@asynccontextmanager
async def open_engine(
    project: Project,
    progress: Progress,
    *,
    run_id: str,
    usd: float | None = None,
    retry_refused: bool = False,
    log: Log = lambda message: None,
) -> AsyncIterator[Engine]:
    """An engine under the caps of qbawa.yaml and, besides, `usd` for this run. What it paid is in the lake when it closes.

    A run may open several, for its answers and for its verdicts: they share its cap. All processes of the home share the
    caps of day and step.
    """
    held = ExitStack()
    held.enter_context(in_use(project.home.root))
    load_calls(project.lake, project.home.calls, log=log)
    settings = project.config.budget
    caps = [cap for cap in (settings.usd_per_run, usd) if cap is not None]
    budget = Budget(
        usd_per_run=min(caps) if caps else None,
        usd_per_day=settings.usd_per_day,
        usd_per_step=settings.usd_per_step,
        hard=settings.caps == "hard",
        run_id=run_id,
        reservations=SharedReservations(project.home.calls, run_id, lambda account: spent_usd(project.lake, account)),
    )
    ledger = Ledger(project.home.calls, lambda keys: held_calls(project.lake, keys))
    engine = Engine(project.config.models, ledger, budget, progress, run_id=run_id, retry_refused=retry_refused)
    try:
        async with engine:
            yield engine
    finally:
        budget.give_back()
        load_calls(project.lake, project.home.calls, log=log)
        held.close()


class LedgerReader:
    """Looks up what a project has paid for, in its journals and its lake, and writes nothing."""

    def __init__(self, project: Project) -> None:
        self._project = project

    async def prefetch(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys whose answers or refusals are held."""
        wanted = set(keys)
        index = CallIndex(self._project.home.calls)
        try:
            index.refresh()
            held = {key for key in wanted if key in index or index.refusal(key) is not None}
        finally:
            index.close()
        rows = held_calls(self._project.lake, sorted(wanted - held))
        return held | {row["call_key"] for row in rows if is_answer(row) or row["error"]}


def held_calls(lake: Lake, keys: Sequence[str]) -> Iterable[Mapping[str, Any]]:
    """Calls among these keys that were answered, or billed and refused, as the ledger reads them."""
    columns = [
        "call_key",
        "response_text",
        "logprobs",
        "input_tokens",
        "output_tokens",
        "cost_usd",
        "charged_usd",
        "latency_s",
        "attempts",
        "error",
    ]
    among = pl.col("call_key").is_in(list(keys))
    refused = (pl.col("charged_usd") > 0) & pl.col("error").str.split(":").list.first().is_in(sorted(REFUSALS))
    return lake.read("calls", columns, keep=among & (pl.col("error").is_null() | refused)).iter_rows(named=True)
