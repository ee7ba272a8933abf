"""qbawa.yaml: what is wrong in it is said with key, value and what would be right; nothing else ever comes out."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from qbawa import config as config_module
from qbawa.cli.sample import write_sample
from qbawa.config import Config
from qbawa.config_file import load_config, parse_config
from qbawa.errors import ConfigError, InputError
from qbawa.project import Home, configured_lake
from qbawa.replay.strategies.grid import expand
from qbawa.storage.lake import Lake

ROOT = Path(__file__).parents[1]

# What is written, and what the message must name: the key, the value, what would be right.
WRONG: list[tuple[str, tuple[str, ...]]] = [
    ("tournamnt: {format: auto}", ("tournamnt", "no such key", "tournament", "judges")),
    ("models: {m: {requests_per_minuet: 5}}", ("models.m.requests_per_minuet", "requests_per_minute")),
    ("strategies: [{step: s, modle: x}]", ("strategies.0.modle", "no such key", "model,")),
    ("strategies: [{step: s, program: {kind: single, m: 1}}]", ("strategies.0.program.m", "proposers")),
    ("judges: {j: {model: offline/judge, weight: 1}}", ("judges.j.weight", "rubric")),
    ("datasets: {d: {p: 1}}", ("datasets.d.p", "p_best")),
    ("strategies: [{model: offline/lead}]", ("strategies.0.step", "required")),
    ("judges: {j: {rubric: nice}}", ("judges.j.model", "required")),
    ("models: {m: {requests_per_minute: -5}}", ("models.m.requests_per_minute", "-5", "greater than 0")),
    ("models: {m: {requests_per_minute: many}}", ("models.m.requests_per_minute", "'many'", "number")),
    ("models: {m: {tokens_per_minute: .nan}}", ("models.m.tokens_per_minute", "nan", "finite")),
    ("models: {m: {timeout_s: .inf}}", ("models.m.timeout_s", "inf", "finite")),
    ("models: {m: {free: perhaps}}", ("models.m.free", "'perhaps'", "boolean")),
    ("models: {m: 5}", ("models.m", "5", "dictionary")),
    ("models: [m]", ("models", "['m']", "dictionary")),
    ("strategies: {a: {step: s}}", ("strategies", "tuple")),
    ("strategies: [{step: s, model: gpt-9}]", ("strategies[0].models", "'gpt-9'", "under `models`", "Models: none")),
    (
        "models: {m: {}}\nstrategies: [{step: s, model: m, program: {proposers: [n]}}]",
        ("strategies[0].models", "'n'", "Models: m"),
    ),
    ("strategies: [{step: s, model: offline/textrnk}]", ("'offline/textrnk'", "offline/textrank")),
    ("judges: {j: {model: gpt-9}}", ("judges.j.model", "'gpt-9'", "Models: none")),
    ("judges: {j: {model: offline/juge}}", ("judges.j.model", "'offline/juge'", "offline/judge")),
    ("judges: {j: {model: offline/judge, kind: dual}}", ("judges.j.kind", "'dual'", "'pairwise'", "'listwise'")),
    (
        "judges: {j: {model: offline/judge}}\nsteps: {s: {jury: [k]}}",
        ("steps.s.jury", "'k'", "Judges: j"),
    ),
    ("tournament: {format: knockout}", ("tournament.format", "'knockout'", "'swiss'")),
    ("tournament: {confidence: 95}", ("tournament.confidence", "95", "less than 1")),
    ("tournament: {verdict_budget: 1.5}", ("tournament.verdict_budget", "1.5", "integer")),
    ("budget: {usd_per_day: $5}", ("budget.usd_per_day", "'$5'", "number")),
    ("budget: {usd_per_run: -1}", ("budget.usd_per_run", "-1", "greater than or equal to 0")),
    ("pairs: {splits: {train: 0.8}}", ("splits must sum to 1", "0.8")),
    ("pairs: {splits: {train: 1.5, test: -0.5}}", ("pairs.splits.test", "-0.5", "greater than or equal to 0")),
    ("pairs: {splits: {train: 0.9, dev: 0.1}}", ("pairs.splits.dev", "'train', 'validation' or 'test'")),
    ("pairs: {p_best: 0.3}", ("pairs.p_best", "0.3", "0.5")),
    ("datasets: {d: {format: csv}}", ("datasets.d.format", "'csv'", "'trl_preference'", "'openai_dpo'")),
    ("datasets: {d: {redact: [emails]}}", ("datasets.d.redact.0", "'emails'", "'email'")),
    ("datasets: {../../d: {}}", ("datasets", "../../d", "pattern")),
    ("champions: {p_better: 0.5}", ("champions.p_better", "0.5", "greater than 0.5")),
    ("lake: {storage_options: {region: 1}}", ("lake.storage_options.region", "1", "string")),
    ("replay_set: {size: 0}", ("replay_set.size", "0", "greater than or equal to 1")),
    ("journals: app/journal", ("journals", "'app/journal'", "tuple")),
    ("- step: s", ("holds a list", "`models:`")),
    ("just words", ("holds a str", "`strategies:`")),
    ("models: {m: [}", ("not valid YAML", "line 1")),
    ("models:\n\tm: {}", ("not valid YAML", "line 2")),
    ("budget: {usd_per_day: 1}\nmodels: {}\nbudget: {}", ("'budget'", "twice", "line 3")),
    ("models:\n  m: {free: true}\n  m: {}", ("'m'", "twice", "line 3")),
    ("lake: !!python/object/apply:os.system ['true']", ("not valid YAML", "python/object")),
    ("lake: 2026-99-99", ("not valid YAML", "month")),
    ("lake: &a [*a]", ("not valid YAML", "contains itself")),
    ("lake: " + "[" * 20_000, ("not valid YAML", "deep")),
]


@pytest.mark.parametrize(("text", "named"), WRONG, ids=[text[:50].replace("\n", "; ") for text, _ in WRONG])
def test_what_is_wrong_is_named_with_its_value_and_what_would_be_right(text: str, named: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(text, "home/qbawa.yaml")
    message = str(raised.value)
    assert message.startswith("home/qbawa.yaml ")
    assert not [word for word in named if word not in message], message
    assert len(message) < 2_000


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config("replay_set: {size: 0}\ntournament: {k: 0}\nbuget: {}")
    assert [line.strip().split(":")[0] for line in str(raised.value).splitlines()[1:]] == [
        "replay_set.size", "tournament.k", "buget"
    ]  # fmt: skip


BOMBS = {
    "lists": "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))
    + "\nbudget: *a11",
    "texts": f"a0: &a0 {'x' * 100_000}\njournals: [{', '.join(['*a0'] * 20_000)}]",
    "maps": "a0: &a0 {x: 1, y: 2}\n" + "\n".join(f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}" for n in range(1, 60)),
    "in an open section": "models: {m: {extra: {a0: &a0 [x, x, x, x, x, x, x, x, x], "
    + ", ".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))
    + "}}}",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_yaml_bomb_is_refused_and_does_not_go_off(bomb: str) -> None:
    before = time.process_time()
    with pytest.raises(ConfigError, match="unfolds to more than"):
        parse_config(bomb)
    assert time.process_time() - before < 60, "not a timing: going off takes hours"


def test_aliases_and_merges_of_a_usual_size_are_welcome() -> None:
    config = parse_config(
        "models: {a: &limits {requests_per_minute: 5, free: true}, b: {<<: *limits, requests_per_minute: 9}, c: *limits}"
    )
    assert [config.models[name].requests_per_minute for name in "abc"] == [5, 9, 5]
    assert all(model.free for model in config.models.values())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KEYS = sorted({name for model in vars(config_module).values() if isinstance(model, type) and issubclass(model, BaseModel)
               for name in model.model_fields})  # fmt: skip
LIKELY = st.recursive(VALUES, lambda inner: st.dictionaries(st.sampled_from(KEYS), inner, max_size=4), max_leaves=12)


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(sorted(Config.model_fields)), LIKELY | st.lists(LIKELY, max_size=2), max_size=4))
@settings(max_examples=150, deadline=None)
def test_whatever_stands_in_the_file_is_a_configuration_or_one_clear_error(data: dict[str, Any]) -> None:
    try:
        config = parse_config(yaml.safe_dump(data, allow_unicode=True))
    except ConfigError as error:
        assert str(error).startswith("qbawa.yaml ")
    else:
        assert Config.model_validate(config.model_dump(mode="json")) == config


@given(st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_is_a_configuration_or_one_clear_error(text: str) -> None:
    try:
        assert parse_config(text) == Config(), "so short a text says nothing"
    except ConfigError as error:
        assert str(error).startswith("qbawa.yaml ")


def test_a_key_pasted_where_its_variable_belongs_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config("models: {m: {api_key_env: sk-proj-1234}}")
    assert "models.m.api_key_env" in str(raised.value) and "environment variable" in str(raised.value)
    assert "1234" not in str(raised.value)


def test_a_hostile_key_cannot_drive_the_terminal() -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config('"\\e[2J\\u202e": 1')
    assert str(raised.value).isascii() and "\x1b" not in str(raised.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", "folder"])
def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "qbawa.yaml"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        path.mkdir()
    with pytest.raises(ConfigError, match="`qbawa init`" if content is None else "cannot be read"):
        load_config(path)


def test_an_empty_file_means_the_defaults() -> None:
    assert parse_config("") == parse_config("# only a remark\n") == Config()


# ── what other modules ask of it ─────────────────────────────────────────────────────────────────────────────────────


def test_the_sample_is_usable_and_names_only_keys_that_matter(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert write_sample(home) and not write_sample(home)
    config = load_config(home.config)
    strategies = expand(config, tmp_path)
    assert len(strategies) >= 8
    assert {strategy.step for strategy in strategies} == {"summarise", "triage"} == set(config.steps)


def test_strategy_files_are_read_as_strictly(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("- {step: s, name: a, prompt: p, model: offline/lead, model: offline/last}")
    with pytest.raises(ConfigError, match=r"more\.yaml.*'model' stands twice"):
        expand(parse_config("strategy_files: [more.yaml]"), tmp_path)
    (tmp_path / "more.yaml").write_text("- {step: s, name: a, prompt: p, model: offline/leed}")
    with pytest.raises(ConfigError, match=r"more\.yaml\[0\].*'offline/leed'.*offline/lead"):
        expand(parse_config("strategy_files: [more.yaml]"), tmp_path)


def test_a_step_takes_its_own_jury_and_rubric() -> None:
    config = parse_config(
        "judges: {one: {model: offline/judge}, two: {model: offline/judge-strict, rubric: 'Short?'}}\n"
        "steps: {s: {jury: [two], rubric: 'True?'}, t: {}}"
    )
    assert {name: judge.rubric for name, judge in config.jury("s").items()} == {"two": "True?"}
    assert list(config.jury("t")) == list(config.jury("unheard-of")) == ["one", "two"]
    assert config.jury("t")["two"].rubric == "Short?"


def test_a_model_has_the_family_of_its_provider_unless_told() -> None:
    config = parse_config("models: {openai/gpt: {}, claude-x: {}, llama-ft: {family: meta}}")
    assert [config.family(name) for name in ("openai/gpt", "claude-x", "llama-ft")] == ["openai", "claude", "meta"]


def lake_with(tmp_path: Path, text: str) -> Lake:
    home = Home(tmp_path)
    home.config.write_text(text)
    return configured_lake(home, load_config(home.config))


def test_storage_options_take_secrets_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "lake: {uri: 's3://bucket/lake', storage_options: {secret: $QBAWA_TEST_SECRET, region: eu}}"
    monkeypatch.setenv("QBAWA_TEST_SECRET", "hush $HOME")
    assert lake_with(tmp_path, text).storage_options == {"secret": "hush $HOME", "region": "eu"}
    assert "hush" not in str(load_config(Home(tmp_path).config).model_dump())
    monkeypatch.delenv("QBAWA_TEST_SECRET")
    with pytest.raises(ConfigError, match=r"lake\.storage_options\.secret .*no QBAWA_TEST_SECRET"):
        lake_with(tmp_path, text)


def test_the_lake_lies_in_the_home_unless_told(tmp_path: Path) -> None:
    assert lake_with(tmp_path, "").uri == str(tmp_path / "lake")
    assert lake_with(tmp_path, "lake: {uri: other}").uri == str(tmp_path / "other")
    assert lake_with(tmp_path, "lake: {uri: 's3://b/l/'}").uri == "s3://b/l"
    with pytest.raises(InputError, match="cannot lie in"):
        lake_with(tmp_path, "lake: {uri: 'a[b]'}")


# ── the manual ───────────────────────────────────────────────────────────────────────────────────────────────────────


def documented() -> dict[str, dict[str, tuple[str, str, str]]]:
    """Section → key → (type, default, meaning), as docs/configuration.md has them."""
    sections: dict[str, dict[str, tuple[str, str, str]]] = {}
    for part in re.split(r"^## ", (ROOT / "docs/configuration.md").read_text(encoding="utf-8"), flags=re.M)[1:]:
        rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \|$", part, flags=re.M)
        sections[part.splitlines()[0].strip()] = {key: (kind, default, meaning) for key, kind, default, meaning in rows}
    return sections


SECTIONS: dict[str, type[BaseModel]] = {
    "The whole file": Config,
    "`lake`": config_module.LakeConfig,
    "`models.NAME`": config_module.ModelConfig,
    "`replay_set`": config_module.ReplaySetConfig,
    "`strategies[]`": config_module.StrategyConfig,
    "`strategies[].program`": config_module.ProgramConfig,
    "`judges.NAME`": config_module.JudgeConfig,
    "`steps.NAME`": config_module.StepConfig,
    "`tournament`": config_module.TournamentConfig,
    "`budget`": config_module.BudgetConfig,
    "`pairs`": config_module.PairsConfig,
    "`datasets.NAME`": config_module.DatasetConfig,
    "`champions`": config_module.ChampionConfig,
    "`retention`": config_module.RetentionConfig,
    "`dagster`": config_module.DagsterConfig,
    "`dagster.on_failure`": config_module.FailureHookConfig,
}


def test_the_manual_has_a_section_for_every_section_of_the_file() -> None:
    sections = {
        model
        for model in vars(config_module).values()
        if isinstance(model, type) and issubclass(model, BaseModel) and model.__name__.endswith("Config")
    }
    assert sections == set(SECTIONS.values()), "a section is missing in this test"
    assert {name for name, rows in documented().items() if rows} == set(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_manual_names_every_key_with_its_default(section: str) -> None:
    fields, rows = SECTIONS[section].model_fields, documented()[section]
    assert list(rows) == list(fields)
    for key, field in fields.items():
        kind, default, meaning = rows[key]
        assert kind.strip() and len(meaning.strip()) > 10, key
        value = field.default
        if value is PydanticUndefined:
            assert default == "required", key
        elif isinstance(value, BaseModel):
            assert default == "see below", key
        elif value is None:
            assert default.startswith("–"), key
        else:
            plain = list(value) if isinstance(value, tuple) else value
            assert json.loads(json.dumps(yaml.safe_load(default.split("`")[1]))) == plain, key


@pytest.mark.parametrize("section", SECTIONS)
def test_the_manual_names_every_choice(section: str) -> None:
    schema = SECTIONS[section].model_json_schema()
    for key, field in schema["properties"].items():
        for choice in re.findall(r'"enum": \[(.*?)\]', json.dumps({**field, "$ref": None})):
            kind = documented()[section][key][0] + documented()[section][key][2]
            assert not [word for word in json.loads(f"[{choice}]") if f"`{word}`" not in kind], key


def test_the_examples_of_the_manual_are_valid() -> None:
    examples = re.findall(
        r"```yaml\n(.*?)```", (ROOT / "docs/configuration.md").read_text(encoding="utf-8"), flags=re.S
    )
    assert examples
    for example in examples:
        parse_config(example, "an example of docs/configuration.md")
