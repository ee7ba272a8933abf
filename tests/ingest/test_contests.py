"""Preference pairs and evaluations: questions with their answers, and what was said of these."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from imported_rows import FIXTURES, FOREIGN

from qbawa.datasets.stage import build_qbawa
from qbawa.errors import InputError
from qbawa.importing import import_file
from qbawa.ingest.formats.contests import pair, transcript
from qbawa.ingest.formats.step_rows import BadRecordError
from qbawa.project import Home, open_project
from qbawa.replay.stage import choose_requests
from qbawa.storage.lake import Lake
from qbawa.tournaments.stage import rate_strategies

needs_foreign = pytest.mark.skipif(
    not FOREIGN.is_dir(), reason="needs the folder ../shared/data/foreign beside the checkout"
)


WORDS = ("granite", "saffron", "violins", "harbours", "glaciers", "semaphores")


class Match(NamedTuple):
    question: list[dict[str, Any]]
    answers: dict[str, str]
    p: dict[str, float]
    """Of each strategy, to be better."""
    judges: set[str]


def matches_of(lake: Lake) -> list[Match]:
    names = dict(lake.read("strategies", ["strategy_id", "name"]).select("strategy_id", "name").iter_rows())
    asked = {r["request_id"]: json.loads(r["messages"]) for r in lake.read("recordings").iter_rows(named=True)}
    cells = {(c["request_id"], c["strategy_id"]): c["answer"] for c in lake.read("replay_matrix").iter_rows(named=True)}
    verdicts = lake.read("verdicts").to_dicts()
    assert all(verdict["judge_kind"] == "imported" for verdict in verdicts)
    return [
        Match(
            asked[m["request_id"]],
            {names[m[s]]: cells[m["request_id"], m[s]] for s in ("strategy_a", "strategy_b")},
            {} if m["p_a"] is None else {names[m["strategy_a"]]: m["p_a"], names[m["strategy_b"]]: 1 - m["p_a"]},
            {verdict["judge"] for verdict in verdicts if verdict["match_id"] == m["match_id"]},
        )
        for m in lake.read("matches").iter_rows(named=True)
    ]


def brought(tmp_path: Path, path: Path, **options: Any) -> tuple[Any, list[Match], Lake]:
    lake = Lake(tmp_path / "lake")
    report = import_file(lake, path, **options)
    return report, matches_of(lake), lake


def test_preferences_of_every_form_are_a_question_two_answers_and_a_verdict(tmp_path: Path) -> None:
    report, matches, lake = brought(tmp_path, FIXTURES / "preferences.jsonl")
    assert (report.records, report.rows, report.written["matches"], report.written["verdicts"]) == (12, 10, 10, 10)
    assert report.by_reason == {"unreadable_pair": 1} and report.skipped == {"said before in the file": 1}
    assert set(lake.read("recordings")["source"]) == {"preferences.jsonl (preferences)"}
    found = {next(iter(sorted(m.answers.values()))): m for m in matches}
    boat = found["No idea."]
    assert [m["role"] for m in boat.question] == ["user", "assistant", "user"]
    assert boat.question[-1]["content"] == "And a boat?"
    assert boat.answers == {"chosen": "One for water.", "rejected": "No idea."}
    assert boat.p == {"chosen": 1.0, "rejected": 0.0}
    assert found["Hi!"].answers.keys() in ({"m-large", "m-small"}, {"chosen", "rejected"})
    assert {"m-large": 1.0, "m-small": 0.0} in [m.p for m in matches]
    translated = found["Haus"]
    assert translated.question == [{"role": "user", "content": "Translate.\n\nhouse"}]
    # A set that keeps the chosen conversation once more as `messages` asks only what was asked.
    assert found["1, 2"].question == [{"role": "user", "content": "Count."}]
    kind = next(m for m in matches if m.answers.get("chosen") == "Bye!")
    assert [m["role"] for m in kind.question] == ["system", "user"]


def test_tool_calls_are_answers_of_a_pair_and_the_tools_stay_with_the_question(tmp_path: Path) -> None:
    _, matches, lake = brought(tmp_path, FIXTURES / "preferences.jsonl")
    (rome,) = [m for m in matches if "Sunny, I guess." in m.answers.values()]
    call = json.loads(rome.answers["chosen"])["tool_calls"][0]["function"]
    assert call == {"name": "weather", "arguments": {"city": "Rome"}}
    (parameters,) = lake.read("recordings")["parameters"].drop_nulls()
    assert json.loads(parameters)["tools"][0]["function"]["name"] == "weather"


def test_a_second_answer_to_a_question_makes_a_request_of_its_own_that_stays_the_same(tmp_path: Path) -> None:
    _, matches, lake = brought(tmp_path, FIXTURES / "preferences.jsonl")
    named = [m.answers for m in matches if m.question[0]["content"] == "Name it."]
    assert {json.loads(a["chosen"])["name"] for a in named} == {"Refinement", "Loop"}
    before = set(lake.read("recordings")["request_id"])
    lines = (FIXTURES / "preferences.jsonl").read_text().splitlines()
    (tmp_path / "shuffled.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    assert not any(import_file(lake, tmp_path / "shuffled.jsonl").written.values())
    assert set(lake.read("recordings")["request_id"]) == before


def test_alpaca_evals_preference_runs_from_one_to_two(tmp_path: Path) -> None:
    report, matches, lake = brought(tmp_path, FIXTURES / "alpaca_eval.json")
    p = {m.question[0]["content"]: m.p.get("alpha") for m in matches}
    assert p == {"Who?": 0.75, "Why?": 0.0, "When?": 0.5, "How?": None}
    assert report.by_reason == {"wrong_type": 1} and all(m.judges == {"gpt4_turbo"} for m in matches)
    assert lake.read("verdicts")["verdict"].to_list().count("unscored") == 1
    assert lake.read("verdicts")["cost_usd"].to_list() == [0.01] * 4


def test_promptfoo_scores_compare_the_answers_to_a_test(tmp_path: Path) -> None:
    report, matches, lake = brought(tmp_path, FIXTURES / "promptfoo.json")
    assert sorted(m.p["openai:small"] for m in matches) == [0.5, 1.0]
    # The failed call and the score that it leaves alone are counted, not lost.
    assert report.by_reason == {"no_answer": 1, "lone_score": 1}
    assert [json.loads(text) for text in lake.read("recordings").sort("inputs")["inputs"]] == [
        {"country": country} for country in ("France", "Peru", "Spain")
    ]
    cell = lake.read("replay_matrix").row(0, named=True)
    assert (cell["cost_usd"], cell["latency_s"], cell["input_tokens"], cell["output_tokens"]) == (0.0001, 0.25, 6, 3)


def test_mt_benchs_turns_are_steps_under_their_question_id(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    import_file(lake, FIXTURES / "mt_bench.jsonl")
    cells = lake.read("replay_matrix").sort("step", "answer")
    assert cells.select("request_id", "step", "answer").rows() == [
        ("101", "mt_bench.turn_1", "First."), ("101", "mt_bench.turn_1", "Second place."),
        ("101", "mt_bench.turn_2", "Last."), ("101", "mt_bench.turn_2", "Third."),
    ]  # fmt: skip


def test_ranks_of_an_openassistant_tree_are_matches_between_siblings(tmp_path: Path) -> None:
    _, matches, lake = brought(tmp_path, FIXTURES / "oasst.jsonl")
    better = {tuple(sorted(m.p, key=lambda name: -m.p[name])) for m in matches}
    assert better == {("rank 1", "rank 2"), ("rank 1", "rank 3"), ("rank 2", "rank 3")}
    # A lone reply below is an answer to all that was said before it.
    asked = {r["request_id"]: json.loads(r["messages"]) for r in lake.read("recordings").iter_rows(named=True)}
    assert [m["content"] for m in asked["q2"]] == ["How do I rest?", "Go to bed early.", "When?"]
    assert dict(lake.read("strategies").select("name", "model").iter_rows())["rank 3"] == "chip"


def test_conversations_of_sharegpt_are_a_row_an_answer(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    report = import_file(lake, FIXTURES / "sharegpt.json")
    rows = lake.read("recordings").sort("recording_id")
    assert rows["output"].to_list() == ["A model.", "Sure."] and set(rows["request_id"]) == {"talk-1"}
    assert [len(json.loads(m)) for m in rows["messages"]] == [2, 4] and report.by_reason == {"no_answer": 1}


def test_a_file_that_mostly_says_nothing_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    lines = [{"chosen": "yes", "rejected": "no"}] * 3 + [{"prompt": "q", "chosen": "yes", "rejected": "no"}]
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, lines)))
    lake = Lake(tmp_path / "lake")
    with pytest.raises(InputError, match="says nothing in 3 of its 4 records.*the question.*Nothing was imported"):
        import_file(lake, tmp_path / "f.jsonl")
    assert all(lake.read(table).is_empty() for table in ("recordings", "replay_matrix", "matches", "quarantine"))


def test_transcripts_keep_what_is_said_and_only_read_speakers_at_the_start_of_a_paragraph() -> None:
    assert transcript("Human: one\n\nAssistant: two") == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
    ]
    assert transcript("A text. Human: no") is None and transcript("plain") is None
    asked = transcript("\n\nHuman: a\nHuman: b\n\nAssistant:")
    assert asked == [{"role": "user", "content": "a\nHuman: b"}]


def test_equal_answers_and_a_question_beside_the_conversations() -> None:
    user, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}
    same = pair(None, [user, answer], [user, answer])
    assert same.messages == [{"role": "user", "content": "q"}] and same.first == same.second == "x"
    with pytest.raises(BadRecordError, match="differ in more than their last answer"):
        pair(None, [user, answer, user, answer], [user, {**answer, "content": "y"}, user, answer])
    with pytest.raises(BadRecordError, match="question"):
        pair(None, "a", "b")


@needs_foreign
@pytest.mark.parametrize(
    ("name", "format", "questions", "answers", "matches"),
    [
        ("hh_rlhf.jsonl", "preferences", 6, 12, 6),
        ("llmonpy_training_data.json", "preferences", 25, 50, 25),
        ("alpaca_eval_annotations.json", "alpaca_eval", 30, 60, 30),
        ("llmonpy_tournaments.json", "llmonpy", 0, 99, 333),
        ("mtbench_answers.jsonl", "mt_bench", 0, 40, 0),
    ],
)
def test_real_files_lose_no_question_answer_or_verdict(
    tmp_path: Path, name: str, format: str, questions: int, answers: int, matches: int
) -> None:
    lake = Lake(tmp_path / "lake")
    report = import_file(lake, FOREIGN / name)
    heights = [lake.read(table).height for table in ("recordings", "replay_matrix", "matches", "verdicts")]
    assert (report.format, heights) == (format, [questions, answers, matches, matches]) and report.quarantined == 0
    assert not import_file(lake, FOREIGN / name).changed


@needs_foreign
def test_every_reply_of_the_real_trees_is_an_answer(tmp_path: Path) -> None:
    _, matches, lake = brought(tmp_path, FOREIGN / "oasst_trees.jsonl")
    trees = [json.loads(line)["prompt"] for line in (FOREIGN / "oasst_trees.jsonl").read_text().splitlines()]
    waiting, replies = list(trees), Counter[str]()
    while waiting:
        message = waiting.pop()
        replies[message["role"]] += 1
        waiting += message["replies"]
    assert lake.read("replay_matrix").height == replies["assistant"]
    assert len(matches) == 83 and all(set(m.p.values()) == {0.0, 1.0} for m in matches)


@needs_foreign
def test_the_first_pair_of_hh_rlhf_word_for_word(tmp_path: Path) -> None:
    _, matches, _ = brought(tmp_path, FOREIGN / "hh_rlhf.jsonl")
    (flow,) = [m for m in matches if "time flow" in m.question[0]["content"]]
    assert flow.answers["rejected"] == "It does." and flow.answers["chosen"].startswith("That’s a good question, but")
    assert flow.p["chosen"] == 1.0


@pytest.mark.slow
def test_imported_preferences_reach_ratings_and_pairs(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.config.write_text("pairs: {p_best: 0.55}\n")
    project = open_project(home)
    lines = [
        {"prompt": f"What of {word}, and why?", "chosen": f"{word} it is, since {word} lasts.", "rejected": "Perhaps."}
        for word in WORDS
    ]
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, lines)))
    import_file(project.lake, tmp_path / "f.jsonl", step="ask")
    choose_requests(project)
    rate_strategies(project)
    names = dict(project.lake.read("strategies").select("strategy_id", "name").iter_rows())
    assert names[project.lake.read("ratings").sort("strength")["strategy_id"][-1]] == "chosen"
    pairs = build_qbawa(project).pairs
    assert sorted(pairs["best_answer"]) == sorted(line["chosen"] for line in lines)
    assert set(pairs["worse_answer"]) == {"Perhaps."}
