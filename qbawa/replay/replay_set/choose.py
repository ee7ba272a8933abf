"""The replay set: the few requests of a step that stand for all its traffic, the request dimension of the matrix."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from qbawa.config import ReplaySetConfig
from qbawa.replay.replay_set.words import mixed

CANDIDATES = 3_000
"""Clusters among which is chosen, and which the choice must cover; of more, a random sample stands for them."""
RARE = 0.05
"""A tag is rare where fewer than this share of the requests have it."""
TURNOVER_DAYS = 30
"""Days in which `replay_set.turnover` of the set may pass to other requests."""
BEFORE = ("request_id", "cluster", "reason", "chosen_at", "pinned")
"""Columns of those that were chosen before, and of pins, which have no `chosen_at` where they are new."""

_Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Everything that asked a step something, but for what is excluded."""

    requests: pl.DataFrame
    """request_id, failed, cluster (a number); oldest first."""
    disliked: pl.Series
    """Requests with bad feedback, of whatever step."""
    rarely_tagged: pl.Series
    """Requests with a tag that few have."""
    texts: Callable[[Sequence[str]], Mapping[str, str]]
    """The questions of some requests."""


@dataclass(frozen=True)
class Choice:
    """The replay set of one step, and what a picture of it needs."""

    rows: pl.DataFrame
    """request_id, cluster (a number), reason, chosen_at; the oldest choice first, those of one run by request_id."""
    vectors: np.ndarray = field(default_factory=lambda: np.zeros((0, 1), np.float32))
    """Unit vectors of a sample of the traffic's questions, shape (points, dimensions); none where nothing was looked for."""
    chosen_vectors: np.ndarray = field(default_factory=lambda: np.zeros((0, 1), np.float32))
    """Of the chosen requests, in the order of `rows`."""
    requests: int = 0
    clusters: int = 0


def is_settled(before: pl.DataFrame, settings: ReplaySetConfig, now: datetime) -> bool:
    """Whether the set is full with those chosen before (columns `BEFORE`), whatever else was asked."""
    pinned = before["pinned"].sum()
    full = before.height == settings.size or (pinned == before.height > settings.size)
    return full and not _due(before, settings, now)


def choose(before: pl.DataFrame, traffic: Traffic, settings: ReplaySetConfig, now: datetime, draw: bool) -> Choice:
    """The set of one step, after what was chosen before (columns `BEFORE`, oldest first).

    Pinned requests come first, then those chosen before. The rest of `settings.size` is filled with one request a cluster
    of near-duplicates: shares for errors, bad feedback and rare tags, then whatever covers the traffic best. A smaller
    size keeps, of those chosen before, the ones that cover it best. Of a full set, as much as is due passes to requests
    that cover the traffic better. The same input always gives the same set, and a second run on its own result changes
    nothing. Without `draw` there are vectors only where there was something to choose from.
    """
    # Slow to import, and most of the time there is nothing to choose.
    from qbawa.replay.replay_set.coverage import Cover, embed, exchanges

    requests = traffic.requests
    open_ = requests.join(before, on="cluster", how="anti", maintain_order="left")
    marked = {
        "error": (settings.error_share, open_.filter("failed")),
        "feedback": (settings.feedback_share, open_.filter(pl.col("request_id").is_in(traffic.disliked.implode()))),
        "tag": (settings.rare_tag_share, open_.filter(pl.col("request_id").is_in(traffic.rarely_tagged.implode()))),
    }
    pools = {reason: _sample(rows, settings.seed, CANDIDATES // 3) for reason, (_, rows) in marked.items()}
    pools["coverage"] = _sample(open_.sort("failed", maintain_order=True), settings.seed, CANDIDATES)
    pinned, kept = before.filter("pinned"), before.filter(~pl.col("pinned"))
    if requests.is_empty() or (open_.is_empty() and before.height <= settings.size and not draw):
        return as_chosen(before, now)
    points = _sample(requests, settings.seed, CANDIDATES)
    needed = pl.concat(rows["request_id"] for rows in (points, before, *pools.values())).implode()
    ids = requests.filter(pl.col("request_id").is_in(needed))["request_id"].to_list()
    texts = traffic.texts(ids)
    vectors = embed([texts.get(id, "") for id in ids], settings.seed)
    at = {id: place for place, id in enumerate(ids)}

    def of(some: Sequence[str] | pl.Series) -> np.ndarray:
        return vectors[[at[id] for id in some]]

    cover = Cover(of(points["request_id"]))
    cover.add(of(pinned["request_id"]))
    if before.height > settings.size:
        kept = kept[sorted(cover.choose(of(kept["request_id"]), max(settings.size - pinned.height, 0)))]
    else:
        cover.add(of(kept["request_id"]))
    chosen: list[_Row] = [*pinned.iter_rows(named=True), *kept.iter_rows(named=True)]
    for reason, pool in pools.items():
        room = settings.size - len(chosen)
        if reason in marked:
            have = sum(row["reason"] == reason for row in chosen)
            room = min(room, round(marked[reason][0] * settings.size) - have)
        rows = _not_in(pool, chosen)
        picks = cover.choose(of([row["request_id"] for row in rows]), max(room, 0)) if rows else []
        chosen += [_new(rows[pick], reason) for pick in picks]
    due, offered = _due(pl.DataFrame(chosen, _chosen_schema(before)), settings, now), _not_in(pools["coverage"], chosen)
    if due and offered and len(chosen) >= settings.size:
        may_go = np.array([_may_go(row, now) for row in chosen])
        here, there = ([row["request_id"] for row in rows] for rows in (chosen, offered))
        swaps = exchanges(of(points["request_id"]), of(here), may_go, of(there), due)
        gone = {goes for goes, _ in swaps}
        chosen = [row for place, row in enumerate(chosen) if place not in gone]
        chosen += [_new(offered[comes], "coverage") for _, comes in swaps]
    choice = as_chosen(pl.DataFrame(chosen, _chosen_schema(before)), now)
    return Choice(
        choice.rows,
        of(points["request_id"]),
        of(choice.rows["request_id"]),
        requests.height,
        requests["cluster"].n_unique(),
    )


def as_chosen(rows: pl.DataFrame, now: datetime) -> Choice:
    """The choice of these rows (columns `BEFORE`) without a look at anything else."""
    at = pl.col("chosen_at").fill_null(now)
    return Choice(rows.select("request_id", "cluster", "reason", at).sort("chosen_at", "request_id"))


def rare_tags(counted: Sequence[tuple[str, int]], requests: int) -> list[str]:
    """Of tags as JSON texts, those with one that few of all requests have; a key with a value for every request is no tag."""
    counts: Counter[tuple[str, str]] = Counter()
    for text, number in counted:
        counts.update({tag: number for tag in _tags(text)})
    values = Counter(key for key, _ in counts)
    keys = {key for key, number in values.items() if number <= max(2, requests // 20)}
    rare = {tag for tag, number in counts.items() if tag[0] in keys and number < RARE * requests}
    return [text for text, _ in counted if rare & set(_tags(text))]


def _chosen_schema(before: pl.DataFrame) -> pl.Schema:
    return pl.Schema({name: before.schema[name] for name in BEFORE})


def _new(row: _Row, reason: str) -> _Row:
    return {
        "request_id": row["request_id"], "cluster": row["cluster"], "reason": reason, "chosen_at": None, "pinned": False,
    }  # fmt: skip


def _not_in(pool: pl.DataFrame, chosen: Collection[_Row]) -> list[_Row]:
    """Rows of a pool whose cluster nothing chosen is of."""
    done = {row["cluster"] for row in chosen}
    return [row for row in pool.iter_rows(named=True) if row["cluster"] not in done]


def _due(before: pl.DataFrame, settings: ReplaySetConfig, now: datetime) -> int:
    """How many of the set may pass to others now: the declared share, less what is as new as that."""
    since = now - timedelta(days=TURNOVER_DAYS)
    new = before.filter(~pl.col("pinned") & (pl.col("chosen_at").is_null() | (pl.col("chosen_at") > since))).height
    return max(int(settings.turnover * settings.size + 1e-9) - new, 0)


def _may_go(row: _Row, now: datetime) -> bool:
    """Whether it stands for traffic alone, and has done so for long."""
    old = row["chosen_at"] is not None and row["chosen_at"] <= now - timedelta(days=TURNOVER_DAYS)
    return old and not row["pinned"] and row["reason"] in ("coverage", "kept")


def _sample(rows: pl.DataFrame, seed: int, count: int) -> pl.DataFrame:
    """One row a cluster, of at most `count` clusters, drawn by their numbers, so that growth changes little."""
    first = rows.unique("cluster", keep="first", maintain_order=True)
    own = mixed(np.array([seed % (1 << 64)], np.uint64))
    drawn = mixed(first["cluster"].to_numpy().view(np.uint64) ^ own)
    return first.with_columns(pl.Series("drawn", drawn)).sort("drawn").head(count).drop("drawn")


def _tags(text: str) -> list[tuple[str, str]]:
    try:
        tags = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [(key, json.dumps(value)) for key, value in tags.items()] if isinstance(tags, dict) else []
