"""The replay set stands for the traffic, and a request that was chosen stays."""

import json
import random
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbawa.config import Config, ReplaySetConfig
from qbawa.project import Home, Project
from qbawa.replay.plots import coverage_picture
from qbawa.replay.replay_set.choose import Choice
from qbawa.replay.replay_set.near_duplicates import Newcomers
from qbawa.replay.replay_set.question_text import question_text
from qbawa.replay.replay_set.signatures import sign, template_of
from qbawa.replay.replay_set.stage import choose_all
from qbawa.replay.stage import replayable_steps
from qbawa.storage.frames import schema_of
from qbawa.storage.lake import Lake

NOTHING = schema_of("replay_set").to_frame()
NO_FEEDBACK = schema_of("feedback").to_frame()
TOPICS = {
    "weather": "rain wind storm cloud snow frost sunny forecast humid breeze thunder drizzle",
    "cooking": "bake fry onion garlic oven recipe flour butter simmer sauce dough pepper",
    "law": "contract clause court judge statute appeal plaintiff lease liability verdict tort",
    "space": "planet orbit rocket lunar comet galaxy telescope gravity meteor eclipse probe",
}


def sentences(topic: str, count: int, seed: int = 0) -> list[str]:
    drawn = random.Random(f"{topic} {seed}")
    words = TOPICS[topic].split()
    return [" ".join(drawn.choices(words, k=14)) + f" {number}" for number in range(count)]


def traffic(texts: list[str], **columns: list[Any]) -> pl.DataFrame:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    rows = {
        "request_id": [f"r{number:04}" for number in range(len(texts))],
        "recording_id": [f"s{number:04}" for number in range(len(texts))],
        "step": ["answer"] * len(texts),
        "inputs": [json.dumps({"question": text}) for text in texts],
        "messages": [None] * len(texts),
        "error": [None] * len(texts),
        "tags": ["{}"] * len(texts),
        "recorded_at": [began + timedelta(seconds=number) for number in range(len(texts))],
    } | columns
    return pl.DataFrame(rows, schema_overrides={name: pl.String for name in ("messages", "error", "tags", "inputs")})


def choose(
    recordings: pl.DataFrame, feedback: pl.DataFrame, settings: ReplaySetConfig, previous: pl.DataFrame
) -> Choice:
    """What is chosen in a home that has recorded this, and chosen that before."""
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(Path(folder, "lake"))
        rows = recordings.with_columns(block_id=pl.lit("b"), model=pl.lit("m"))
        lake.replace("recordings", ["b"], rows)
        lake.replace("feedback", ["b"], feedback.with_columns(block_id=pl.lit("b")))
        lake.replace("replay_set", previous["step"].unique().to_list(), previous)
        project = Project(Home(Path(folder)), Config(replay_set=settings), lake)
        return choose_all(project, lambda line: None).get("answer", Choice(NOTHING))


def near_groups(texts: list[str]) -> list[int]:
    """For each text the place of the first one of its group."""
    signed = sign(texts, template_of(list(dict.fromkeys(texts))))
    clusters = Newcomers(signed.signatures, signed.names).groups({}).clusters.tolist()
    return [clusters.index(cluster) for cluster in clusters]


MIXED = [text for topic in TOPICS for text in sentences(topic, 30)]


def ids(rows: pl.DataFrame) -> set[str]:
    return set(rows["request_id"])


def test_a_chosen_request_stays_as_traffic_and_size_grow() -> None:
    chosen = choose(traffic(MIXED[:60]), NO_FEEDBACK, ReplaySetConfig(size=10), NOTHING).rows
    later = choose(traffic(MIXED), NO_FEEDBACK, ReplaySetConfig(size=10), chosen).rows
    assert later.drop("cluster_size").equals(chosen.drop("cluster_size"))
    larger = choose(traffic(MIXED), NO_FEEDBACK, ReplaySetConfig(size=25), later).rows
    assert ids(later) < ids(larger) and larger.height == 25
    kept = larger.filter(pl.col("request_id").is_in(chosen["request_id"].implode()))
    assert kept.drop("cluster_size").equals(chosen.drop("cluster_size"))


def test_a_smaller_size_keeps_some_of_those_chosen() -> None:
    large = choose(traffic(MIXED), NO_FEEDBACK, ReplaySetConfig(size=20), NOTHING).rows
    small = choose(traffic(MIXED), NO_FEEDBACK, ReplaySetConfig(size=5), large).rows
    assert small.height == 5 and ids(small) < ids(large)


def test_the_same_traffic_gives_the_same_set_in_any_order() -> None:
    rows = traffic(MIXED)
    shuffled = rows.sample(fraction=1, shuffle=True, seed=3)
    found = [choose(r, NO_FEEDBACK, ReplaySetConfig(size=15), NOTHING).rows.drop("chosen_at") for r in (rows, shuffled)]
    assert found[0].equals(found[1])


def test_every_topic_is_covered_however_rare() -> None:
    texts = sentences("weather", 300) + sentences("law", 12) + sentences("space", 12)
    chosen = choose(traffic(texts), NO_FEEDBACK, ReplaySetConfig(size=8), NOTHING).rows
    numbers = [int(request[1:]) for request in chosen["request_id"]]
    assert {0 if n < 300 else 1 if n < 312 else 2 for n in numbers} == {0, 1, 2}


def test_near_duplicates_are_chosen_once() -> None:
    texts = [text for text in sentences("cooking", 12) for _ in range(5)]
    texts = [f"{text.upper()}!" if number % 5 == 4 else text for number, text in enumerate(texts)]
    chosen = choose(traffic(texts), NO_FEEDBACK, ReplaySetConfig(size=40), NOTHING).rows
    assert chosen.height == 12 and set(chosen["cluster_size"]) == {5}


def test_errors_bad_feedback_and_rare_tags_get_their_shares() -> None:
    number = len(MIXED)
    rows = traffic(
        MIXED,
        error=['{"type": "E"}' if n % 10 == 0 else None for n in range(number)],
        tags=[json.dumps({"plan": "gold" if n in (7, 57) else "pro", "session": n}) for n in range(number)],
    )
    feedback = pl.DataFrame({"request_id": ["r0003", "r0033", "r0044"], "score": [0.0, -1.0, 1.0]})
    settings_ = ReplaySetConfig(size=20, error_share=0.2, feedback_share=0.1, rare_tag_share=0.1)
    chosen = choose(rows, feedback, settings_, NOTHING).rows
    reasons = {reason: ids(part) for (reason,), part in chosen.group_by("reason")}
    assert len(reasons["error"]) == 4 and all(int(r[1:]) % 10 == 0 for r in reasons["error"])
    assert reasons["feedback"] == {"r0003", "r0033"} and reasons["tag"] == {"r0007", "r0057"}
    assert chosen.height == 20


def test_pinned_requests_are_in_and_excluded_ones_out() -> None:
    first = choose(traffic(MIXED), NO_FEEDBACK, ReplaySetConfig(size=5), NOTHING).rows
    out, pin = first["request_id"][0], next(r for r in traffic(MIXED)["request_id"] if r not in ids(first))
    settings_ = ReplaySetConfig(size=5, pin=(pin, "absent"), exclude=(out,))
    second = choose(traffic(MIXED), NO_FEEDBACK, settings_, first).rows
    assert pin in ids(second) and out not in ids(second) and second.height == 5
    assert dict(second.select("request_id", "reason").iter_rows())[pin] == "pinned"
    third = choose(traffic(MIXED), NO_FEEDBACK, ReplaySetConfig(size=5), second).rows
    assert dict(third.select("request_id", "reason").iter_rows())[pin] == "kept"


def test_only_recordings_that_ask_something_are_eligible() -> None:
    rows = traffic(MIXED[:4], inputs=["{}", None, json.dumps({"q": "storm"}), "{}"])
    rows = rows.with_columns(messages=pl.Series([None, None, None, '[{"role":"user","content":"bake"}]']))
    assert ids(choose(rows, NO_FEEDBACK, ReplaySetConfig(), NOTHING).rows) == {"r0002", "r0003"}
    assert choose(rows.head(2), NO_FEEDBACK, ReplaySetConfig(), NOTHING).rows.is_empty()


def test_a_request_that_ran_the_step_twice_is_replayed_by_its_first_run() -> None:
    rows = traffic(MIXED[:6]).with_columns(request_id=pl.Series(["a", "b", "a", "b", "a", "c"]))
    chosen = choose(rows, NO_FEEDBACK, ReplaySetConfig(), NOTHING).rows
    assert dict(chosen.select("request_id", "recording_id").iter_rows()) == {"a": "s0000", "b": "s0001", "c": "s0005"}


def test_rows_fit_the_table(tmp_path: Any) -> None:
    lake = Lake(tmp_path)
    chosen = choose(traffic(MIXED), NO_FEEDBACK, ReplaySetConfig(size=7), NOTHING).rows
    assert lake.replace("replay_set", ["answer"], chosen)
    again = choose(traffic(MIXED), NO_FEEDBACK, ReplaySetConfig(size=7), lake.read("replay_set")).rows
    assert not lake.replace("replay_set", ["answer"], again)


def test_clusters_are_kept_and_newcomers_join_them() -> None:
    texts = sentences("law", 6)
    old = choose(traffic(texts[:2]), NO_FEEDBACK, ReplaySetConfig(), NOTHING).rows
    named = old.with_columns(cluster=pl.lit("mine")).head(1)
    more = traffic([texts[0].title(), texts[0], texts[1], texts[2]]).with_columns(
        request_id=pl.Series(["new", "r0000", "r0001", "c"])
    )
    found = choose(more, NO_FEEDBACK, ReplaySetConfig(), named).rows
    clusters = {row["request_id"]: (row["cluster"], row["cluster_size"]) for row in found.iter_rows(named=True)}
    assert clusters.keys() == {"r0000", "r0001", "c"} and clusters["r0000"] == ("mine", 2)
    assert clusters["r0001"] == (old["cluster"][1], 1)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=25))
def test_equal_questions_share_a_group_whatever_they_are(texts: list[str]) -> None:
    groups = near_groups(texts)
    assert len(groups) == len(texts) and all(groups[leader] == leader <= place for place, leader in enumerate(groups))
    for a, text in enumerate(texts):
        assert all(groups[a] == groups[b] for b, other in enumerate(texts) if other == text)


@pytest.mark.parametrize(
    "template", ["", "You are a helpful assistant of our shop. Always answer politely and in one sentence: "]
)
def test_a_template_does_not_make_questions_alike(template: str) -> None:
    texts = [template + text for topic in TOPICS for text in sentences(topic, 10)]
    assert len(set(near_groups(texts))) == len(texts)
    changed = [f"{text} please" for text in texts]
    groups = near_groups(texts + changed)
    assert sum(groups[n] == groups[n + len(texts)] for n in range(len(texts))) >= 0.95 * len(texts)


def test_questions_without_blanks_between_words_are_compared_by_characters() -> None:
    one = "今日の天気はどうですか、傘を持って行くべきでしょうか"
    assert near_groups([one, one + "？", "明日の会議の議題をまとめてください、箇条書きでお願いします"]) == [0, 0, 2]


def test_the_words_of_a_question_are_its_inputs_else_its_messages() -> None:
    said = json.dumps(
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": [{"type": "text", "text": "Why?"}]}]
    )
    assert question_text('{"q": "Who?", "n": 3, "none": null}', said) == "Who? 3"
    assert (
        question_text("{}", said) == "Why?"
        and question_text(None, None) == ""
        and question_text("{broken", None) == "{broken"
    )
    assert len(question_text(json.dumps({"q": "x" * 100_000}), None)) <= 4_001


def test_the_picture_is_a_png_for_any_set() -> None:
    for texts in ([], MIXED[:1], MIXED[:2], MIXED):
        rows = traffic(texts).with_columns(step=pl.lit("$\\evil{step}$ [red]"))
        picture = coverage_picture(choose(rows, NO_FEEDBACK, ReplaySetConfig(size=9), NOTHING))
        assert picture.startswith(b"\x89PNG")


def test_replayable_steps_are_those_that_call_a_model(tmp_path: Any) -> None:
    lake = Lake(tmp_path)
    rows = traffic(MIXED[:3]).with_columns(
        step=pl.Series(["outer", "inner", "inner"]), model=pl.Series([None, "m", "m"])
    )
    lake.replace("recordings", ["b"], rows.with_columns(block_id=pl.lit("b")))
    assert replayable_steps(lake) == ["inner"]
