"""Files that no format knows: read by a mapping, which is proposed for them."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imported_rows import FOREIGN

from qbawa.config_file import read_yaml
from qbawa.errors import InputError
from qbawa.importing import ImportReport, import_file, proposed
from qbawa.ingest.formats.mapping import parse_mapping
from qbawa.ingest.formats.paths import elements, parse
from qbawa.ingest.formats.proposal import propose
from qbawa.storage.lake import Lake

RECORD = {
    "a": {"b": [{"c": 1}, {"c": 2}]},
    "x.y": "dotted",
    "talk": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}],
    "json": '{"inner": [5]}',
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b[0].c", 1), ("a.b[-1].c", 2), ("a.b[7].c", None), ("x.y", "dotted"), ('["x.y"]', "dotted"),
        ("talk[role=user].content", "U"), ("talk[role=tool].content", None), ("json.inner[0]", 5), ("=a = b", "a = b"),
        ("$.a.b[1].c", 2), ("a.b.c", None), ("nothing", None), ("^.a", None),
    ],
)  # fmt: skip
def test_a_path_leads_to_its_value_or_to_nothing(path: str, value: Any) -> None:
    assert parse(path).of((RECORD,)) == value


def test_elements_within_elements_know_what_is_around_them() -> None:
    squad = {"data": [{"title": "T", "qas": [{"q": 1}, {"q": 2}]}, {"title": "V", "qas": [{"q": 3}]}]}
    chains = list(elements(squad, "data[].qas[]"))
    assert [(parse("q").of(c), parse("^.title").of(c)) for c in chains] == [(1, "T"), (2, "T"), (3, "V")]
    with pytest.raises(InputError, match="no path"):
        parse("a[b")


def write(folder: Path, lines: list[dict[str, Any]], name: str = "f.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return path


def mapped(folder: Path, path: Path, said: dict[str, Any]) -> tuple[ImportReport, Lake]:
    lake = Lake(folder / "lake")
    return import_file(lake, path, mapped=parse_mapping(said, "map.yaml")), lake


def test_a_mapping_of_a_few_lines_makes_recordings_with_all_that_it_names(tmp_path: Path) -> None:
    line = {
        "ask": {"q": "Why?", "doc": "A page."}, "out": {"text": "So."}, "meta": {"llm": "m", "ms": 1500, "in": 7, "usd": "0.5"},
        "when": "2026-01-02T03:04:05Z", "thumb": True, "who": "u1", "lang": "en",
    }  # fmt: skip
    fields = {
        "question": ["ask.q", "ask.doc"], "answer": "out.text", "model": "meta.llm", "latency_ms": "meta.ms",
        "input_tokens": "meta.in", "cost_usd": "meta.usd", "started_at": "when", "score": "thumb", "user": "who",
        "tags": ["lang"],
    }  # fmt: skip
    report, lake = mapped(
        tmp_path, write(tmp_path, [line]), {"kind": "recordings", "step": "explain", "fields": fields}
    )
    row = lake.read("recordings").row(0, named=True)
    assert (report.rows, report.feedback, row["step"], row["output"], row["model"]) == (1, 1, "explain", "So.", "m")
    assert json.loads(row["messages"]) == [{"role": "user", "content": "Why?\n\nA page."}]
    assert json.loads(row["inputs"]) == {"q": "Why?", "doc": "A page.", "question": "Why?\n\nA page."}
    assert (row["latency_s"], row["input_tokens"], row["cost_usd"], row["user"]) == (1.5, 7, 0.5, "u1")
    assert json.loads(row["tags"]) == {"lang": "en"} and lake.read("feedback")["score"].to_list() == [1.0]
    assert row["recorded_at"].isoformat() == "2026-01-02T03:04:05+00:00"


def test_a_whole_response_says_model_and_tokens_too(tmp_path: Path) -> None:
    body = {
        "choices": [{"message": {"role": "assistant", "content": "Ho"}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    line = {"rq": {"model": "g", "messages": [{"role": "user", "content": "Hey"}], "temperature": 0}, "rs": body}
    _, lake = mapped(tmp_path, write(tmp_path, [line]), {"messages": "rq", "answer": "rs"})
    row = lake.read("recordings").row(0, named=True)
    assert (row["output"], row["model"], row["input_tokens"], row["output_tokens"]) == ("Ho", "g", 3, 2)
    assert json.loads(row["parameters"]) == {"temperature": 0}


def test_answers_of_one_record_are_compared_by_score_or_rank(tmp_path: Path) -> None:
    line = {
        "ask": "Why?",
        "tries": [{"t": "A", "m": "one", "r": 2}, {"t": "B", "m": "two", "r": 1}, {"m": "three", "r": 3}],
    }
    fields = {"question": "$.ask", "answer": "t", "strategy": "m", "rank": "r"}
    report, lake = mapped(tmp_path, write(tmp_path, [line]), {"kind": "answers", "each": "tries[]", "fields": fields})
    assert report.by_reason == {"no_answer": 1} and report.written["matches"] == 1
    names = dict(lake.read("strategies").select("strategy_id", "name").iter_rows())
    match = lake.read("matches").row(0, named=True)
    assert names[match[f"strategy_{match['winner']}"]] == "two"


def test_matches_by_the_words_and_numbers_of_the_file(tmp_path: Path) -> None:
    lines = [
        {"q": f"Q{n}", "l": f"left {n}", "r": f"right {n}", "w": w, "g": g}
        for n, (w, g) in enumerate([("L", 3), ("R", -3), ("=", 0)])
    ]
    path = write(tmp_path, lines)
    sides = {"question": "q", "answer_a": "l", "answer_b": "r", "strategy_a": "=left", "strategy_b": "=right"}
    words = {"verdict": {"path": "w", "values": {"L": "a", "R": "b", "=": "tie"}}}
    for more in (words, {"preference": {"path": "g", "range": [-3, 3]}}):
        _, lake = mapped(tmp_path / next(iter(more)), path, {"kind": "matches", "fields": {**sides, **more}})
        names = dict(lake.read("strategies").select("strategy_id", "name").iter_rows())
        found = [
            m["winner"] if m["winner"] == "tie" else names[m[f"strategy_{m['winner']}"]]
            for m in lake.read("matches").iter_rows(named=True)
        ]
        assert sorted(found) == ["left", "right", "tie"]
    report, _ = mapped(
        tmp_path / "wrong",
        path,
        {"kind": "matches", "fields": {**sides, "verdict": {"path": "w", "values": {"L": "a", "R": "b"}}}},
    )
    assert report.by_reason == {"wrong_type": 1}


def test_what_a_mapping_does_not_find_is_an_error_or_counted(tmp_path: Path) -> None:
    path = write(tmp_path, [{"q": "Why?", "a": "So."}, {"q": None, "a": "Yes."}, {"q": "Who?", "a": None}])
    with pytest.raises(InputError, match="question is said to be at 'qq'.*keys q, a"):
        mapped(tmp_path, path, {"question": "qq", "answer": "a"})
    report, lake = mapped(tmp_path, path, {"question": "q", "answer": "a"})
    assert report.by_reason == {"missing_field": 1, "no_answer": 1} and report.rows == 3
    mostly = write(tmp_path, [{"q": "Why?", "a": "So."}, {"q": "Who?"}, {"q": "Where?"}], "g.jsonl")
    with pytest.raises(InputError, match="no answer in 2 of its 3"):
        mapped(tmp_path / "other", mostly, {"question": "q", "answer": "a"})


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"kind": "recording", "fields": {"question": "q"}}, "no kind 'recording'.*recordings, answers, matches"),
        ({"question": "q", "anser": "a"}, "no field anser.*answer"),
        ({"fields": {}}, "names no fields"),
        ({"kind": "matches", "fields": {"question": "q", "answer_a": "x"}}, "need chosen and rejected, or answer_a"),
        ({"question": "q"}, "need question and answer"),
        ({"question": {"path": {}}, "answer": "a"}, "write a path"),
    ],
)
def test_a_wrong_mapping_says_what_would_be_right(said: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_mapping(said, "map.yaml")


# Shapes of public data sets and logs: a record, and what must be found in it.
STRANGERS = json.loads((Path(__file__).parents[1] / "fixtures" / "strangers.json").read_text())


@pytest.mark.parametrize("name", STRANGERS)
def test_a_file_that_nobody_knows_imports_by_the_mapping_that_is_proposed(tmp_path: Path, name: str) -> None:
    kind, fields = STRANGERS[name]["kind"], set(STRANGERS[name]["fields"])
    path = write(tmp_path, [STRANGERS[name]["record"]])
    found = proposed(path)
    assert found is not None and (found.mapping.kind, set(found.mapping.fields)) == (kind, fields)
    # What is printed is what is used.
    lake = Lake(tmp_path / "lake")
    report = import_file(lake, path, mapped=parse_mapping(read_yaml(found.lines), "map.yaml"))
    assert report.quarantined == 0
    assert lake.read("recordings")["messages"].null_count() == 0 and report.rows >= 1
    if kind == "recordings":
        assert lake.read("recordings")["output"].null_count() == 0
    else:
        assert lake.read("matches")["p_a"].to_list() in ([0.0], [1.0], [pytest.approx(0.5 + 2 / 4)])


def test_a_proposed_verdict_means_both_sides_though_the_sample_shows_one() -> None:
    sides = {"prompt": "Is it?", "response_a": "It is so indeed", "response_b": "It is not so"}
    found = propose([{**sides, "preferred": "B"}])
    assert found is not None and found.mapping.fields["verdict"].values == {"A": "a", "B": "b"}


def test_tables_and_parquet_are_read_by_a_mapping_too(tmp_path: Path) -> None:
    with (tmp_path / "faq.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["Question", "Answer", "Asked At"], ['How "do", I?', "Like\nthis", "2024-01-02"]])
    (tmp_path / "german.csv").write_text("Frage;question;answer\nx;Wer, und wann?;Er, heute\n", encoding="utf-8-sig")
    pl.DataFrame({"instruction": ["do"], "generation": ["done"]}).write_parquet(tmp_path / "gen.parquet")
    for name, output in (("faq.csv", "Like\nthis"), ("german.csv", "Er, heute"), ("gen.parquet", "done")):
        found = proposed(tmp_path / name)
        assert found is not None
        lake = Lake(tmp_path / name.replace(".", "-"))
        import_file(lake, tmp_path / name, mapped=found.mapping)
        assert lake.read("recordings")["output"].to_list() == [output]


_names = st.sampled_from(
    [
        "question",
        "answer",
        "a",
        "a.b",
        "messages",
        "role",
        "content",
        "1",
        "",
        "$x",
        'q"',
        "score_a",
        "answer_1",
        "answer_2",
    ]
)
_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=4),
    max_leaves=15,
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["question", "answer", "x", "chosen", "bad", "good"]), _values), max_size=4
    )
)
def test_any_sample_has_a_proposal_that_can_be_read_back_or_none(sample: list[dict[str, Any]]) -> None:
    found = propose(sample)
    assert found is None or parse_mapping(read_yaml(found.lines), "").fields == found.mapping.fields


@pytest.mark.skipif(not FOREIGN.is_dir(), reason="needs the folder ../shared/data/foreign beside the checkout")
@pytest.mark.parametrize(
    ("name", "kind", "rows"),
    [
        ("hh_rlhf.jsonl", "matches", 6), ("llmonpy_training_data.json", "matches", 25),
        ("alpaca_eval_annotations.json", "matches", 30), ("sharegpt.json", "recordings", 50),
        ("arena_hard_answers.jsonl", "recordings", 25),
    ],
)  # fmt: skip
def test_real_files_would_come_in_by_their_proposal_were_they_not_known(
    tmp_path: Path, name: str, kind: str, rows: int
) -> None:
    found = proposed(FOREIGN / name)
    assert found is not None and found.mapping.kind == kind
    report = import_file(Lake(tmp_path / "lake"), FOREIGN / name, mapped=found.mapping)
    assert (report.rows, report.quarantined) == (rows, 0)


@pytest.mark.slow
def test_the_command_prints_a_proposal_writes_nothing_and_takes_it_as_it_is(tmp_path: Path) -> None:
    def qbawa(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "qbawa", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )

    assert qbawa("init").returncode == 0
    path = write(tmp_path, [STRANGERS["nested"]["record"]])
    refused = qbawa("import", str(path))
    assert refused.returncode == 2 and "CSV" not in refused.stderr
    assert Lake(tmp_path / ".qbawa" / "lake").read("recordings").is_empty()
    (tmp_path / "map.yaml").write_text(refused.stderr[refused.stderr.index("kind: recordings") :])
    taken = qbawa("import", str(path), "--map", "map.yaml")
    assert taken.returncode == 0 and "1 rows" in taken.stdout
    by_paths = qbawa(
        "import", str(path), "--step", "ask", "--map", "question=payload.user.text", "--map", "answer=payload.bot.text"
    )
    assert by_paths.returncode == 0
    rows = Lake(tmp_path / ".qbawa" / "lake").read("recordings")
    assert rows.sort("step").select("step", "output").rows() == [("ask", "At stop 3."), ("chat", "At stop 3.")]
