"""Verdicts of another evaluation: a table of preferences between strategies becomes matches and verdicts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import polars as pl

from qbawa.ids import cell_id, content_id, match_id, verdict_id
from qbawa.ingest.tables import FLOAT, INT, TEXT, TIME, Field, TableReport, read_table, refuse_where
from qbawa.replay.import_answers import by_blocks
from qbawa.replay.strategies.repository import add_strategies, resolve
from qbawa.storage.frames import BLOCK, now
from qbawa.storage.lake import Lake
from qbawa.tournaments.decide import unweighted
from qbawa.tournaments.scores import preference_of, sign_of, winner

FIELDS = (
    Field("request", TEXT, True, ("request_id", "question_id")),
    Field("strategy_a", TEXT, True, ("model_a", "generator_1")),
    Field("strategy_b", TEXT, True, ("model_b", "generator_2")),
    Field("judge", TEXT, True, ("annotator",)),
    Field("preference", FLOAT),
    Field("verdict", TEXT, False, ("winner",)),
    Field("order_shown", TEXT, False, ("shown_first",)),
    Field("rationale", TEXT),
    Field("cost_usd", FLOAT, False, ("price_usd",)),
    Field("judged_at", TIME),
)
_PAIR = ("request_id", "strategy_a", "strategy_b")
_CONTENT = (*_PAIR, "judge", "judge_kind", "shown_first", "verdict", "preference", "rationale", "cost_usd", "repeat")


def import_verdicts(
    lake: Lake,
    table: str | Path | pl.DataFrame,
    step: str,
    *,
    kind: Literal["imported", "human"] = "imported",
    columns: Mapping[str, str] | None = None,
    dry_run: bool = False,
) -> TableReport:
    """Write a table's preferences as verdicts of `kind` and as matches of `step`.

    Columns: `FIELDS`, with `preference` (0–1 towards a), `verdict` (a, b, tie, unscored, or the winner's name) or both.
    A row with neither is kept as unscored. Raises InputError, before anything is written, where columns are missing or
    a row is wrong. Again: nothing changes.
    """
    rows, source = read_table(table, FIELDS, columns)
    if not {"preference", "verdict"} & set(source):
        read_table(table, (*FIELDS[:4], Field("preference", FLOAT, True), *FIELDS[5:]), columns)  # says what is missing
    same = rows.filter(pl.col("strategy_a") == pl.col("strategy_b")).height
    rows = rows.filter(pl.col("strategy_a") != pl.col("strategy_b"))
    verdicts = _verdicts(table, rows, source)
    names = pl.concat([rows["strategy_a"], rows["strategy_b"]]).unique(maintain_order=True).to_list()
    ids = resolve(lake, step, names, answers=False)
    verdicts = _canonical(
        verdicts.with_columns(pl.lit(kind).alias("judge_kind"), pl.col("strategy_a", "strategy_b").replace(ids))
    )
    new = _unknown(lake, verdicts, step)
    written = {"verdicts": new.height, "matches": new.select(_PAIR).n_unique() if new.height else 0}
    if not dry_run:
        written["strategies"] = add_strategies(lake, step, ids, {})
        if not new.is_empty():
            _write(lake, new, step)
    skipped = {"a strategy against itself": same} if same else {}
    requests = rows["request"].n_unique()
    return TableReport(rows.height + same, written, skipped, len(ids), requests, not dry_run and any(written.values()))


def _verdicts(table: str | Path | pl.DataFrame, rows: pl.DataFrame, source: dict[str, str]) -> pl.DataFrame:
    """The verdict of every row, in the table's own orientation."""
    optional = [f for f in FIELDS if not f.required and f.name not in rows.columns]
    rows = rows.with_columns(pl.lit(None, field.type).alias(field.name) for field in optional)
    p = pl.col("preference")
    refuse_where(table, rows, ~p.is_between(0, 1), "preference", "must lie between 0 and 1 (towards strategy_a)")
    verdict_of = _side("verdict", source, {"tie": "tie", "tie (bothbad)": "tie", "draw": "tie", "unscored": "unscored"})
    shown_first = _side("order_shown", source, {})
    refuse_where(table, rows, verdict_of == "?", "verdict", "must be a, b, tie, unscored or the winner's name")
    refuse_where(table, rows, shown_first == "?", "order_shown", "must be a, b, or the name of what was shown first")
    rows = rows.with_columns(verdict_of, shown_first.alias("shown_first"))
    v = pl.col("verdict")
    contrary = sign_of("verdict") * (p - 0.5) < 0
    refuse_where(table, rows, contrary, "preference", "contradicts the row's verdict")
    rows = rows.with_columns(
        pl.when(v == "unscored").then(None).otherwise(pl.coalesce(p, preference_of("verdict"))).alias("preference"),
        pl.coalesce(v, winner(p - 0.5), pl.lit("unscored")).alias("verdict"),
    )
    return rows.select(
        pl.col("request").alias("request_id"),
        "strategy_a", "strategy_b", "judge", "shown_first", "verdict", "preference", "rationale",
        "cost_usd", "judged_at",
    )  # fmt: skip


def _side(column: str, source: dict[str, str], others: dict[str, str]) -> pl.Expr:
    """`a` or `b` for whatever the table calls that side, `?` for what is neither."""
    value = pl.col(column).str.strip_chars()
    low = value.str.to_lowercase()
    words = {"a": "a", "b": "b", "model_a": "a", "model_b": "b", "strategy_a": "a", "strategy_b": "b"}
    for side in "ab":
        called = source[f"strategy_{side}"].lower()
        words |= {called: side, f"{called}_first": side, f"{side}_first": side}
    by_name = (
        pl.when(value == pl.col("strategy_a")).then(pl.lit("a")).when(value == pl.col("strategy_b")).then(pl.lit("b"))
    )
    found = by_name.otherwise(low.replace_strict(words | others, default="?", return_dtype=TEXT))
    return pl.when(pl.col(column).is_null() | (value == "")).then(None).otherwise(found).alias(column)


def _canonical(verdicts: pl.DataFrame) -> pl.DataFrame:
    """The same with the smaller strategy id as a; a judge's k-th verdict on one match in one order gets repeat k."""
    swap = pl.col("strategy_a") > pl.col("strategy_b")
    flip = {"a": "b", "b": "a"}
    return verdicts.with_columns(
        pl.when(swap).then("strategy_b").otherwise("strategy_a").alias("strategy_a"),
        pl.when(swap).then("strategy_a").otherwise("strategy_b").alias("strategy_b"),
        pl.when(swap).then(1 - pl.col("preference")).otherwise("preference").alias("preference"),
        pl.when(swap).then(pl.col("verdict").replace(flip)).otherwise("verdict").alias("verdict"),
        pl.when(swap).then(pl.col("shown_first").replace(flip)).otherwise("shown_first").alias("shown_first"),
    ).with_columns(pl.int_range(pl.len()).over(*_PAIR, "judge", "shown_first").cast(INT).alias("repeat"))


def _unknown(lake: Lake, verdicts: pl.DataFrame, step: str) -> pl.DataFrame:
    """Verdicts that the lake does not hold with this very content."""
    here = pl.col("step") == step
    matches = lake.read("matches", ["match_id", "strategy_a", "strategy_b"], keep=here)
    known = lake.read("verdicts", keep=here).join(matches, on="match_id").sort(BLOCK, "match_id")
    # Repeats are alike but for their place, so it is enough to count those with the same content.
    content = [name for name in _CONTENT if name != "repeat"]
    count = pl.int_range(pl.len()).over(content).alias("nth")
    return verdicts.with_columns(count).join(
        known.with_columns(count).select(*content, "nth"), on=[*content, "nth"], how="anti", nulls_equal=True
    )


def _write(lake: Lake, new: pl.DataFrame, step: str) -> None:
    at = now()
    pairs = new.select(_PAIR).unique(maintain_order=True)
    pairs = pairs.with_columns(
        pl.Series("match_id", [match_id(r, step, a, b) for r, a, b in pairs.rows()], TEXT),
        pl.Series("cell_a", [cell_id(r, step, a) for r, a, _ in pairs.rows()], TEXT),
        pl.Series("cell_b", [cell_id(r, step, b) for r, _, b in pairs.rows()], TEXT),
        pl.lit(step).alias("step"),
        pl.lit(0, INT).alias("round"),
        pl.int_range(1, pl.len() + 1, dtype=INT).over("request_id").alias("slot"),
        pl.lit("imported").alias("origin"),
        pl.col("request_id").alias(BLOCK),
    )
    verdicts = new.join(pairs.select(*_PAIR, "match_id"), on=_PAIR, maintain_order="left")
    key = verdicts.select("match_id", "judge", "shown_first", "repeat").rows()
    verdicts = verdicts.with_columns(
        pl.Series("verdict_id", [_verdict_id(*row) for row in key], TEXT),
        pl.lit(step).alias("step"),
        pl.col("judged_at").fill_null(at),
        pl.col("request_id").alias(BLOCK),
    ).drop("strategy_a", "strategy_b", "repeat", "nth")
    for part in by_blocks(verdicts):
        lake.merge("verdicts", part)
        _merge_matches(lake, pairs.join(part.select(BLOCK).unique(), on=BLOCK, how="semi"))


def _merge_matches(lake: Lake, pairs: pl.DataFrame) -> None:
    """Re-decide matches from all their verdicts; a match that was there keeps its round, slot, origin and time."""
    blocks = pairs[BLOCK].unique().to_list()
    found = unweighted(lake.read("verdicts", blocks=blocks).join(pairs, on="match_id", how="semi"))
    before = lake.read("matches", ["match_id", "round", "slot", "origin", "decided_at"], blocks=blocks)
    rows = (
        pairs.join(found, on="match_id")
        .join(before, on="match_id", how="left", suffix="_before")
        .with_columns(
            *(pl.coalesce(f"{name}_before", name).alias(name) for name in ("round", "slot", "origin")),
            pl.col("decided_at").fill_null(now()),
        )
    )
    lake.merge("matches", rows.drop("round_before", "slot_before", "origin_before"))


def _verdict_id(match: str, judge: str, shown_first: Literal["a", "b"] | None, repeat: int) -> str:
    """A judge's second verdict on the same match in the same order is another verdict: another person's vote."""
    if repeat == 0:
        return verdict_id(match, judge, shown_first)
    return content_id("verdict", match, judge, shown_first, str(repeat))
