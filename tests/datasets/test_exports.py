"""Exports: every format, the same bytes, nothing swapped, nothing leaked."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import jsonschema
import orjson
import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from qbawa import ids
from qbawa.config import DatasetConfig, Format
from qbawa.datasets.exports.bias import measure
from qbawa.datasets.exports.check import compile_schema
from qbawa.datasets.exports.export import ExportReport, export_dataset
from qbawa.datasets.exports.formats import FORMATS, Pair, as_object, from_object
from qbawa.datasets.exports.manifest import diff, read_manifest
from qbawa.datasets.exports.read_back import import_back
from qbawa.datasets.exports.select import select_rows
from qbawa.datasets.pairs.build import SCHEMA
from qbawa.errors import ConfigError, InputError, LeakError

STEP = "answer"
PAIRED = [name for name, spec in FORMATS.items() if spec.holds == "pairs"]


def ask(text: str) -> str:
    return orjson.dumps([{"role": "user", "content": text}]).decode()


def frame(rows: list[tuple[str, str, str]], **columns: Any) -> pl.DataFrame:
    """Pairs (question, best, worse), each of a request of its own unless told otherwise."""
    made = [
        {
            "pair_id": ids.pair_id(f"r{k:04}", STEP, best, worse),
            "step": STEP,
            "request_id": f"r{k:04}",
            "question": question,
            "best_answer": best,
            "worse_answer": worse,
            "best_strategy": "s1",
            "worse_strategy": "s2",
            "best_cell": f"b{k}",
            "worse_cell": f"w{k}",
            "p_best": 0.95,
            "margin": 1.0,
            "basis": "direct",
            "judges": ["judy"],
            "dissent": 0.0,
            "cluster": f"c{k}",
            "split": ("train", "train", "test")[k % 3],
            "match_ids": [f"m{k}"],
            "block_id": STEP,
        }
        for k, (question, best, worse) in enumerate(rows)
    ]
    return pl.DataFrame(made, schema=SCHEMA).with_columns(**columns)


TOPICS = ("tides", "copper roofs", "violin bridges", "sourdough", "semaphores", "glaciers")
PAIRS = frame(
    [
        (ask(f"Explain {t} to my {10 + k} year old daughter"), f"good words about {t}", f"bad words on {t}")
        for k, t in enumerate(TOPICS)
    ]
)


def settings_of(**values: Any) -> DatasetConfig:
    return DatasetConfig.model_validate({"p_best": 0.5} | values)


def export(pairs: pl.DataFrame, folder: Path, requests: pl.DataFrame | None = None, **values: Any) -> ExportReport:
    return export_dataset(pairs, "d", settings_of(**values), folder, {"qbawa": 7}, requests=requests)


def rows_of(report: ExportReport, split: str = "train") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (report.path / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_there_is_a_format_for_every_name_that_the_configuration_allows() -> None:
    assert set(FORMATS) == set(get_args(Format))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
OBJECT = st.dictionaries(
    TEXT, st.one_of(TEXT, st.integers(-1000, 1000), st.none(), st.lists(TEXT, max_size=2)), max_size=2
)
ANSWER = st.one_of(TEXT, OBJECT.map(lambda o: orjson.dumps(o).decode()), OBJECT.map(lambda o: json.dumps(o, indent=1)))
PAIR = st.tuples(TEXT, ANSWER, ANSWER).filter(lambda p: p[1] != p[2] and p[1].strip() != "" and p[2].strip() != "")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FORMATS))
@settings(max_examples=3, deadline=None)
@given(
    st.lists(
        PAIR, min_size=4, max_size=12, unique_by=(lambda p: p[0].casefold().strip(), lambda p: p[1], lambda p: p[2])
    )
)
def test_chosen_and_rejected_are_never_swapped(name: str, triples: list[tuple[str, str, str]]) -> None:
    pairs = frame([(ask(f"{q} #{k * 31}"), f"{b}", w) for k, (q, b, w) in enumerate(triples)], split=pl.lit("train"))
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = export(pairs, Path(folder), format=name)
        except InputError as nothing_left:
            assert "would be empty" in str(nothing_left)
            return
        kept = pairs.filter(pl.col("pair_id").is_in(report.pair_ids))
        for suffix in ("jsonl", "parquet"):
            again = import_back(report.path, suffix)
            best, worse = set(again["best_answer"].drop_nulls()), set(again["worse_answer"].drop_nulls())
            if FORMATS[name].holds == "pairs":
                columns = ["question", "best_answer", "worse_answer"]
                assert sorted(again.select(columns).rows()) == sorted(kept.select(columns).rows())
            assert best <= set(kept["best_answer"]) and worse <= set(kept["worse_answer"])
            if FORMATS[name].holds == "answers":
                assert worse


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_row_satisfies_the_json_schema_by_jsonschema_too(name: str, tmp_path: Path) -> None:
    schema = FORMATS[name].schema
    jsonschema.Draft202012Validator.check_schema(schema)
    check = compile_schema(schema)
    for row in rows_of(export(PAIRS, tmp_path, format=name)):
        jsonschema.validate(row, schema)
        assert check(row) is None


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.data())
def test_the_fast_check_agrees_with_jsonschema_on_damaged_rows(name: str, data: st.DataObject) -> None:
    schema = FORMATS[name].schema
    row: Any = FORMATS[name].row(Pair([{"role": "user", "content": "q"}], "best", "worse", {}))
    where, key = row, data.draw(st.sampled_from(sorted(row)))
    while isinstance(where[key], dict | list) and where[key] and data.draw(st.booleans()):
        where = where[key]
        key = data.draw(st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where))))
    where[key] = data.draw(
        st.sampled_from([None, "", "system", 3, True, [], {}, [{}], {"role": "user"}, ["x"], "text"])
    )
    valid = jsonschema.Draft202012Validator(schema).is_valid(row)
    assert (compile_schema(schema)(row) is None) == valid


@pytest.mark.slow
def test_rows_look_as_the_trainers_want_them(tmp_path: Path) -> None:
    user = [{"role": "user", "content": "Explain tides to my 10 year old daughter"}]
    good, bad = "good words about tides", "bad words on tides"

    def say(text: str) -> dict[str, str]:
        return {"role": "assistant", "content": text}

    wanted: dict[str, Any] = {
        "trl_preference": {"prompt": user[0]["content"], "chosen": good, "rejected": bad},
        "trl_preference_conversational": {"prompt": user, "chosen": [say(good)], "rejected": [say(bad)]},
        "trl_sft": {"prompt": user[0]["content"], "completion": good},
        "openai_sft": {"messages": [*user, say(good)]},
        "openai_dpo": {
            "input": {"messages": user, "tools": [], "parallel_tool_calls": True},
            "preferred_output": [say(good)],
            "non_preferred_output": [say(bad)],
        },
        "axolotl_dpo": {"messages": user, "chosen": say(good), "rejected": say(bad)},
        "llama_factory": {
            "conversations": [{"from": "human", "value": user[0]["content"]}],
            "chosen": {"from": "gpt", "value": good},
            "rejected": {"from": "gpt", "value": bad},
        },
        "dspy": {"question": user[0]["content"], "answer": good},
        "llmonpy": {"question": user[0]["content"], "best_answer": {"answer": good}, "worse_answer": {"answer": bad}},
    }
    for name, row in wanted.items():
        assert rows_of(export(PAIRS.head(1), tmp_path, format=name)) == [row], name
    labels = [
        (row["completion"], row["label"]) for row in rows_of(export(PAIRS.head(1), tmp_path, format="trl_unpaired"))
    ]
    assert sorted(labels) == [(bad, False), (good, True)]


def test_an_answer_on_both_sides_is_neither_good_nor_bad(tmp_path: Path) -> None:
    q = ask("one question")
    pairs = frame(
        [(q, "top", "middle"), (q, "middle", "bottom")],
        request_id=pl.lit("r"),
        split=pl.lit("train"),
        cluster=pl.lit("c"),
    )
    pairs = pairs.with_columns(
        pair_id=pl.Series([ids.pair_id("r", STEP, b, w) for b, w in (("top", "middle"), ("middle", "bottom"))])
    )
    report = export(pairs, tmp_path, format="trl_unpaired")
    assert {(row["completion"], row["label"]) for row in rows_of(report)} == {("top", True), ("bottom", False)}
    assert report.removed["answer as often worse as best"] == 1
    assert [row["completion"] for row in rows_of(export(pairs, tmp_path, format="trl_sft"))] == ["top"]


@settings(max_examples=200, deadline=None)
@given(ANSWER)
def test_an_answer_as_an_object_and_back_is_the_same_text(answer: str) -> None:
    assert from_object(orjson.loads(orjson.dumps(as_object(answer)))) == answer


def test_the_same_inputs_give_the_same_bytes_in_the_same_place(tmp_path: Path) -> None:
    shuffled = PAIRS.sample(fraction=1, shuffle=True, seed=3)
    first, second = export(PAIRS, tmp_path / "a"), export(shuffled, tmp_path / "b")
    assert first.version == second.version and first.sha256 == second.sha256
    files = sorted(p.relative_to(first.path) for p in first.path.rglob("*") if p.is_file())
    assert {"train.jsonl", "train.parquet", "README.md", "manifest.json", "plots/pairs.png"} <= {
        p.as_posix() for p in files
    }
    for name in files:
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes(), name
    assert first.new and not export(PAIRS, tmp_path / "a").new


def test_the_manifest_names_every_file_with_its_sha256(tmp_path: Path) -> None:
    folder = export(PAIRS, tmp_path).path
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    del files["manifest.json"]
    told = {name: {"sha256": hashlib.sha256(held).hexdigest(), "bytes": len(held)} for name, held in files.items()}
    assert read_manifest(folder)["files"] == told


def test_a_failed_export_leaves_nothing_behind(tmp_path: Path) -> None:
    leaking = PAIRS.with_columns(cluster=pl.lit("one"))
    with pytest.raises(LeakError, match="cluster 'one'"):
        export(leaking, tmp_path)
    assert not list(tmp_path.rglob("*.jsonl"))
    with pytest.raises(InputError, match=r"would be empty.*6 × p_best below 0.99"):
        export(PAIRS, tmp_path, p_best=0.99)


def test_swapped_and_edited_labels_are_caught(tmp_path: Path) -> None:
    best, worse = PAIRS["best_answer"].to_list(), PAIRS["worse_answer"].to_list()
    best[0], worse[0] = worse[0], best[0]
    best[1] = "quite another answer"
    report = export(PAIRS.with_columns(best_answer=pl.Series(best), worse_answer=pl.Series(worse)), tmp_path)
    assert report.removed == {"swapped labels": 1, "edited after it was built": 1}
    assert len(report.pair_ids) == 4


def test_contradictions_and_duplicates_are_caught(tmp_path: Path) -> None:
    same = ask("Which river crosses Lisbon on its way to the sea?")
    rows = [
        (same, "the Tagus river", "the Douro"),
        (same, "The Douro.", "The Tagus river!"),
        (ask("a"), "x", "y"),
        (ask("A!"), "X", "y"),
    ]
    report = export(frame(rows, cluster=pl.lit("c"), split=pl.lit("train")), tmp_path)
    assert report.removed == {"contradicted by another pair": 2, "duplicate": 1}


SECRET = "use sk-abcdefghijklmnopqrstuvwxyz123456 to log in"


@pytest.mark.parametrize("where", ["question", "best_answer", "worse_answer"])
def test_a_secret_keeps_its_pair_out(where: str, tmp_path: Path) -> None:
    row = {"question": ask("who are you"), "best_answer": "a bot", "worse_answer": "a cat"}
    row[where] = ask(SECRET) if where == "question" else SECRET
    rows = [(q, b, w) for q, b, w in PAIRS.select("question", "best_answer", "worse_answer").rows()] + [
        tuple(row.values())
    ]
    report = export(frame(rows), tmp_path)
    assert report.removed == {"holds a secret": 1}
    assert not any(b"sk-abc" in p.read_bytes() for p in report.path.rglob("*") if p.is_file())


def test_redaction_replaces_what_it_is_asked_to(tmp_path: Path) -> None:
    question = orjson.dumps(
        [{"role": "user", "content": "Mail\nanna@example.org or call +49 30 1234567 today"}]
    ).decode()
    pairs = frame(
        [(question, f"I wrote to anna@example.org. {SECRET}", "no"), (ask("b"), "bob@example.org", "eve@example.org")],
        split=pl.lit("train"),
    )
    report = export(pairs, tmp_path, redact=["email", "phone", "key"])
    (row,) = rows_of(report)
    assert row == {
        "prompt": "Mail\n[email] or call [phone] today",
        "chosen": "I wrote to [email]. use [key] to log in",
        "rejected": "no",
    }
    assert report.removed == {"equal once redacted": 1}


def test_redacting_names_without_its_extra_says_what_to_install(tmp_path: Path) -> None:
    try:
        import presidio_analyzer  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match=r"qbawa\[redact\]"):
            export(PAIRS, tmp_path, redact=["name"])
    else:
        pytest.skip("presidio-analyzer is installed; this is about its absence")


def test_donated_data_have_consent_and_licence_in_every_row(tmp_path: Path) -> None:
    requests = pl.DataFrame(
        {
            "request_id": PAIRS["request_id"],
            "consent": [True, True, False, None, True, True],
            "license": ["CC0-1.0", None, "CC0-1.0", "CC0-1.0", "", "MIT"],
        }
    )
    report = export(PAIRS, tmp_path, requests, consent=True)
    assert report.request_ids == ["r0000", "r0005"]
    assert report.removed == {"no consent": 2, "consent without a licence": 2}
    with pytest.raises(ConfigError, match="consent"):
        export(PAIRS, tmp_path, consent=True)


def test_where_is_sql_over_the_pairs_and_nothing_else(tmp_path: Path) -> None:
    report = export(PAIRS, tmp_path, where="request_id IN ('r0001', 'r0002') AND list_contains(judges, 'judy')")
    assert report.request_ids == ["r0001", "r0002"]
    for bad in ("no_such_column = 1", "1 = 1) UNION SELECT 0 --", "EXISTS (SELECT 1 FROM read_text('/etc/hostname'))"):
        with pytest.raises(ConfigError, match="where"):
            export(PAIRS, tmp_path, where=bad)


def test_a_bare_empty_object_is_an_answer_too() -> None:
    """Found by the property test above: `{}` once became an object that LLMonPy's schema refuses."""
    assert as_object("{}") == {"answer": "{}"}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=4, max_size=60), st.integers(0, 5))
def test_length_balance_leaves_longer_best_as_often_as_not(lengths: list[tuple[int, int]], seed: int) -> None:
    pairs = frame(
        [
            (ask(f"question {k} {k * 17} {k * 5}"), f"{k} ".ljust(b + 4, "x"), f"{k} ".ljust(w + 4, "y"))
            for k, (b, w) in enumerate(lengths)
        ]
    )
    kept = select_rows(pairs, "d", settings_of(balance_length=True, seed=seed), None, Counter())
    for _, split in kept.group_by("split"):
        longer = (split["best_answer"].str.len_chars() > split["worse_answer"].str.len_chars()).sum()
        shorter = (split["best_answer"].str.len_chars() < split["worse_answer"].str.len_chars()).sum()
        assert longer == shorter


def test_size_picks_the_same_pairs_as_data_grow(tmp_path: Path) -> None:
    small = export(PAIRS.head(5), tmp_path, size=3)
    assert sum(small.rows.values()) == 3
    grown = export(PAIRS, tmp_path, size=3)
    assert len(set(small.pair_ids) - set(grown.pair_ids)) <= 1


def test_diff_names_what_changed(tmp_path: Path) -> None:
    old = export(PAIRS.head(5), tmp_path)
    new = export(
        PAIRS.tail(5).with_columns(p_best=pl.when(pl.col("request_id") == "r0002").then(0.8).otherwise("p_best")),
        tmp_path,
        seed=1,
    )
    change = diff(old.path, new.path)
    assert change.removed == [PAIRS["pair_id"][0]] and change.added == [PAIRS["pair_id"][5]]
    assert change.p_changed == [PAIRS["pair_id"][2]] and change.moved == []
    assert change.settings == {"seed": (0, 1)}
    assert "1 pairs added, 1 removed" in change.summary


def test_the_card_has_front_matter_and_says_what_is_in_it(tmp_path: Path) -> None:
    report = export(PAIRS, tmp_path, license="cc-by-4.0", description="Pairs about *things*.")
    text = (report.path / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "cc-by-4.0" and front["size_categories"] == ["n<1K"]
    assert [f["split"] for f in front["configs"][0]["data_files"]] == ["train", "test"]
    assert all((report.path / f["path"]).exists() for f in front["configs"][0]["data_files"])
    assert "| judy | 6 |" in text and "longer answer is best in 100.0%" in text
    assert (report.path / "plots/pairs.png").read_bytes().startswith(b"\x89PNG")


def test_text_from_users_cannot_become_markup_in_the_card(tmp_path: Path) -> None:
    nasty = "x | y](http://evil)<img src=x>\n# heading"
    report = export(PAIRS.with_columns(judges=pl.Series([[nasty]] * 6)), tmp_path)
    text = (report.path / "README.md").read_text(encoding="utf-8")
    assert "<img" not in text.replace("\\<img", "") and "\n# heading" not in text


def test_biases_are_what_they_are_called() -> None:
    pairs = frame([(ask("a"), "long answer here", "short"), (ask("b"), "s", "long"), (ask("c"), "- item", "plain")])
    bias = measure(pairs)
    assert bias.longer_best == pytest.approx(2 / 3)
    assert bias.markup_best == 1.0 and bias.top_best == 1.0


def test_the_manifest_says_what_it_was_made_of(tmp_path: Path) -> None:
    manifest = read_manifest(export(PAIRS, tmp_path, policy="hardest").path)
    assert manifest["lake_versions"] == {"qbawa": 7} and manifest["rows"] == {"train": 4, "test": 2}
    assert manifest["declaration"]["policy"] == "hardest" and len(manifest["files"]["train.jsonl"]["sha256"]) == 64
    lineage = pl.read_parquet(tmp_path / "d" / manifest["version"] / "lineage.parquet")
    assert lineage["pair_id"].sort().to_list() == PAIRS["pair_id"].sort().to_list()


def test_dspy_rows_carry_the_steps_own_inputs(tmp_path: Path) -> None:
    requests = PAIRS.select("request_id", inputs=pl.lit('{"topic": "tides", "depth": 3, "answer": "old"}'))
    report = export(PAIRS, tmp_path, requests, format="dspy")
    assert rows_of(report)[0] == {
        "topic": "tides",
        "depth": 3,
        "input_answer": "old",
        "answer": "good words about tides",
    }
    assert "with_inputs" in (report.path / "load_dspy.py").read_text()


def test_llama_factory_has_its_dataset_info(tmp_path: Path) -> None:
    report = export(PAIRS, tmp_path, format="llama_factory")
    info = json.loads((report.path / "dataset_info.json").read_text())
    assert info["d_train"]["ranking"] is True and info["d_train"]["columns"]["messages"] == "conversations"
    assert (report.path / info["d_test"]["file_name"]).exists()


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_the_datasets_library_loads_every_format(name: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="pip install datasets to load exports with the real library")
    report = export(PAIRS, tmp_path, format=name)
    for builder, suffix in (("json", "jsonl"), ("parquet", "parquet")):
        loaded = datasets.load_dataset(
            builder,
            data_files={s: str(report.path / f"{s}.{suffix}") for s in report.rows},
            cache_dir=str(tmp_path / "cache"),
        )
        assert {split: loaded[split].num_rows for split in report.rows} == report.rows


@pytest.mark.parametrize("name", [n for n in sorted(FORMATS) if n.startswith("trl_")])
def test_trl_takes_every_trl_format(name: str, tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="pip install 'qbawa[train]' to load exports with the real library")
    from trl.data_utils import is_conversational, maybe_unpair_preference_dataset  # noqa: PLC0415

    datasets = pytest.importorskip("datasets")
    report = export(PAIRS, tmp_path, format=name)
    loaded = datasets.load_dataset(
        "json", data_files=str(report.path / "train.jsonl"), cache_dir=str(tmp_path / "cache")
    )["train"]
    assert is_conversational(loaded[0]) == name.endswith("conversational")
    if FORMATS[name].holds == "pairs":
        unpaired = maybe_unpair_preference_dataset(loaded)
        assert sum(unpaired["label"]) * 2 == unpaired.num_rows


def test_the_dspy_loader_makes_examples(tmp_path: Path) -> None:
    pytest.importorskip("dspy", reason="pip install 'qbawa[optimize]' to load exports with the real library")
    import importlib.util

    report = export(PAIRS, tmp_path, format="dspy")
    spec = importlib.util.spec_from_file_location("load_dspy", report.path / "load_dspy.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    example = module.load("train")[0]
    assert set(example.inputs().keys()) == {"question"} and example.answer.startswith("good words")
