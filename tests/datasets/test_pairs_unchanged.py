"""Building pairs costs what is new: nothing where nothing is, and never another result than building all."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections import Counter
from itertools import combinations
from pathlib import Path

import polars as pl
import pytest
from counted_lake import CountedLake
from hypothesis import given, settings
from hypothesis import strategies as st
from small_lake import STEP, fill

from qbawa.config import PairsConfig
from qbawa.datasets.near_duplicates import normalised, normalised_texts
from qbawa.datasets.pairs.build import build_pairs
from qbawa.datasets.pairs.posterior import TYPICAL_EFFECT
from qbawa.datasets.pairs.unchanged import Built, hash_of
from qbawa.datasets.stage import build_qbawa
from qbawa.project import Home, Project, open_project
from qbawa.storage.frames import frame
from qbawa.storage.lake import Lake

pytestmark = pytest.mark.slow

NOTE = "built_pairs.json"
IDS = ("recording_id", "cell_id", "match_id", "verdict_id", "cell_a", "cell_b")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Two steps, both judged."""
    home = Home(tmp_path)
    home.config.write_text("pairs: {p_best: 0.55}\n")
    lake = Lake(home.lake)
    fill(lake)
    for table in ("recordings", "replay_set", "replay_matrix", "matches", "verdicts"):
        rows = lake.read(table)
        names = [name for name in rows.columns if name in IDS]
        twin = rows.with_columns(pl.lit("other").alias("step"), *(pl.format("o{}", name).alias(name) for name in names))
        if table == "replay_set":
            twin = twin.with_columns(block_id=pl.lit("other"))
        lake.merge(table, twin)
    return open_project(home)


def built_at(project: Project) -> dict[str, set[object]]:
    rows = project.lake.read("qbawa").group_by("step").agg(pl.col("built_at").unique())
    return {step: set(times) for step, times in rows.iter_rows()}


def unjudge(project: Project, step: str) -> None:
    """Turn the verdict of one match of a step round."""
    first = (pl.col("step") == step) & (pl.col("request_id") == "r_3") & (pl.col("slot") == 1)
    turned = project.lake.read("matches", keep=first).with_columns(p_a=pl.lit(0.2), winner=pl.lit("b"))
    assert project.lake.merge("matches", turned)


def everything(project: Project) -> pl.DataFrame:
    """The pairs as they are where nothing is known of an earlier build."""
    (project.home.root / NOTE).unlink(missing_ok=True)
    return build_qbawa(project).pairs.drop("built_at").sort("pair_id")


def test_a_step_that_has_not_changed_is_not_built_again(project: Project) -> None:
    first = build_qbawa(project)
    before = built_at(project)
    assert set(before) == {STEP, "other"}
    unjudge(project, "other")
    again = build_qbawa(project)
    after = built_at(project)
    assert after[STEP] == before[STEP] and after["other"].isdisjoint(before["other"])
    # What is said of all steps and what stands there is what a build of everything gives.
    kept = again.pairs.drop("built_at").sort("pair_id")
    assert kept.equals(everything(project)) and not kept.equals(first.pairs.drop("built_at").sort("pair_id"))
    whole = build_qbawa(project)
    assert (again.removed, again.effect) == (whole.removed, whole.effect)


def test_where_nothing_is_new_only_the_pairs_are_read(project: Project) -> None:
    first = build_qbawa(project)
    lake, state = CountedLake(project.lake.uri), project.lake.state("qbawa")
    again = build_qbawa(dataclasses.replace(project, lake=lake))
    assert set(lake.most) == {"qbawa"} and project.lake.state("qbawa") == state
    assert again.pairs.sort("pair_id").equals(first.pairs.sort("pair_id"))
    assert (again.removed, again.effect) == (first.removed, first.effect)


def test_other_traffic_and_maintenance_build_nothing(project: Project) -> None:
    build_qbawa(project)
    before = built_at(project)
    other = {"request_id": "new", "recording_id": "new", "step": STEP, "messages": "[]", "block_id": "b_2"}
    project.lake.replace("recordings", ["b_2"], frame("recordings", [other]))
    project.maintain()
    lake = CountedLake(project.lake.uri)
    build_qbawa(dataclasses.replace(project, lake=lake))
    assert built_at(project) == before
    assert lake.most["recordings"] == 16, "of requests that are not in the matrix nothing is read"


@pytest.mark.slow
def test_what_changes_a_pair_has_it_built_again(project: Project) -> None:
    lake = project.lake
    here = (pl.col("step") == STEP) & (pl.col("request_id") == "r_3")
    answer = lake.read("replay_matrix", keep=here).head(1).with_columns(answer=pl.lit("quite another answer"))
    said = lake.read("verdicts", keep=here).head(1).with_columns(verdict=pl.lit("b"), preference=pl.lit(0.0))
    cluster = lake.read("replay_set", keep=here).with_columns(cluster=pl.lit("c_other"))
    for table, rows in {"replay_matrix": answer, "verdicts": said, "replay_set": cluster}.items():
        build_qbawa(project)
        lake.merge(table, rows)
        changed = build_qbawa(project).pairs.drop("built_at").sort("pair_id")
        assert changed.equals(everything(project)), table
    # Pairs that somebody has removed come back.
    whole = lake.read("qbawa")
    lake.delete("qbawa", "request_id = 'r_1'")
    assert build_qbawa(project).pairs.height == whole.height == lake.read("qbawa").height
    project.home.config.write_text("pairs: {max_per_request: 1}\n")
    assert build_qbawa(open_project(project.home)).pairs.height < whole.height


def test_a_note_that_cannot_be_read_is_none(project: Project) -> None:
    first = build_qbawa(project).pairs
    for text in ("", "{", "[]", "null", '{"inputs": "", "pairs": null, "steps": {"answer": {}}}'):
        assert Built.read(text) == Built()
        project.notes.put(NOTE, text)
        assert build_qbawa(project).pairs.sort("pair_id").equals(first.sort("pair_id"))


def test_the_hash_is_of_rows_and_settings_and_of_nothing_else() -> None:
    rows = pl.DataFrame({"a": ["x", None], "b": [1.0, 2.0], "many": [["1"], []]})
    same = hash_of({"k": 1}, [rows])
    assert same == hash_of({"k": 1}, [rows.with_columns(many=pl.lit(None, pl.List(pl.String)))])
    others = [rows.reverse(), rows.rename({"b": "c"}), rows.with_columns(a=pl.lit("x")), rows.head(1), rows.clear()]
    assert len({same, hash_of({"k": 2}, [rows]), *(hash_of({"k": 1}, [other]) for other in others)}) == 7


ANSWERS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["one", "two", "three", "", " ", None])), min_size=1, max_size=14
)


def unjudged(answers: list[tuple[int, str | None]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Cells and questions of (request, answer), a strategy for each."""
    cells = [
        {
            "cell_id": f"c{k}", "request_id": f"r{request}", "step": STEP, "strategy_id": f"s{k}", "sample": 0,
            "answer": answer, "status": "ok", "block_id": f"r{request}",
        }
        for k, (request, answer) in enumerate(answers)
    ]  # fmt: skip
    rows = frame("replay_matrix", cells)
    asked = rows.select("step", "request_id", question=pl.lit("[]"), cluster=pl.col("request_id")).unique()
    return rows, asked


@settings(max_examples=60, deadline=None)
@given(ANSWERS, st.booleans())
def test_without_a_match_every_pair_is_counted_and_none_is_made(
    answers: list[tuple[int, str | None]], inferred: bool
) -> None:
    cells, asked = unjudged(answers)
    config = PairsConfig.model_validate({"p_best": 0.6, "inferred": inferred})
    report = build_pairs(frame("matches", []), frame("verdicts", []), cells, asked, config)
    counted: Counter[str] = Counter()
    for (r, a), (q, b) in combinations(answers, 2):
        if r == q:
            if a is None or b is None:
                counted["failed answer"] += 1
            elif not a.strip() or not b.strip():
                counted["empty answer"] += 1
            elif a == b:
                counted["equal answers"] += 1
            else:
                counted["not sure enough" if inferred else "never judged"] += 1
    assert report.removed == dict(counted) and report.pairs.is_empty() and report.effect == {STEP: TYPICAL_EFFECT}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(st.none(), st.text(max_size=8), st.sampled_from(["ﬁx ＡＢ", "!?", " _ ", "Fix ab", "É."])), max_size=6
    )
)
def test_texts_that_are_mostly_ascii_are_normalised_as_all_others(texts: list[str | None]) -> None:
    rows = pl.Series("text", texts, dtype=pl.String)
    assert normalised_texts(rows).to_list() == rows.to_frame().select(normalised(pl.col("text")))["text"].to_list()


def test_a_floor_that_takes_every_pair_has_them_without_a_match_too() -> None:
    cells, asked = unjudged([(0, "one"), (0, "two"), (0, "three")])
    config = PairsConfig.model_validate({"p_best": 0.5})
    pairs = build_pairs(frame("matches", []), frame("verdicts", []), cells, asked, config).pairs
    assert pairs["p_best"].to_list() == [0.5] * 3


def test_a_thousand_strategies_without_a_match_take_no_memory_for_their_pairs() -> None:
    """Half a million pairs a request were made, to leave out all of them."""
    cells, asked = unjudged([(request, f"answer {k}") for request in range(3) for k in range(700)])
    tracemalloc.start()
    report = build_pairs(frame("matches", []), frame("verdicts", []), cells, asked, PairsConfig.model_validate({}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.removed == {"not sure enough": 3 * 700 * 699 // 2}
    assert peak < 10_000_000, f"{peak:,} bytes of arrays"
