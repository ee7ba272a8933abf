"""Which cells the matrix has, and which of them are done. The lake decides."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Literal

import polars as pl

from qbawa.engine.error_classes import REFUSALS
from qbawa.errors import InputError
from qbawa.ids import cell_id
from qbawa.storage.frames import now
from qbawa.storage.lake import Lake

State = Literal["missing", "ok", "failed", "refused"]
STATES: tuple[State, ...] = ("missing", "ok", "failed", "refused")
"""refused: failed for a reason that lies in what was asked, such as a content filter or a tool call. Asked again as it is it
would end so again and may cost as much again, so only whoever says so takes these cells again."""


def wanted_cells(lake: Lake) -> pl.DataFrame:
    """One row per cell that should exist: every request of a step's replay set × every active strategy of that step.

    Columns: cell_id, request_id, step, strategy_id, origin, recording_id, state, answered_at. A request without the
    step has no such cell.
    """
    chosen = lake.read("replay_set", ["step", "request_id", "recording_id"])
    strategies = lake.read("strategies", ["step", "strategy_id", "origin"], where="active")
    return with_state(lake, _without_unanswered(lake, chosen.join(strategies, on="step")))


def named_cells(lake: Lake, pairs: Sequence[tuple[str, str]]) -> pl.DataFrame:
    """The cells of these (request, strategy) pairs, in the form of `wanted_cells`.

    A pair whose request never ran the strategy's step is left out: there is no such cell. Raises InputError for a
    strategy or a request that the lake does not know.
    """
    asked = pl.DataFrame(pairs, schema={"request_id": pl.String, "strategy_id": pl.String}, orient="row").unique(
        maintain_order=True
    )
    strategies = lake.read("strategies", ["step", "strategy_id", "origin"])
    unknown = asked.join(strategies, on="strategy_id", how="anti")
    if unknown.height:
        raise InputError(
            f"There is no strategy '{unknown['strategy_id'][0]}'. `qbawa sql \"SELECT strategy_id, name FROM strategies\"` "
            "lists them; a strategy exists once the asset `strategies` has been materialised."
        )
    cells = asked.join(strategies, on="strategy_id")
    by = ["step", "request_id"]
    known = lake.read("replay_set", [*by, "recording_id"])
    others = cells.join(known, on=by, how="anti")["request_id"].unique()
    if len(others):
        recorded = lake.read("recordings", [*by, "recording_id", "recorded_at"]).filter(
            pl.col("request_id").is_in(others.implode())
        )
        missing = set(others) - set(recorded["request_id"])
        if missing:
            raise InputError(f"There is no request '{min(missing)}' among the recordings.")
        first = recorded.sort("recorded_at").unique(by, keep="first").join(known, on=by, how="anti")
        known = pl.concat([known, first.select(known.columns)])
    return with_state(lake, _without_unanswered(lake, cells.join(known, on=by)))


def with_state(lake: Lake, cells: pl.DataFrame) -> pl.DataFrame:
    """The cells with cell_id, state and answered_at, sorted by request and strategy.

    A cell of an imported strategy exists only where an answer was imported: nobody here could give one.
    """
    identified = cells.with_columns(
        pl.struct("request_id", "step", "strategy_id")
        .map_elements(lambda c: cell_id(c["request_id"], c["step"], c["strategy_id"]), return_dtype=pl.String)
        .alias("cell_id")
    )
    done = (
        lake.read("replay_matrix", ["cell_id", "status", "error", "answered_at"])
        .with_columns(state=state_of())
        .group_by("cell_id")
        .agg(
            state=pl.when((pl.col("state") == "failed").any())
            .then(pl.lit("failed"))
            .when((pl.col("state") == "refused").any())
            .then(pl.lit("refused"))
            .otherwise(pl.lit("ok")),
            answered_at=pl.col("answered_at").max(),
        )
    )
    return (
        identified.join(done, on="cell_id", how="left")
        .with_columns(pl.col("state").fill_null("missing"))
        .filter((pl.col("origin") != "import") | (pl.col("state") != "missing"))
        .sort("request_id", "strategy_id")
    )


def state_of() -> pl.Expr:
    """State of a row of `replay_matrix`, from its status and error."""
    refused = pl.col("error").str.split(":").list.first().is_in(sorted(REFUSALS))
    failed = pl.when(refused).then(pl.lit("refused")).otherwise(pl.lit("failed"))
    return pl.when(pl.col("status") == "failed").then(failed).otherwise(pl.lit("ok"))


def _without_unanswered(lake: Lake, cells: pl.DataFrame) -> pl.DataFrame:
    """Without the cells of `recorded` where production failed or only asked: there is no answer that could compete."""
    broken = lake.read("recordings", ["recording_id"], where="error IS NOT NULL OR output IS NULL")["recording_id"]
    no_answer = (pl.col("origin") == "recorded") & pl.col("recording_id").is_in(broken.implode())
    return cells.filter(~no_answer)


def choose_cells(
    cells: pl.DataFrame,
    *,
    states: Sequence[str] = ("missing", "failed"),
    requests: str = "*",
    strategies: Collection[str] | None = None,
    older_than: timedelta | None = None,
) -> pl.DataFrame:
    """The cells to answer now: in one of `states`, or answered longer ago than `older_than`.

    `requests` is a request's id or a glob, `strategies` a set of ids. Raises InputError where `requests` selects none
    although there are cells. Refused cells are taken only where `states` says so. Cells that are ok come back as missing,
    so that they are answered again; what the ledger holds of them is not paid again. Imported answers stay as they are.
    """
    strange = set(states) - set(STATES)
    if strange:
        raise InputError(f"There is no cell state {sorted(strange)}. States: {', '.join(STATES)}.")
    due = pl.col("state").is_in(list(states)) & (pl.col("origin") != "import")
    if older_than is not None:
        due = due | ((pl.col("answered_at") < now() - older_than) & (pl.col("origin") != "import"))
    if requests != "*":
        due = due & pl.col("request_id").is_in(_matching(cells["request_id"].unique().sort().to_list(), requests))
    if strategies is not None:
        due = due & pl.col("strategy_id").is_in(list(strategies))
    return cells.filter(due).with_columns(state=pl.col("state").replace("ok", "missing"))


def _matching(requests: Sequence[str], pattern: str) -> list[str]:
    found = [request for request in requests if request == pattern or fnmatchcase(request, pattern)]
    if requests and not found:
        raise InputError(
            f"No request is called or matches '{pattern}'. There are {len(requests):,}, such as {', '.join(requests[:3])}."
        )
    return found
