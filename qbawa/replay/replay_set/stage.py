"""The replay set of every step, out of the lake and back into it."""

from collections import Counter
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

DRAWN = 2_000
"""Recordings of a step up to which its coverage is measured, for the picture, even where nothing can change."""


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
    for step, template in templates.items():
        here = pl.col("step") == step
        choices[step] = _choose(
            project,
            step,
            previous.filter(here),
            known.filter(here),
            together.get(step, {}),
            template.recordings <= DRAWN,
        )
    excluded = known.filter(pl.col("request_id").is_in(list(settings.exclude)))
    choices = _with_sizes(lake, choices, together, excluded)
    rows = pl.concat([previous.clear(), *(choice.rows for choice in choices.values())])
    lake.replace("replay_set", sorted({*choices, *previous["step"]}), rows)
    return choices


def _choose(
    project: Project,
    step: str,
    previous: pl.DataFrame,
    known: pl.DataFrame,
    together: Mapping[int, int],
    draw: bool,
) -> Choice:
    """One step's choice, its rows as `_rows` returns them.

    `previous` are its rows of `replay_set`; `known` is what the lake holds of those, of pinned and excluded requests;
    `together` says by number which clusters are one; `draw` whether a picture is wanted of a set that stays as it is.
    """
    lake, settings, at_once = project.lake, project.config.replay_set, now()
    one = pl.col("cluster").replace(dict(together))
    known = known.with_columns(one)
    excluded = pl.col("request_id").is_in(list(settings.exclude))
    was = previous.select("request_id", "reason", "chosen_at", name="cluster", recorded="recording_id")
    there = known.filter(~excluded).join(was, on="request_id", how="left")
    before = _before(there, settings.pin)
    if is_settled(before, settings, at_once) and not draw:
        choice = as_chosen(before, at_once)
    else:
        requests = questions.traffic_of(lake, step).filter(~excluded).with_columns(one)
        tags = questions.with_tags(lake, step, rare_tags(questions.tag_counts(lake, step), requests.height))
        bad = lake.read("feedback", ["request_id"], keep=pl.col("score") <= 0)["request_id"].unique()
        traffic = Traffic(requests, bad, tags, lambda ids: questions.texts_of(lake, step, ids))
        choice = choose(before, traffic, settings, at_once, draw)
    return replace(choice, rows=_rows(lake, step, choice.rows, there))


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


def _rows(lake: Lake, step: str, chosen: pl.DataFrame, there: pl.DataFrame) -> pl.DataFrame:
    """Rows of the table `replay_set`, with `number`, that of the cluster, in place of its size.

    `there` holds what was known of the set before, with the names that its clusters have in it.
    """
    # The recording whose answers exist stays.
    held = there.select("request_id", recording_id="recorded").drop_nulls()
    both = held, questions.recordings_of(lake, step, set(chosen["request_id"]) - set(held["request_id"]))
    own = there.select("request_id", own="name").drop_nulls()
    names = there.filter(pl.col("name").is_not_null()).sort("recorded_at", "request_id").unique("cluster", keep="first")
    return (
        chosen.join(pl.concat(both), on="request_id", how="left", maintain_order="left")
        .join(own, on="request_id", how="left", maintain_order="left")
        .join(names.select("cluster", "name"), on="cluster", how="left", maintain_order="left")
        .with_columns(
            step=pl.lit(step),
            block_id=pl.lit(step),
            number="cluster",
            cluster=pl.coalesce("own", "name", pl.col("cluster").map_elements(name_of, return_dtype=pl.String)),
        )
        .drop("own", "name")
    )


def _with_sizes(
    lake: Lake, choices: Mapping[str, Choice], together: Mapping[str, Mapping[int, int]], excluded: pl.DataFrame
) -> dict[str, Choice]:
    """The choices with the sizes of their clusters, without excluded requests; counted in one pass for all steps."""
    wanted = {(step, number) for step, choice in choices.items() for number in choice.rows["number"]}
    parts = {(step, number): [number] for step, number in wanted}
    for step, ones in together.items():
        for cluster, one in ones.items():
            if (step, one) in parts and cluster != one:
                parts[step, one].append(cluster)
    held = questions.sizes(lake, {cluster for some in parts.values() for cluster in some})
    left_out = Counter(excluded.select("step", "cluster").iter_rows())
    size = {
        (step, one): sum(held.get((step, each), 0) - left_out[step, each] for each in some)
        for (step, one), some in parts.items()
    }
    done = {}
    for step, choice in choices.items():
        sizes = pl.Series("cluster_size", [size[step, number] for number in choice.rows["number"]], pl.Int64)
        done[step] = replace(choice, rows=choice.rows.with_columns(sizes).select(list(schema_of("replay_set"))))
    return done


def name_of(cluster: int) -> str:
    """What a cluster that has no other name is called in `replay_set`."""
    return f"q_{cluster % (1 << 64):016x}"
