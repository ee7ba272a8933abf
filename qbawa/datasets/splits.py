"""Which questions a model may train on and which it is tested on: by cluster of near-duplicates, for good."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import polars as pl

from qbawa.datasets.near_duplicates import groups, near_duplicates
from qbawa.errors import LeakError


def split_of(cluster: str, splits: Mapping[str, float], seed: int = 0) -> str:
    """The split of a cluster: a hash of seed and cluster laid on the shares, so that other clusters do not matter."""
    digest = hashlib.sha256(f"{seed}\0{cluster}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    end = 0.0
    for name, share in splits.items():
        end += share
        if place < end:
            return name
    return [name for name, share in splits.items() if share > 0][-1]


def assign_splits(
    questions: pl.DataFrame, splits: Mapping[str, float], seed: int = 0, previous: pl.DataFrame | None = None
) -> pl.DataFrame:
    """`questions` with a cluster and a split for every row.

    A request that has a split in `previous` (request_id, split) keeps it, whatever became of its cluster, and so does
    a newcomer to such a cluster. Questions without a cluster get one of their own with those that read alike.
    Columns needed: request_id, question; optional: step, cluster.
    """
    rows = _clustered(questions)
    if rows.is_empty():
        return rows.with_columns(split=pl.lit(None, dtype=pl.String))
    known = pl.DataFrame(schema={"request_id": pl.String, "split": pl.String})
    if previous is not None and not previous.is_empty():
        known = previous.select("request_id", "split").drop_nulls()
        known = known.unique("request_id", keep="first", maintain_order=True)
    rows = rows.join(known.rename({"split": "old"}), on="request_id", how="left", maintain_order="left")
    clusters = rows.group_by("cluster").agg(inherited=pl.col("old").drop_nulls().mode().sort().first())
    hashed = pl.Series("hashed", [split_of(c, splits, seed) for c in clusters["cluster"]], dtype=pl.String)
    rows = rows.join(clusters.with_columns(hashed), on="cluster", how="left", maintain_order="left")
    return rows.with_columns(split=pl.coalesce("old", "inherited", "hashed")).drop("old", "inherited", "hashed")


def leak_check(pairs: pl.DataFrame) -> None:
    """Raise LeakError where one question, or two that hardly differ, stand in more than one split.

    Checks clusters, and independently of them the questions' own words. Columns needed: cluster, split, question,
    request_id; the error names clusters and rows.
    """
    rows = pairs.select("request_id", "cluster", "split", "question").with_row_index("row")
    torn = (
        rows.group_by("cluster")
        .agg(splits=pl.col("split").unique().sort(), rows=pl.col("row").sort().head(3), n=pl.len())
        .filter(pl.col("splits").list.len() > 1)
        .sort("cluster")
    )
    if torn.height:
        shown = "; ".join(
            f"cluster '{c}' is in {' and '.join(s)} (rows {', '.join(map(str, r))}{', …' if n > len(r) else ''})"
            for c, s, r, n in torn.select("cluster", "splits", "rows", "n").head(5).rows()
        )
        raise LeakError(
            f"{torn.height} cluster(s) of near-duplicate questions stand in more than one split: {shown}. "
            "Leave their requests out with `where`, or forget them."
        )
    single = rows.unique("question", keep="first", maintain_order=True)
    names = single["split"].to_list()
    alike = [(a, b, s) for a, b, s in near_duplicates(single["question"]) if names[a] != names[b]]
    if alike:
        at, ids_ = single["row"].to_list(), single["request_id"].to_list()
        shown = "; ".join(
            f"rows {at[a]} ({names[a]}, request {ids_[a]}) and {at[b]} ({names[b]}, request {ids_[b]}) "
            f"are {s:.0%} alike"
            for a, b, s in alike[:5]
        )
        raise LeakError(
            f"{len(alike)} pair(s) of questions that hardly differ stand in different splits: {shown}. "
            "Give them one cluster, or leave one of them out with `where`."
        )


def _clustered(questions: pl.DataFrame) -> pl.DataFrame:
    """`questions` with a cluster in every row: those that have none are grouped by their words."""
    if "cluster" not in questions.columns:
        questions = questions.with_columns(cluster=pl.lit(None, dtype=pl.String))
    if not questions["cluster"].null_count():
        return questions
    missing = questions.filter(pl.col("cluster").is_null()).unique("request_id", keep="first").sort("request_id")
    ids = missing["request_id"]
    own = missing.select("request_id", own=pl.Series([f"q_{ids[leader]}" for leader in groups(missing["question"])]))
    rows = questions.join(own, on="request_id", how="left", maintain_order="left")
    return rows.with_columns(cluster=pl.coalesce("cluster", "own")).drop("own")
