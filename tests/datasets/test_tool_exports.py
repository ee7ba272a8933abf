"""Exports of pairs that hold tools: each format's own form, nothing mixed up, the same pairs when read back."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import polars as pl
import pytest
from small_lake import fill

from qbawa import ids
from qbawa.config import DatasetConfig
from qbawa.datasets.exports.export import ExportReport, export_dataset
from qbawa.datasets.exports.formats import FORMATS, Pair, read_messages
from qbawa.datasets.exports.read_back import import_back
from qbawa.datasets.exports.select import select_rows
from qbawa.datasets.exports.write import to_rows
from qbawa.datasets.pairs.asked import asked_besides
from qbawa.datasets.pairs.build import SCHEMA
from qbawa.datasets.pairs.unchanged import hash_of
from qbawa.datasets.stage import _MADE_OF, build_qbawa
from qbawa.model_apis.meaning import meaning
from qbawa.project import Home, Project, open_project
from qbawa.storage.lake import Lake

Json = Any
Row = tuple[list[Json], str, str, Json]


def call(name: str, arguments: Json, call_id: str | None = None) -> dict[str, Json]:
    found: dict[str, Json] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return found if call_id is None else {"id": call_id, **found}


def calling(*calls: Json, said: str | None = None) -> str:
    """An answer that calls tools, as it is kept."""
    message = {"role": "assistant", "content": said, "tool_calls": list(calls)}
    return orjson.dumps(message, option=orjson.OPT_SORT_KEYS).decode()


def pairs_of(rows: list[Row]) -> pl.DataFrame:
    made = [
        {
            "pair_id": ids.pair_id(f"r{k}", "s", best, worse), "step": "s", "request_id": f"r{k}",
            "question": orjson.dumps(question).decode(), "best_answer": best, "worse_answer": worse,
            "parameters": orjson.dumps(asked).decode() if asked else None,
            "best_strategy": "s1", "worse_strategy": "s2", "best_cell": f"b{k}", "worse_cell": f"w{k}", "p_best": 0.95,
            "margin": 1.0, "basis": "direct", "judges": ["judy"], "dissent": 0.0, "cluster": f"c{k}", "split": "train",
            "match_ids": [f"m{k}"], "block_id": "s",
        }
        for k, (question, best, worse, asked) in enumerate(rows)
    ]  # fmt: skip
    return pl.DataFrame(made, schema=SCHEMA)


def export(rows: list[Row], folder: Path, name: str, **values: Any) -> ExportReport:
    config = DatasetConfig.model_validate({"p_best": 0.5, "format": name} | values)
    return export_dataset(pairs_of(rows), "d", config, folder)


def lines(report: ExportReport) -> list[dict[str, Json]]:
    return [json.loads(line) for line in (report.path / "train.jsonl").read_text(encoding="utf-8").splitlines()]


BOOK = {"type": "function", "function": {"name": "book", "description": "Books.", "parameters": {"type": "object"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": ["object", "null"]}}}
ASK = [{"role": "user", "content": "Two nights in Rome"}]
ROME, PARIS = calling(call("book", {"city": "Rome", "nights": 2})), calling(call("book", {"city": "Paris"}))
SIMPLE: Row = (ASK, ROME, "I would love to help you!", {"tools": [BOOK], "tool_choice": "auto"})
HISTORY = [
    {"role": "system", "content": "You book."},
    {"role": "user", "content": "Is it warm in Rome and Oslo? Then book the warmer one."},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [call("weather", '{"city":"Rome"}', "call_1"), call("weather", '{"city":"Oslo"}', "call_2")],
    },
    {"role": "tool", "content": "21 degrees", "tool_call_id": "call_1"},
    {"role": "tool", "content": '["snow"]', "tool_call_id": "call_2"},
]
TURNS: Row = (HISTORY, calling(call("book", {"city": "Rome"}), call("weather", {"day": 3})), "It is warm in Rome.",
              {"tools": [BOOK, WEATHER], "parallel_tool_calls": False})  # fmt: skip
PROSE: Row = ([{"role": "user", "content": "Why do copper roofs turn green?"}], "The patina.", "No idea.", None)
WORDY: Row = ([{"role": "user", "content": "Rome or Paris for a violin maker?"}],
              calling(call("book", {"city": "Rome"}), said="Rome it is."), PARIS, {"tools": [BOOK]})  # fmt: skip
BOTH_PROSE: Row = ([{"role": "user", "content": "What is a semaphore, in one line?"}], "A counter.", "A flag.",
                   {"tools": [BOOK]})  # fmt: skip
ALL = [SIMPLE, TURNS, PROSE, WORDY, BOTH_PROSE]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportReport]:
    """All of them in every format."""
    return {name: export(ALL, tmp_path_factory.mktemp(name), name) for name in FORMATS}


def left_out(rows: list[Row], name: str) -> dict[str, int]:
    removed: Counter[str] = Counter()
    select_rows(pairs_of(rows), "d", DatasetConfig.model_validate({"p_best": 0.5, "format": name}), None, removed)
    return {reason: n for reason, n in removed.items() if n}


def plain(value: str | None) -> Json:
    return None if value is None else json.loads(value)


@pytest.mark.slow
def test_datasets_of_words_alone_are_what_they_were_to_the_byte(tmp_path: Path) -> None:
    """Versions and rows as 0.1.0's successor wrote them before tools had a form."""
    several = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Copper roofs?"},
        {"role": "assistant", "content": "They turn green."},
        {"role": "user", "content": [{"type": "text", "text": "Why"}, {"type": "text", "text": "exactly?"}]},
    ]
    json_wanted = [
        {"role": "developer", "content": "Say JSON."},
        {"role": "user", "content": 'Give "type" and {braces} of violins'},
    ]
    rows: list[Row] = [
        ([{"role": "user", "content": "Explain tides to my daughter"}], "good words", "bad words", None),
        (several, '{"a": 1, "b": [2]}', '{"a":1,"b":null}', None),
        # The form of a reply is part of the question, but no format has a place for it: the rows are the same.
        (json_wanted, "The patina [1].", "no", {"response_format": {"type": "json_object"}}),
    ]
    before = {
        "axolotl_dpo": ("d8eafcb78aa0", "acd5c6e7639d70be"),
        "dspy": ("b273d7f92d68", "509516705c960246"),
        "llama_factory": ("07834322908d", "cc79975e51e9b34b"),
        "llmonpy": ("06d5fe9566ac", "f06468d292eb5f3b"),
        "openai_dpo": ("b289951b5907", "c4895497f6ed4d36"),
        "openai_sft": ("3928dc40f10a", "cc54b70428c9341b"),
        "trl_preference": ("3f92d7d542ff", "a335ffcb80bf57a9"),
        "trl_preference_conversational": ("e6a19d4f6928", "b853811cd2aaf774"),
        "trl_sft": ("cad6bd246a8b", "fdc690a5a7a31ea9"),
        "trl_unpaired": ("0fdde96f001a", "1410f70a5d5476f1"),
        "trl_unpaired_conversational": ("2ac78789235a", "7caabc59dc8741d2"),
    }
    assert set(before) == set(FORMATS)
    for name, expected in before.items():
        report = export(rows, tmp_path / name, name)
        digest = hashlib.sha256((report.path / "train.jsonl").read_bytes()).hexdigest()[:16]
        assert (report.version, digest) == expected, name
        assert not (report.path / "load_trl.py").exists()
        assert not {"tools", "tool_calls"} & set(pl.read_parquet(report.path / "train.parquet").columns)


def test_every_format_writes_tools_as_its_trainer_reads_them() -> None:
    def row_of(name: str, row: Row) -> dict[str, Json]:
        question, best, worse, asked = row
        return FORMATS[name].row(Pair(read_messages(json.dumps(question)), best, worse, {}, asked=asked))

    sure = call("book", '{"city":"Rome","nights":2}', "call_1")
    says = {"role": "assistant", "content": "I would love to help you!"}
    reply = {"role": "assistant", "content": None, "tool_calls": [sure]}
    trl = row_of("trl_preference_conversational", SIMPLE)
    assert trl == {"prompt": ASK, "chosen": [reply], "rejected": [says], "tools": trl["tools"]}
    assert json.loads(trl["tools"]) == [BOOK]
    assert row_of("trl_unpaired_conversational", SIMPLE) == {
        "prompt": ASK, "completion": [reply], "label": True, "tools": trl["tools"],
    }  # fmt: skip
    assert row_of("openai_sft", SIMPLE) == {"messages": [*ASK, reply], "tools": [BOOK]}
    readable = '{"tool_calls":[{"name":"book","arguments":{"city":"Rome","nights":2}}]}'
    bare = orjson.dumps([BOOK["function"]]).decode()
    assert row_of("trl_preference", SIMPLE) == {
        "prompt": f"Tools: {bare}\n\nUser: Two nights in Rome", "chosen": readable, "rejected": says["content"],
    }  # fmt: skip
    assert row_of("llama_factory", SIMPLE) == {
        "conversations": [{"from": "human", "value": "Two nights in Rome"}],
        "chosen": {"from": "function_call", "value": '{"name":"book","arguments":{"city":"Rome","nights":2}}'},
        "rejected": {"from": "gpt", "value": says["content"]},
        "tools": bare,
    }
    assert row_of("dspy", SIMPLE) == {
        "question": "Two nights in Rome", "tools": [BOOK], "answer": readable,
        "tool_calls": [{"name": "book", "args": {"city": "Rome", "nights": 2}}],
    }  # fmt: skip
    assert row_of("llmonpy", SIMPLE)["best_answer"] == json.loads(ROME)
    dpo = row_of("openai_dpo", BOTH_PROSE)
    assert dpo["input"]["tools"] == [BOOK] and dpo["input"]["parallel_tool_calls"] is True


def test_turns_that_call_tools_keep_their_calls_ids_and_results(exported: dict[str, ExportReport]) -> None:
    messages = lines(exported["openai_sft"])[1]
    assert messages["parallel_tool_calls"] is False and messages["messages"][:-1] == HISTORY
    # Ids that the conversation uses are not given again.
    assert [c["id"] for c in messages["messages"][-1]["tool_calls"]] == ["call_3", "call_4"]
    trl = lines(exported["trl_preference_conversational"])[1]
    assert [m.get("name") for m in trl["prompt"]] == [None, None, None, "weather", "weather"]
    turns = lines(exported["llama_factory"])[1]["conversations"]
    assert [turn["from"] for turn in turns] == ["system", "human", "function_call", "observation"]
    assert json.loads(turns[2]["value"])[1] == {"name": "weather", "arguments": {"city": "Oslo"}}
    assert json.loads(turns[3]["value"]) == ["21 degrees", '["snow"]']
    prompt = lines(exported["trl_preference"])[1]["prompt"]
    assert 'Assistant: {"tool_calls":[{"name":"weather","arguments":{"city":"Rome"}},' in prompt
    assert "\n\nTool: 21 degrees\n\nTool: " in prompt


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_reading_back_gives_the_same_pairs_with_their_tools(
    name: str, suffix: str, exported: dict[str, ExportReport]
) -> None:
    report = exported[name]
    again = import_back(report.path, suffix)
    for row in lines(report):
        jsonschema.validate(row, FORMATS[name].schema)
    kept = {k: row for k, row in enumerate(ALL) if ids.pair_id(f"r{k}", "s", row[1], row[2]) in report.pair_ids}
    answers = {best for _, best, _, _ in kept.values()} | {worse for _, _, worse, _ in kept.values()}
    found = {a for side in ("best_answer", "worse_answer") for a in again[side].drop_nulls()}
    assert {meaning(a) for a in found} <= {meaning(a) for a in answers} and {
        meaning(best) for _, best, _, _ in kept.values()
    } <= {meaning(a) for a in found}
    conversational = name in ("trl_preference_conversational", "openai_dpo", "llama_factory")
    if not conversational:
        return
    for (question, best, worse, asked), row in zip(kept.values(), again.iter_rows(named=True), strict=True):
        assert json.loads(row["question"]) == question
        assert (meaning(row["best_answer"]), meaning(row["worse_answer"])) == (meaning(best), meaning(worse))
        assert (plain(row["parameters"]) or {}).get("tools") == (asked or {}).get("tools")


def test_what_a_format_has_no_form_for_is_left_out_and_counted(
    exported: dict[str, ExportReport], tmp_path: Path
) -> None:
    calls = "has no form for answers that call tools"
    assert exported["openai_dpo"].removed == {f"openai_dpo {calls}": 3}
    offered = "axolotl_dpo has no form for tools on offer"
    assert exported["axolotl_dpo"].removed == {f"axolotl_dpo {calls}": 3, offered: 1}
    report = exported["llama_factory"]
    assert report.removed == {"llama_factory has no form for answers with words beside tool calls": 1}
    hosted: Row = (ASK, "Rain.", "Sun.", {"tools": [{"type": "web_search"}]})
    searched = (
        "trl_preference_conversational",
        "trl_unpaired_conversational",
        "openai_sft",
        "openai_dpo",
        "llama_factory",
    )
    for name in searched:
        assert left_out([hosted, PROSE], name) == {f"{name} has no form for tools that are no functions": 1}
    assert left_out([hosted, PROSE], "trl_preference") == {}
    wish = FORMATS["trl_preference"].row(Pair(hosted[0], "Rain.", "Sun.", {}, asked=hosted[3]))["prompt"]
    assert wish == 'Tools: [{"type":"web_search"}]\n\nUser: Two nights in Rome'
    custom = [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "x"}}]}
    ]
    typed: Row = ([*ASK, *custom, {"role": "tool", "tool_call_id": "c", "content": "y"}], "Rain.", "Sun.", None)
    assert left_out([typed], "llmonpy") == {"llmonpy has no form for calls of tools that are no functions": 1}
    spoken: Row = (
        [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "UklG"}}]}],
        "a",
        "b",
        None,
    )
    picture = [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}},
    ]
    seen: Row = ([{"role": "user", "content": picture}], "A cat.", "A dog.", None)
    heard = export([spoken, seen], tmp_path, "openai_sft")
    assert heard.removed == {"openai_sft has no form for sound or files": 1}
    assert lines(heard)[0]["messages"][0]["content"] == picture
    for suffix in ("jsonl", "parquet"):
        assert json.loads(import_back(heard.path, suffix)["question"][0]) == seen[0]
    assert left_out([seen, PROSE], "openai_dpo") == {"openai_dpo has no form for pictures": 1}


def test_tools_of_one_row_do_not_stand_in_another(exported: dict[str, ExportReport]) -> None:
    report = exported["trl_preference_conversational"]
    rows = pl.read_parquet(report.path / "train.parquet").to_dicts()
    assert [row["tools"] is None for row in rows] == [False, False, True, False, False]
    functions = [c["function"] for row in rows for c in row["chosen"][0]["tool_calls"] or []]
    assert [json.loads(f["arguments"]) for f in functions] == [
        {"city": "Rome", "nights": 2}, {"city": "Rome"}, {"day": 3}, {"city": "Rome"},
    ]  # fmt: skip


@pytest.mark.slow
def test_a_result_whose_call_was_cut_away_and_the_older_form_of_calls_are_written_too(tmp_path: Path) -> None:
    lone = [{"role": "tool", "tool_call_id": "c", "content": "21 degrees"}, {"role": "user", "content": "Warm enough?"}]
    old: list[Json] = [
        {"role": "user", "content": "And in Oslo, on the first of March?"},
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"city":"Oslo"}'}},
        {"role": "function", "name": "weather", "content": "snow"},
    ]
    rows: list[Row] = [(lone, "Yes.", "No.", None), (old, "Cold.", "Warm.", {"functions": [WEATHER["function"]]})]
    for name in ("openai_sft", "llama_factory"):
        report = export(rows, tmp_path, name)
        for suffix in ("jsonl", "parquet"):
            again = import_back(report.path, suffix).rows(named=True)
            if name == "openai_sft":
                assert json.loads(again[0]["question"]) == lone
            messages = json.loads(again[1]["question"])
            (called,) = messages[1]["tool_calls"]
            assert called["function"] == old[1]["function_call"] and messages[2]["tool_call_id"] == called["id"]
            assert json.loads(again[1]["parameters"])["tools"] == [WEATHER]
    assert left_out(rows, "axolotl_dpo") == {"axolotl_dpo has no form for tool calls in the question": 2}


def test_a_call_that_stands_in_pairs_in_two_spellings_is_one_answer() -> None:
    twin = calling(call("book", {"nights": 2.0, "city": "Rome"}))
    rows = pairs_of([SIMPLE, (SIMPLE[0], twin, "No.", SIMPLE[3])]).with_columns(request_id=pl.lit("r"))
    assert to_rows(rows, "openai_sft")[0].height == 1
    labels = to_rows(rows, "trl_unpaired_conversational")[0]["label"]
    assert sorted(labels) == [False, False, True]


def test_other_tools_make_another_version_and_the_same_make_the_same(tmp_path: Path) -> None:
    first = export([SIMPLE], tmp_path, "openai_sft")
    assert not export([SIMPLE], tmp_path, "openai_sft").new
    assert export([(*SIMPLE[:3], {"tools": [WEATHER]})], tmp_path, "openai_sft").version != first.version


def test_one_question_with_other_tools_is_another_question() -> None:
    turned: Row = (SIMPLE[0], SIMPLE[2], SIMPLE[1], {"tools": [WEATHER]})
    assert left_out([SIMPLE, turned], "llmonpy") == {}
    assert left_out([SIMPLE, (*turned[:3], SIMPLE[3])], "llmonpy") == {"contradicted by another pair": 2}


def test_secrets_and_addresses_in_tools_do_not_leave(tmp_path: Path) -> None:
    key = {"type": "function", "function": {"name": "f", "description": "uses sk-abcdefghijklmnopqrstuvwxyz123456"}}
    assert left_out([SIMPLE, (*PROSE[:3], {"tools": [key]})], "llmonpy") == {"holds a secret": 1}
    mail = {"type": "function", "function": {"name": "f", "description": "asks anna@example.org"}}
    dialled = calling(call("dial", {"phone": "+49 30 1234567", "n": 1}))
    report = export([(ASK, dialled, "No.", {"tools": [mail]})], tmp_path, "openai_sft", redact=["email", "phone"])
    (row,) = lines(report)
    assert row["tools"][0]["function"]["description"] == "asks [email]"
    assert json.loads(row["messages"][-1]["tool_calls"][0]["function"]["arguments"]) == {"phone": "[phone]", "n": 1}


def test_what_was_asked_besides_is_what_could_be_answered() -> None:
    recorded = {"tools": [BOOK], "temperature": 0.2, "stop": None, "extra_body": {"parallel_tool_calls": False}}
    assert json.loads(asked_besides(json.dumps(recorded)) or "") == {"tools": [BOOK], "parallel_tool_calls": False}
    assert [asked_besides(text) for text in (None, "{}", "no JSON", '{"tools": [], "temperature": 1}')] == [None] * 4


@pytest.fixture
def project(tmp_path: Path) -> Project:
    home = Home(tmp_path)
    home.config.write_text("pairs: {p_best: 0.55}\n")
    fill(Lake(home.lake))
    return open_project(home)


@pytest.mark.slow
def test_pairs_keep_what_was_asked_besides_and_their_ids(project: Project) -> None:
    lake = project.lake
    before = build_qbawa(project).pairs
    assert before["parameters"].null_count() == before.height > 0
    recorded = lake.read("recordings").with_columns(
        parameters=pl.when(pl.col("request_id") == "r_3").then(pl.lit(json.dumps({"tools": [BOOK], "top_p": 1})))
    )
    lake.merge("recordings", recorded)
    after = build_qbawa(project).pairs
    assert set(after["pair_id"]) == set(before["pair_id"])
    held = after.filter(pl.col("parameters").is_not_null())
    assert set(held["request_id"]) == {"r_3"} and json.loads(held["parameters"][0]) == {"tools": [BOOK]}
    # Pairs of a version that knew no tools are not taken for what would be built now.
    lake.replace("qbawa", ["answer"], after.with_columns(parameters=pl.lit(None, pl.String)))
    note = json.loads(project.notes.get("built_pairs.json"))
    tables = {table: lake.state(table) for table in _MADE_OF}
    of_then = hash_of({"pairs": project.config.pairs.model_dump(mode="json"), "tables": tables})
    note |= {"inputs": of_then, "pairs": list(lake.state("qbawa"))}
    project.notes.put("built_pairs.json", json.dumps(note))
    assert build_qbawa(project).pairs["parameters"].null_count() == after["parameters"].null_count()


@pytest.mark.parametrize("name", ["trl_preference_conversational", "trl_unpaired_conversational"])
def test_the_loader_for_trl_gives_calls_as_chat_templates_want_them(
    name: str, exported: dict[str, ExportReport]
) -> None:
    pytest.importorskip("datasets", reason="pip install datasets to load exports with the real library")
    import importlib.util  # noqa: PLC0415

    report = exported[name]
    spec = importlib.util.spec_from_file_location("load_trl", report.path / "load_trl.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = list(module.load("train"))
    side = "chosen" if "chosen" in rows[0] else "completion"
    called = [m["tool_calls"] for row in rows for m in row[side] if "tool_calls" in m]
    assert {"city": "Rome", "nights": 2} in [c["function"]["arguments"] for calls in called for c in calls]
