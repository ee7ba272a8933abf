"""The replay set: the few requests of a step that stand for all its traffic, the request dimension of the matrix."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass

import numpy as np
import polars as pl

from qbawa.config import ReplaySetConfig
from qbawa.replay.replay_set.coverage import Cover, embed
from qbawa.replay.replay_set.near_duplicates import question_clusters
from qbawa.replay.replay_set.question_text import question_texts
from qbawa.storage.frames import BLOCK, now, schema_of

COLUMNS = ["request_id", "recording_id", "step", "inputs", "messages", "error", "tags", "recorded_at"]
"""What `choose` needs of `recordings`."""
CANDIDATES = 3_000
"""Clusters among which is chosen, and which the choice must cover; of more, a random sample stands for them."""
RARE = 0.05
"""A tag is rare where fewer than this share of the requests have it."""


@dataclass(frozen=True)
class Choice:
    """The replay set of one step, and what a picture of it needs."""

    rows: pl.DataFrame
    """Rows of the table `replay_set`, the oldest choice first, those of one run by request_id."""
    vectors: np.ndarray
    """Unit vectors of a sample of the traffic's questions, shape (points, dimensions)."""
    chosen_vectors: np.ndarray
    """Of the chosen requests, in the order of `rows`."""
    requests: int
    clusters: int


def choose(
    recordings: pl.DataFrame, feedback: pl.DataFrame, settings: ReplaySetConfig, previous: pl.DataFrame
) -> Choice:
    """The replay set of the one step that `recordings` (`COLUMNS`) hold.

    Pinned requests come first, then those chosen before (`previous`: rows of `replay_set`), as long as they exist and
    are not excluded. The rest of `settings.size` is filled with one request a cluster of near-duplicates: shares for
    errors, bad feedback (score ≤ 0) and rare tags, then whatever covers the traffic best. A smaller size keeps, of
    those chosen before, the ones that cover it best. The same input always gives the same set, and a second run on its
    own result changes nothing.
    """
    traffic = _one_per_request(recordings, settings)
    if traffic.is_empty():
        return Choice(schema_of("replay_set").to_frame(), np.zeros((0, 1)), np.zeros((0, 1)), 0, 0)
    texts = question_texts(traffic)
    clusters = question_clusters(traffic.select("request_id", pl.Series("text", texts, pl.String)), previous)
    traffic = traffic.drop("inputs", "messages").hstack(clusters.drop("request_id")).with_row_index("place")
    before = _before(traffic, settings, previous)
    open_ = traffic.join(before, on="cluster", how="anti", maintain_order="left")
    bad = feedback.filter(pl.col("score") <= 0)["request_id"]
    marked = {
        "error": (settings.error_share, open_.filter(pl.col("error").is_not_null())),
        "feedback": (settings.feedback_share, open_.filter(pl.col("request_id").is_in(bad.implode()))),
        "tag": (settings.rare_tag_share, _with_rare_tags(open_, traffic)),
    }
    pools = {reason: _sample(rows, settings.seed, CANDIDATES // 3) for reason, (_, rows) in marked.items()}
    pools["coverage"] = _sample(
        open_.sort(pl.col("error").is_not_null(), maintain_order=True), settings.seed, CANDIDATES
    )
    points = _sample(traffic, settings.seed, CANDIDATES)
    places = pl.concat([points["place"], *(pool["place"] for pool in pools.values())]).to_list()
    places += before["place"].to_list()
    needed = sorted(set(places))
    vectors = embed([texts[place] for place in needed], settings.seed)
    at = {place: row for row, place in enumerate(needed)}

    def of(some: list[int]) -> np.ndarray:
        return vectors[[at[place] for place in some]]

    cover = Cover(of(points["place"].to_list()))
    pinned, kept = before.filter("pinned"), before.filter(~pl.col("pinned"))
    cover.add(of(pinned["place"].to_list()))
    if pinned.height + kept.height > settings.size:
        kept = kept[sorted(cover.choose(of(kept["place"].to_list()), max(settings.size - pinned.height, 0)))]
    else:
        cover.add(of(kept["place"].to_list()))
    chosen = [*pinned.iter_rows(named=True), *kept.iter_rows(named=True)]
    for reason, pool in pools.items():
        room = settings.size - len(chosen)
        if reason in marked:
            have = sum(row["reason"] == reason for row in chosen)
            room = min(room, round(marked[reason][0] * settings.size) - have)
        done = {row["cluster"] for row in chosen}
        rows = [row for row in pool.iter_rows(named=True) if row["cluster"] not in done]
        picks = cover.choose(of([row["place"] for row in rows]), max(room, 0)) if rows else []
        chosen += [rows[pick] | {"reason": reason, "chosen_at": None} for pick in picks]
    at_once = now()
    chosen = [row | {"chosen_at": row["chosen_at"] or at_once, BLOCK: row["step"]} for row in chosen]
    chosen.sort(key=lambda row: (row["chosen_at"], row["request_id"]))
    columns = schema_of("replay_set")
    return Choice(
        pl.DataFrame([{name: row[name] for name in columns} for row in chosen], columns),
        of(points["place"].to_list()),
        of([row["place"] for row in chosen]),
        traffic.height,
        traffic["cluster"].n_unique(),
    )


def _one_per_request(recordings: pl.DataFrame, settings: ReplaySetConfig) -> pl.DataFrame:
    """The first execution of the step in every request that can be replayed, oldest first."""
    asked = pl.col("inputs").is_not_null() & ~pl.col("inputs").is_in(["{}", "null"]) | pl.col("messages").is_not_null()
    return (
        recordings.select(COLUMNS)
        .filter(asked & ~pl.col("request_id").is_in(list(settings.exclude)))
        .sort("recorded_at", "recording_id")
        .unique("request_id", keep="first", maintain_order=True)
    )


def _before(traffic: pl.DataFrame, settings: ReplaySetConfig, previous: pl.DataFrame) -> pl.DataFrame:
    """Pinned requests and those of the previous set that still exist, with reason, chosen_at and whether pinned."""
    was = previous.select("request_id", "reason", "chosen_at", recorded="recording_id")
    reason = pl.when("pinned").then(pl.lit("pinned")).when(pl.col("reason") == "pinned").then(pl.lit("kept"))
    return (
        traffic.join(was, on="request_id", how="left", maintain_order="left")
        .with_columns(pl.col("request_id").is_in(list(settings.pin)).alias("pinned"))
        .filter(pl.col("pinned") | pl.col("reason").is_not_null())
        .with_columns(
            reason.otherwise("reason").alias("reason"),
            # The recording whose answers exist stays, even where an older one has come in late.
            pl.coalesce("recorded", "recording_id").alias("recording_id"),
        )
    )


def _sample(rows: pl.DataFrame, seed: int, count: int) -> pl.DataFrame:
    """One row a cluster, of at most `count` clusters, drawn by their names, so that growth changes little."""
    first = rows.unique("cluster", keep="first", maintain_order=True)
    drawn = [hashlib.sha256(f"{seed}\0{cluster}".encode()).digest()[:8] for cluster in first["cluster"]]
    return first.with_columns(pl.Series("drawn", drawn, pl.Binary)).sort("drawn").head(count).drop("drawn")


def _with_rare_tags(rows: pl.DataFrame, traffic: pl.DataFrame) -> pl.DataFrame:
    """Rows of `rows` with a tag that few of all requests have; a key with a value for every request is no tag."""
    counts: Counter[tuple[str, str]] = Counter()
    for tags, number in traffic["tags"].drop_nulls().value_counts().iter_rows():
        counts.update({tag: number for tag in _tags(tags)})
    values = Counter(key for key, _ in counts)
    keys = {key for key, number in values.items() if number <= max(2, traffic.height // 20)}
    rare = {tag for tag, number in counts.items() if tag[0] in keys and number < RARE * traffic.height}
    texts = [text for text in rows["tags"].drop_nulls().unique() if rare & set(_tags(text))]
    return rows.filter(pl.col("tags").is_in(texts))


def _tags(text: str) -> list[tuple[str, str]]:
    try:
        tags = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [(key, json.dumps(value)) for key, value in tags.items()] if isinstance(tags, dict) else []
