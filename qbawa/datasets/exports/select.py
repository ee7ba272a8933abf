"""Which pairs a dataset holds, with the reason for every one that it does not."""

from __future__ import annotations

import hashlib
from collections import Counter

import duckdb
import numpy as np
import polars as pl

from qbawa.config import DatasetConfig
from qbawa.datasets.exports.contents import without_form
from qbawa.datasets.exports.formats import FORMATS
from qbawa.datasets.exports.redact import clean_pairs
from qbawa.datasets.pairs.pair_ids import answer_codes, codes, pair_ids, whole_questions
from qbawa.datasets.pairs.policy import choose
from qbawa.errors import ConfigError

_BY = ["step", "request_id"]


def select_rows(
    pairs: pl.DataFrame, name: str, config: DatasetConfig, tags: pl.DataFrame | None, removed: Counter[str]
) -> pl.DataFrame:
    """The pairs of a dataset, sorted by step, request and pair_id; `removed` counts the others by reason.

    `tags`: request_id, consent (bool), license (text or null); needed where the dataset asks for consent.
    """

    def keep(rows: pl.DataFrame, condition: pl.Expr | pl.Series, reason: str) -> pl.DataFrame:
        mask = rows.select(condition).to_series()
        removed[reason] += rows.height - int(mask.sum())
        return only(rows, mask)

    rows = _in_order(pairs)
    if config.steps:
        rows = keep(rows, pl.col("step").is_in(list(config.steps)), "other step")
    if config.where:
        rows = keep(rows, _where(rows, name, config.where), f"where {config.where}")
    rows = keep(rows, pl.col("p_best") >= config.p_best, f"p_best below {config.p_best:g}")
    if config.consent:
        rows = _consented(rows, name, tags, removed)
    rows = _unchanged(rows, removed)
    spec = FORMATS[config.format]
    sides = ("best_answer",) if spec.holds == "best" else ("best_answer", "worse_answer")
    rows = without_form(rows, config.format, spec.lacks, sides, removed)
    rows = _distinct(clean_pairs(rows, config.redact, removed), removed)
    chosen = choose(rows, config.policy, config.max_per_request, _BY)
    removed[f"policy {config.policy}"] += rows.height - chosen.height
    rows = chosen
    if config.balance_length:
        rows = keep(rows, _balanced(rows, config.seed), "length balance")
    if config.size is not None and rows.height > config.size:
        first = pl.Series(_chance(rows["pair_id"], config.seed)).arg_sort().head(config.size).sort()
        removed[f"size {config.size}"] += rows.height - config.size
        rows = rows[first]
    return rows


def only(rows: pl.DataFrame, mask: pl.Series) -> pl.DataFrame:
    """The rows where the mask is true; the same frame, not a copy of it, where it is true throughout."""
    return rows if mask.all(ignore_nulls=False) else rows.filter(mask)


def _in_order(pairs: pl.DataFrame) -> pl.DataFrame:
    """Sorted by step, request and pair_id, as pairs are built; a million rows are not copied for nothing."""
    key = pairs.select(pl.struct(*_BY, "pair_id")).to_series()
    places = key.arg_sort()
    return pairs if places.is_sorted() else pairs[places]


def _where(rows: pl.DataFrame, name: str, condition: str) -> pl.Series:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET enable_external_access = false; SET lock_configuration = true")
        connection.register("qbawa", rows.with_row_index("place").to_arrow())
        try:
            found = connection.execute(f"SELECT place FROM qbawa WHERE ({condition}\n)").fetchall()
        except duckdb.Error as error:
            raise ConfigError(
                f"datasets.{name}.where is not a condition over the columns of the view qbawa: {condition!r}. "
                f"DuckDB says: {str(error).splitlines()[0]}"
            ) from None
    mask = np.zeros(rows.height, dtype=bool)
    mask[[place for (place,) in found]] = True
    return pl.Series(mask)


def _consented(rows: pl.DataFrame, name: str, tags: pl.DataFrame | None, removed: Counter[str]) -> pl.DataFrame:
    if tags is None:
        raise ConfigError(f"datasets.{name}.consent is true, but nothing was handed in that says who consented.")
    known = rows.join(tags.unique("request_id", keep="none"), on="request_id", how="left", maintain_order="left")
    consent = known.filter(pl.col("consent").fill_null(False))
    removed["no consent"] += rows.height - consent.height
    licensed = consent.filter(pl.col("license").is_not_null() & (pl.col("license") != ""))
    removed["consent without a licence"] += consent.height - licensed.height
    return licensed


def _unchanged(rows: pl.DataFrame, removed: Counter[str]) -> pl.DataFrame:
    """Without pairs that are not what their id says: their answers were swapped or edited after they were built."""
    right = rows["pair_id"] == pair_ids(rows)
    wrong = rows.filter(~right)
    swapped = int((wrong["pair_id"] == pair_ids(wrong, "worse_answer", "best_answer")).sum())
    removed["swapped labels"] += swapped
    removed["edited after it was built"] += wrong.height - swapped
    return only(rows, right)


def _distinct(rows: pl.DataFrame, removed: Counter[str]) -> pl.DataFrame:
    """Without pairs that another one contradicts (all of them go) or repeats (the first stays)."""
    text = pl.DataFrame(
        {
            "q": codes(whole_questions(rows)),
            "b": answer_codes(rows["best_answer"]),
            "w": answer_codes(rows["worse_answer"]),
        }
    ).with_row_index("place")
    against = text.join(text, left_on=["q", "b", "w"], right_on=["q", "w", "b"], how="semi")
    removed["contradicted by another pair"] += against.height
    agreed = text.join(against.select("place"), on="place", how="anti", maintain_order="left")
    single = agreed.unique(["q", "b", "w"], keep="first", maintain_order=True)
    removed["duplicate"] += agreed.height - single.height
    return rows if single.height == rows.height else rows[single["place"]]


def _balanced(rows: pl.DataFrame, seed: int) -> pl.Series:
    """Which rows stay so that in each split, at each size of the gap, the longer answer is best as often as not."""
    best, worse = (pl.col(name).str.len_chars().cast(pl.Int64) for name in ("best_answer", "worse_answer"))
    gap = best - worse
    some = rows.select("split", gap=gap, chance=pl.Series(_chance(rows["pair_id"], seed))).with_row_index("place")
    # Doubling bins: balance at each size of the gap, or a model would learn "much longer" instead of "longer".
    some = some.with_columns(bin=pl.col("gap").abs().add(1).log(2).floor(), side=pl.col("gap").sign())
    few = pl.min_horizontal((pl.col("side") == s).sum().over("split", "bin") for s in (1, -1))
    turn = pl.col("chance").rank("ordinal").over("split", "bin", "side")
    return some.select((pl.col("side") == 0) | (turn <= few)).to_series()


def _chance(pair_ids: pl.Series, seed: int) -> np.ndarray:
    """A number in [0, 1) for each pair that depends on nothing but its id and the seed."""
    prefix = hashlib.sha256(f"{seed}\0".encode())
    out = np.empty(len(pair_ids))
    for k, pair_id in enumerate(pair_ids):
        digest = prefix.copy()
        digest.update(pair_id.encode())
        out[k] = int.from_bytes(digest.digest()[:7], "big") / 2**56
    return out
