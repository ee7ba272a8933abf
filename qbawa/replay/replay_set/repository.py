"""The table `question_clusters`: what every question is compared by, kept, so that only newcomers are ever looked at.

A block of the table holds what a block of `recordings` asked, and is written whole. So a rerun after a kill finds done what
is done, and nothing twice. A request is known by the first of its executions of a step that came in.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from qbawa.replay.replay_set.near_duplicates import Newcomers, Union
from qbawa.replay.replay_set.question_text import question_texts
from qbawa.replay.replay_set.signatures import BYTES, sign, template_of, would_differ
from qbawa.replay.replay_set.words import exact, whole, words_of
from qbawa.storage.frames import BLOCK, frame, schema_of
from qbawa.storage.lake import Lake

CLUSTERS, TEMPLATES = "question_clusters", "question_templates"
GROWTH = 1.25
"""A step's template is looked at again when it has so many times the recordings: a prompt that a fifth of them now have."""
MATERIAL = 0.05
"""Share of questions for which another template must make a difference, for all of the step to be signed again."""
SAMPLE = 5_000
"""Questions by which a template is judged."""
_PORTION = 200_000
"""Recordings that are signed and compared with all others at once; some hundred bytes of each are held."""
_TEXTS = 20_000
"""Recordings whose texts are held at once, unless one block has more."""
_IDS = 50_000
"""Names of recordings that are held at once."""

Log = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Template:
    """Which triples of a step's questions do not count, by which hash it is known, and when it was looked at last."""

    name: str
    triples: np.ndarray
    recordings: int


def sign_newcomers(lake: Lake, seen: str, log: Log) -> str:
    """Bring the table up to the recordings in the lake; what to give as `seen` the next time, which is empty the first.

    Where `seen` does not say what is new, all recordings are compared with the table, by their ids.
    """
    recordings = lake.state("recordings")
    blocks = _changed(lake, seen)
    templates = read_templates(lake)
    strange = _new_steps(lake, blocks, templates)
    if strange:
        blocks = None
    if strange or blocks is None or blocks:
        before = {step: template.name for step, template in templates.items()}
        templates = _look_at_templates(lake, templates, strange)
        if any(before.get(step, template.name) != template.name for step, template in templates.items()):
            blocks = None
        for portion in _portions(lake, blocks):
            _sign_portion(lake, portion, templates, log)
    return json.dumps({"recordings": recordings, CLUSTERS: _held(lake)})


def read_templates(lake: Lake) -> dict[str, Template]:
    """Every step that can be replayed, with its template; the most recorded first."""
    rows = lake.read(TEMPLATES).sort(["recordings", "step"], descending=[True, False])
    return {
        row["step"]: Template(row["template"], np.frombuffer(row["triples"], "<u4"), row["recordings"])
        for row in rows.iter_rows(named=True)
    }


def rows_of(lake: Lake, request_ids: Collection[str]) -> pl.DataFrame:
    """What the table holds of these requests, each once a step: step, request_id, recorded_at, cluster."""
    columns = ["step", "request_id", "recorded_at", "cluster"]
    if not request_ids:
        return schema_of(CLUSTERS).to_frame().select(columns)
    wanted = pl.DataFrame({"request_id": sorted(request_ids)}).with_columns(request_key=keys_of("request_id"))
    read = ["step", "request_key", "recorded_at", "cluster"]
    rows = lake.read(CLUSTERS, read, keep=pl.col("request_key").is_in(wanted["request_key"].implode()))
    found = rows.join(wanted, on="request_key").select(columns).sort("recorded_at", "request_id")
    return found.unique(["step", "request_id"], keep="first", maintain_order=True)


def recordings_of(lake: Lake, step: str, request_ids: Collection[str]) -> pl.DataFrame:
    """The executions by which a step's requests are known: request_id, recording_id."""
    columns = ["request_id", "recording_id"]
    if not request_ids:
        return schema_of(CLUSTERS).to_frame().select(columns)
    wanted = pl.DataFrame({"request_id": sorted(request_ids)}).select(keys_of("request_id")).to_series()
    here = (pl.col("step") == step) & pl.col("request_key").is_in(wanted.implode())
    return lake.read(CLUSTERS, columns, keep=here).unique("request_id", keep="first", maintain_order=True)


def keys_of(column: str) -> pl.Expr:
    """The numbers by which requests of these ids are found."""
    return pl.col(column).map_batches(lambda ids: pl.Series(exact(ids.to_list()).view(np.int64)), return_dtype=pl.Int64)


def traffic_of(lake: Lake, step: str) -> pl.DataFrame:
    """Every request of a step, oldest first: request_id, failed, cluster as numbered in the table."""
    rows = lake.read(CLUSTERS, ["request_id", "recorded_at", "failed", "cluster"], keep=pl.col("step") == step)
    return (
        rows.sort("recorded_at", "request_id")
        .drop("recorded_at")
        .unique("request_id", keep="first", maintain_order=True)
    )


def with_tags(lake: Lake, step: str, texts: Collection[str]) -> pl.Series:
    """Requests whose tags are one of these JSON texts."""
    keep = (pl.col("step") == step) & pl.col("tags").is_in(list(texts))
    return lake.read(CLUSTERS, ["request_id"], keep=keep)["request_id"]


def tag_counts(lake: Lake, step: str) -> list[tuple[str, int]]:
    """Tags of a step's requests as JSON texts, and how many have them."""
    rows = lake.scan(CLUSTERS).filter(pl.col("step") == step, pl.col("tags").is_not_null())
    return rows.group_by("tags").len().collect(engine="streaming").rows()


def sizes(lake: Lake, clusters: Collection[int]) -> dict[tuple[str, int], int]:
    """How many requests each of these clusters of the table holds, by step and number."""
    rows = lake.scan(CLUSTERS).filter(pl.col("cluster").is_in(list(clusters)))
    counted = rows.group_by("step", "cluster").len().collect(engine="streaming")
    return {(step, cluster): count for step, cluster, count in counted.iter_rows()}


def joined(lake: Lake, templates: Collection[str]) -> dict[str, dict[int, int]]:
    """By step: clusters of the table that are one with others, and the number of what they are together.

    As far as they were found so with one of these templates.
    """
    keep = pl.col("joins").is_not_null() & pl.col("template").is_in(list(templates))
    rows = lake.read(CLUSTERS, ["step", "cluster", "joins"], keep=keep)
    found: dict[str, dict[int, int]] = {}
    for (step,), part in rows.group_by("step"):
        union = Union()
        links = [
            (cluster, other) for cluster, joins in part.select("cluster", "joins").rows() for other in json.loads(joins)
        ]
        for cluster, other in sorted(links):
            union.link(cluster, other)
        together: dict[object, list[int]] = {}
        for cluster in sorted({each for link in links for each in link}):
            together.setdefault(union.find(cluster), []).append(cluster)
        found[str(step)] = {cluster: group[0] for group in together.values() for cluster in group}
    return found


def texts_of(lake: Lake, step: str, request_ids: Collection[str]) -> dict[str, str]:
    """The questions of these requests; one whose recording is gone has none."""
    rows = recordings_of(lake, step, request_ids)
    keep = pl.col("recording_id").is_in(rows["recording_id"].implode())
    held = lake.read("recordings", ["recording_id", "inputs", "messages"], keep=keep)
    texts = dict(zip(held["recording_id"], question_texts(held), strict=True))
    return {request: texts[recording] for request, recording in rows.iter_rows() if recording in texts}


# ── what is new ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _changed(lake: Lake, seen: str) -> set[str] | None:
    """Blocks that may differ from what was seen; None where all may."""
    try:
        noted = json.loads(seen or "{}")
        table, version = noted["recordings"]
        if noted[CLUSTERS] != _held(lake):
            return None
        return lake.blocks_since("recordings", (str(table), int(version)))
    except (ValueError, TypeError, KeyError):
        return None


def _held(lake: Lake) -> list[object]:
    """Which table `question_clusters` is, and how many rows it has: others, as `forget`, may have taken some."""
    return [lake.state(CLUSTERS)[0], lake.scan(CLUSTERS).select(pl.len()).collect().item()]


def _new_steps(lake: Lake, blocks: Collection[str] | None, templates: Mapping[str, Template]) -> set[str]:
    """Steps that turn out to be one model call: another strategy can answer them."""
    rows = lake.scan("recordings").filter(~pl.col("step").is_in(list(templates)))
    if blocks is not None:
        rows = rows.filter(pl.col(BLOCK).is_in(list(blocks)))
    asked = rows.filter(pl.col("model").is_not_null() | pl.col("messages").is_not_null())
    return set(asked.select(pl.col("step").drop_nulls().unique()).collect(engine="streaming")["step"])


def _portions(lake: Lake, blocks: Collection[str] | None) -> Iterator[list[str]]:
    """These blocks of recordings or of the table (None: all), in order, as many at a time as are worked on at once."""
    counted = Counter[str]()
    for table in ("recordings", CLUSTERS):
        rows = lake.scan(table)
        if blocks is not None:
            rows = rows.filter(pl.col(BLOCK).is_in(list(blocks)))
        counted |= Counter(dict(rows.group_by(BLOCK).len().collect(engine="streaming").iter_rows()))
    yield from _grouped(sorted(counted.items()), _PORTION)


def _grouped(blocks: Sequence[tuple[str, int]], most: int) -> Iterator[list[str]]:
    portion, size = list[str](), 0
    for block, rows in blocks:
        if portion and size + rows > most:
            yield portion
            portion, size = [], 0
        portion.append(block)
        size += rows
    if portion:
        yield portion


# ── templates ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _look_at_templates(lake: Lake, known: Mapping[str, Template], new: Collection[str]) -> dict[str, Template]:
    """The templates that newcomers are signed with, written down first; those of steps that have grown are looked at."""
    counted = dict(
        lake.scan("recordings")
        .filter(pl.col("step").is_in([*known, *new]))
        .group_by("step")
        .len()
        .collect(engine="streaming")
        .iter_rows()
    )
    found = dict(known)
    for step in sorted(counted):
        before = known.get(step)
        if before is not None and counted[step] < GROWTH * before.recordings:
            continue
        texts = _sample_of(lake, step)
        triples = template_of(texts)
        if before is not None and would_differ(texts, before.triples, triples) <= MATERIAL:
            triples = before.triples
        content = triples.astype("<u4").tobytes()
        found[step] = Template(hashlib.sha256(step.encode() + b"\0" + content).hexdigest()[:16], triples, counted[step])
        row = {"step": step, "template": found[step].name, "triples": content, "recordings": counted[step], BLOCK: step}
        lake.replace(TEMPLATES, [step], frame(TEMPLATES, [row]))
    return found


def _sample_of(lake: Lake, step: str) -> list[str]:
    """Different questions of a step, at most SAMPLE, drawn by the ids of their recordings."""
    ids = lake.read("recordings", ["recording_id"], keep=pl.col("step") == step)["recording_id"]
    if len(ids) > SAMPLE:
        drawn = np.concatenate([exact(part.to_list()) for part in _slices(ids)])
        ids = ids[np.argpartition(drawn, SAMPLE)[:SAMPLE]]
    keep = pl.col("recording_id").is_in(ids.implode())
    texts = sorted(question_texts(lake.read("recordings", ["inputs", "messages"], keep=keep)))
    _, first = np.unique(whole(words_of(texts)), return_index=True)
    return [texts[place] for place in sorted(first) if texts[place]]


def _slices(texts: pl.Series) -> Iterator[pl.Series]:
    return (texts[start : start + _IDS] for start in range(0, len(texts), _IDS))


# ── signing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


_ROW = [BLOCK, "step", "request_id", "recording_id"]


def _sign_portion(lake: Lake, blocks: list[str], templates: Mapping[str, Template], log: Log) -> None:
    """Bring these blocks of the table up to those of `recordings`."""
    steps = pl.col("step").is_in(list(templates))
    recorded = lake.read("recordings", [*_ROW, "recorded_at"], blocks, steps)
    held = lake.read(CLUSTERS, [*_ROW, "template"], blocks)
    names = pl.DataFrame([(step, each.name) for step, each in templates.items()], ["step", "now"], orient="row")
    fits = held.join(recorded, on=[BLOCK, "step", "recording_id"], how="semi").join(names, on="step", how="left")
    current = fits.filter(pl.col("template") == pl.col("now")).select(_ROW)
    stale = fits.filter(pl.col("template") != pl.col("now")).select(_ROW)
    others = recorded.join(fits, on=["step", "request_id"], how="anti")
    if not others.is_empty():
        others = others.with_columns(request_key=keys_of("request_id"))
        keys = others["request_key"].unique()
        elsewhere = pl.col("request_key").is_in(keys.implode()) & ~pl.col(BLOCK).is_in(blocks)
        known = lake.read(CLUSTERS, ["step", "request_key"], keep=elsewhere)
        others = others.join(known, on=["step", "request_key"], how="anti")
    candidates = pl.concat([others.select(_ROW), stale])
    signed = _signed(lake, candidates, templates) if candidates.height else None
    new = signed.height if signed is not None else 0
    changed = set(held.join(current, on=_ROW, how="anti")[BLOCK])
    if signed is not None:
        signed = _with_clusters(lake, signed)
        changed |= set(signed[BLOCK])
    if changed:
        rows = lake.read(CLUSTERS, blocks=sorted(changed)).join(current, on=_ROW, how="semi")
        lake.replace(CLUSTERS, sorted(changed), pl.concat([rows, signed]) if signed is not None else rows)
        log(f"compared {new:,} questions with those before them")


def _signed(lake: Lake, candidates: pl.DataFrame, templates: Mapping[str, Template]) -> pl.DataFrame | None:
    """Rows of the table for the first execution in each request that asked something; `cluster` holds the text's name."""
    parts, done = [], pl.DataFrame(schema={"step": pl.String, "request_id": pl.String})
    asks = pl.col("inputs").is_not_null() & ~pl.col("inputs").is_in(["{}", "null"]) | pl.col("messages").is_not_null()
    counted = candidates.group_by(BLOCK).len().sort(BLOCK).rows()
    for blocks in _grouped(counted, _TEXTS):
        ids = candidates.filter(pl.col(BLOCK).is_in(blocks))["recording_id"].implode()
        rows = (
            lake.scan("recordings")
            .filter(pl.col(BLOCK).is_in(blocks), pl.col("recording_id").is_in(ids), asks)
            .select(*_ROW, "recorded_at", "tags", "inputs", "messages", failed=pl.col("error").is_not_null())
            .collect()
            .sort("recorded_at", "recording_id")
            .unique(["step", "request_id"], keep="first", maintain_order=True)
            .join(done, on=["step", "request_id"], how="anti", maintain_order="left")
        )
        done = pl.concat([done, rows.select("step", "request_id")])
        for step in rows["step"].unique().sort():
            some = rows.filter(pl.col("step") == step)
            found = sign(question_texts(some), templates[step].triples)
            signatures = pl.Series([each.tobytes() for each in found.signatures], dtype=pl.Binary)
            parts.append(
                some.drop("inputs", "messages").with_columns(
                    request_key=keys_of("request_id"),
                    cluster=pl.Series(found.names),
                    joins=pl.lit(None, pl.String),
                    template=pl.lit(templates[step].name),
                    signature=signatures,
                )
            )
    if not parts or not done.height:
        return None
    order = list(schema_of(CLUSTERS))
    return pl.concat(parts).sort("recorded_at", "recording_id").select(order)


def _with_clusters(lake: Lake, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with the clusters that they belong to, among themselves and with all that the table holds."""
    parts = {step: part for (step,), part in rows.group_by("step", maintain_order=True)}
    newcomers = {step: Newcomers(_bytes(part["signature"]), part["cluster"].to_numpy()) for step, part in parts.items()}
    templates = {step: part["template"][0] for step, part in parts.items()}
    together = joined(lake, templates.values())
    for batch in lake.by_file(CLUSTERS, ["template", "cluster", "signature"]):
        signatures, clusters = _bytes(batch["signature"]), batch["cluster"].to_numpy()
        for step, those in newcomers.items():
            # A template is of one step; what was signed with an earlier one cannot be compared.
            here = (batch["template"] == templates[step]).to_numpy()
            if here.any():
                those.meet(signatures[here], clusters[here])
    done = []
    for step, part in parts.items():
        groups = newcomers[step].groups(together.get(str(step), {}))
        joins = [json.dumps(others) if others else None for others in groups.joins]
        done.append(part.with_columns(cluster=pl.Series(groups.clusters), joins=pl.Series(joins, dtype=pl.String)))
    return pl.concat(done)


def _bytes(signatures: pl.Series) -> np.ndarray:
    """Signatures as they stand in the table, as an array, shape (rows, BYTES)."""
    return signatures.bin.reinterpret(dtype=pl.Array(pl.UInt8, BYTES)).to_numpy()
