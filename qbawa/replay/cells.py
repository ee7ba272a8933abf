"""Which cells the matrix has, and which of them are done."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Literal

import polars as pl

from qbawa.engine.error_classes import REFUSALS
from qbawa.errors import InputError
from qbawa.ids import cell_id
from qbawa.storage.frames import now

State = Literal["missing", "ok", "failed", "refused"]
STATES: tuple[State, ...] = ("missing", "ok", "failed", "refused")
"""refused: failed for a reason that lies in what was asked, such as a content filter or a tool call. Asked again as it is it
would end so again and may cost as much again, so only whoever says so takes these cells again."""


def with_strategies(pairs: Sequence[tuple[str, str]], strategies: pl.DataFrame) -> pl.DataFrame:
    """These (request, strategy) pairs, each once, with step and origin. Raises InputError for an unknown strategy."""
    asked = pl.DataFrame(pairs, schema={"request_id": pl.String, "strategy_id": pl.String}, orient="row").unique(
        maintain_order=True
    )
    unknown = asked.join(strategies, on="strategy_id", how="anti")
    if unknown.height:
        raise InputError(
            f"There is no strategy '{unknown['strategy_id'][0]}'. `qbawa sql \"SELECT strategy_id, name FROM strategies\"` "
            "lists them; a strategy exists once the asset `strategies` has been materialised."
        )
    return asked.join(strategies, on="strategy_id")


def first_recordings(requests: pl.Series, recorded: pl.DataFrame) -> pl.DataFrame:
    """Step, request_id and recording_id of each step's first execution in these requests.

    `recorded` has step, request_id, recording_id and recorded_at. Raises InputError for a request that it lacks.
    """
    missing = set(requests) - set(recorded["request_id"])
    if missing:
        raise InputError(f"There is no request '{min(missing)}' among the recordings.")
    by = ["step", "request_id"]
    return recorded.sort("recorded_at").unique(by, keep="first").select(*by, "recording_id")


def with_state(cells: pl.DataFrame, answers: pl.DataFrame, unanswered: pl.Series) -> pl.DataFrame:
    """The cells with cell_id, state and answered_at, sorted by request and strategy.

    `cells` has request_id, step, strategy_id, origin and recording_id; `answers` are rows of `replay_matrix`;
    `unanswered` are the ids of recordings in which production failed or only asked. Of those `recorded` has no cell, as
    there is no answer that could compete; one of an imported strategy exists only where an answer was imported, as
    nobody here could give one.
    """
    no_answer = (pl.col("origin") == "recorded") & pl.col("recording_id").is_in(unanswered.implode())
    cells = cells.filter(~no_answer)
    identified = cells.with_columns(
        pl.struct("request_id", "step", "strategy_id")
        .map_elements(lambda c: cell_id(c["request_id"], c["step"], c["strategy_id"]), return_dtype=pl.String)
        .alias("cell_id")
    )
    done = (
        answers.with_columns(state=state_of())
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
