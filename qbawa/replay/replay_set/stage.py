"""The replay set of every step, out of the lake and back into it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from qbawa.project import Project
from qbawa.replay.replay_set import repository as questions
from qbawa.replay.replay_set.choose import BEFORE, Choice, Traffic, as_chosen, choose, is_settled, rare_tags
from qbawa.storage.frames import now, schema_of
from qbawa.storage.lake import DraftLake, Lake

SEEN = "questions_seen.json"
"""Note in the home: up to where recordings have been looked at. Without it they are all compared once, by their ids."""


def choose_all(project: Project, log: Callable[[str], Any]) -> dict[str, Choice]:
    """Each step's choice, the most recorded step first, once its rows are in the lake.

    What was asked since the last time is signed before, and given clusters.
    """
    lake, settings = project.lake, project.config.replay_set
    seen = project.notes.get(SEEN)
    note = questions.sign_newcomers(lake, seen, log)
    if note != seen and not isinstance(lake, DraftLake):
        project.notes.put(SEEN, note)
    previous, templates = lake.read("replay_set"), questions.read_templates(lake)
    known = questions.rows_of(lake, {*previous["request_id"], *settings.pin, *settings.exclude})
    together = questions.joined(lake, {template.name for template in templates.values()})
    choices = {}
    for step in templates:
        here = pl.col("step") == step
        choices[step] = _choose(project, step, previous.filter(here), known.filter(here), together.get(step, {}))
    rows = pl.concat([previous.clear(), *(choice.rows for choice in choices.values())])
    lake.replace("replay_set", sorted({*choices, *previous["step"]}), rows)
    return choices


def _choose(
    project: Project, step: str, previous: pl.DataFrame, known: pl.DataFrame, together: Mapping[int, int]
) -> Choice:
    """One step's choice.

    `previous` are its rows of `replay_set`; `known` is what the lake holds of those, of pinned and excluded requests;
    `together` says by number which clusters are one.
    """
    lake, settings, at_once = project.lake, project.config.replay_set, now()
    one = pl.col("cluster").replace(dict(together))
    known = known.with_columns(one)
    excluded = pl.col("request_id").is_in(list(settings.exclude))
    was = previous.select("request_id", "reason", "chosen_at", name="cluster", recorded="recording_id")
    there = known.filter(~excluded).join(was, on="request_id", how="left")
    before = _before(there, settings.pin)
    if is_settled(before, settings, at_once):
        choice = as_chosen(before, at_once)
    else:
        requests = questions.traffic_of(lake, step).filter(~excluded).with_columns(one)
        tags = questions.with_tags(lake, step, rare_tags(questions.tag_counts(lake, step), requests.height))
        bad = lake.read("feedback", ["request_id"], keep=pl.col("score") <= 0)["request_id"].unique()
        traffic = Traffic(requests, bad, tags, lambda ids: questions.texts_of(lake, step, ids))
        choice = choose(before, traffic, settings, at_once)
    return replace(choice, rows=_rows(lake, step, choice.rows, there, known.filter(excluded)["cluster"], together))


def _before(there: pl.DataFrame, pin: Sequence[str]) -> pl.DataFrame:
    """Pinned requests and those of the previous set that still exist, oldest first."""
    pinned = pl.col("request_id").is_in(list(pin))
    reason = pl.when(pinned).then(pl.lit("pinned")).when(pl.col("reason") == "pinned").then(pl.lit("kept"))
    return (
        there.filter(pinned | pl.col("reason").is_not_null())
        .with_columns(pinned=pinned, reason=reason.otherwise("reason"))
        .sort("recorded_at", "request_id")
        .select(BEFORE)
    )


def _rows(
    lake: Lake, step: str, chosen: pl.DataFrame, there: pl.DataFrame, excluded: pl.Series, together: Mapping[int, int]
) -> pl.DataFrame:
    """Rows of the table `replay_set`.

    `there` holds what was known of the set before, with the names that its clusters have in it; `excluded` the clusters of
    excluded requests, which do not count.
    """
    new = questions.rows_of(lake, set(chosen["request_id"]) - set(there["request_id"])).filter(pl.col("step") == step)
    # The recording whose answers exist stays.
    recording = pl.coalesce("recorded", "recording_id")
    recorded = pl.concat(
        [there.select("request_id", recording_id=recording), new.select("request_id", recording_id="recording_id")]
    )
    own = there.select("request_id", "name").drop_nulls()
    names = there.filter(pl.col("name").is_not_null()).sort("recorded_at", "request_id").unique("cluster", keep="first")
    parts = {cluster: [cluster] for cluster in chosen["cluster"].unique()}
    for cluster, one in together.items():
        if one in parts and cluster != one:
            parts[one].append(cluster)
    held = questions.sizes(lake, step, [cluster for some in parts.values() for cluster in some])
    left_out = dict(excluded.value_counts().iter_rows())
    size = {one: sum(held.get(each, 0) for each in some) - left_out.get(one, 0) for one, some in parts.items()}
    number = pl.col("cluster")
    return (
        chosen.join(recorded, on="request_id", how="left", maintain_order="left")
        .join(own.rename({"name": "own"}), on="request_id", how="left", maintain_order="left")
        .join(names.select("cluster", "name"), on="cluster", how="left", maintain_order="left")
        .with_columns(
            step=pl.lit(step),
            block_id=pl.lit(step),
            cluster_size=number.replace_strict(size, return_dtype=pl.Int64),
            named=number.map_elements(name_of, return_dtype=pl.String),
        )
        .with_columns(cluster=pl.coalesce("own", "name", "named"))
        .select(list(schema_of("replay_set")))
    )


def name_of(cluster: int) -> str:
    """What a cluster that has no other name is called in `replay_set`."""
    return f"q_{cluster % (1 << 64):016x}"
