"""Strategies: grids, identity, names, rows, lookup."""

import re
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbawa.config_file import parse_config
from qbawa.engine.prompting.question import Question
from qbawa.engine.prompting.sandbox import sandbox
from qbawa.errors import ConfigError, InputError
from qbawa.ids import recorded_id
from qbawa.optimize.few_shot import next_round
from qbawa.replay.strategies.filter import select
from qbawa.replay.strategies.grid import expand
from qbawa.replay.strategies.repository import from_rows, read_strategies, to_rows, write_strategies
from qbawa.replay.strategies.strategy import Strategy, Template, make_strategy, recorded_strategy
from qbawa.storage.frames import schema_of
from qbawa.storage.lake import Lake

HERE = Path(__file__).parents[1]
GRID = """
models: {openai/gpt-4.1-mini: {}, openai/gpt-4.1: {}, azure/gpt-4.1: {}}
judges: {careful: {model: offline/judge, rubric: Be careful.}}
steps: {summarise: {rubric: Shorter is better.}}
strategies:
  - step: summarise
    prompts: {terse: "Sum up: {{ article }}", chatty: "Please sum up {{ article }}"}
    models: [openai/gpt-4.1-mini, openai/gpt-4.1]
    params: {temperature: [0, 0.7, 1.0], max_tokens: 100, stop: ["END", "STOP"]}
"""


def expanded(text: str, folder: Path = HERE) -> list[Strategy]:
    return expand(parse_config(text), folder)


def one(entry: str) -> Strategy:
    found = expanded(f"judges: {{j: {{model: offline/judge}}}}\nstrategies: [{{{entry}}}]")
    assert len(found) == 1
    return found[0]


def test_a_grid_is_the_product_of_prompts_models_and_listed_parameters() -> None:
    found = expanded(GRID)
    assert [s.name for s in found][:4] == [
        "terse/gpt-4.1-mini/t0",
        "terse/gpt-4.1-mini/t0.7",
        "terse/gpt-4.1-mini/t1",
        "terse/gpt-4.1/t0",
    ]
    assert len(found) == len({s.strategy_id for s in found}) == len({s.name for s in found}) == 12
    assert all(s.params["max_tokens"] == 100 and s.params["stop"] == ["END", "STOP"] for s in found)


def test_grids_reach_hundreds_of_strategies() -> None:
    prompts = ", ".join(f"p{i}: 'Say {i} about {{{{ x }}}}'" for i in range(20))
    params = "{temperature: [0, 0.5, 1], seed: [1, 2, 3, 4]}"
    entry = f"{{step: s, prompts: {{{prompts}}}, models: [offline/lead, offline/last], params: {params}}}"
    found = expanded(f"strategies: [{entry}]")
    assert len({s.strategy_id for s in found}) == len({s.name for s in found}) == 20 * 2 * 3 * 4


def test_adding_a_value_to_a_grid_keeps_every_name_and_id() -> None:
    small = "strategies: [{step: s, prompts: {p: hi}, models: [offline/lead], params: {temperature: [0]}}]"
    large = small.replace("[offline/lead]", "[offline/lead, offline/last]").replace("[0]", "[0, 0.5]")
    before = {(s.name, s.strategy_id) for s in expanded(small)}
    assert before < {(s.name, s.strategy_id) for s in expanded(large)}


def test_models_that_end_alike_keep_their_whole_name() -> None:
    found = expanded(GRID.replace("[openai/gpt-4.1-mini, openai/gpt-4.1]", "[openai/gpt-4.1, azure/gpt-4.1]"))
    assert {s.name.rsplit("/", 1)[0] for s in found} == {
        f"{prompt}/{model}" for prompt in ("terse", "chatty") for model in ("openai/gpt-4.1", "azure/gpt-4.1")
    }


@pytest.mark.parametrize(
    "change",
    [
        "prompt: hello!, model: offline/lead, params: {temperature: 0}",
        "prompt: hello, model: offline/last, params: {temperature: 0}",
        "prompt: hello, model: offline/lead, params: {temperature: 0.1}",
        "prompt: hello, model: offline/lead, params: {temperature: 0, seed: 1}",
        "prompt: hello, model: offline/lead, params: {temperature: 0}, system: be kind",
        "prompt: hello, model: offline/lead, params: {temperature: 0}, examples: [{answer: a}]",
        "prompt: hello, model: offline/lead, params: {temperature: 0}, program: {kind: best_of_n, n: 3}",
        "prompt: hello, model: offline/lead, params: {temperature: 0, response_format: {type: json_object}}",
    ],
)
def test_whatever_decides_the_answer_makes_a_new_strategy(change: str) -> None:
    base = one("step: s, name: n, prompt: hello, model: offline/lead, params: {temperature: 0}")
    assert one("step: s, name: n, " + change).strategy_id != base.strategy_id
    assert (
        one("step: t, name: n, prompt: hello, model: offline/lead, params: {temperature: 0}").strategy_id
        != base.strategy_id
    )


@pytest.mark.parametrize(
    "same",
    [
        "step: s, name: other, prompt: hello, model: offline/lead, params: {temperature: 0}",
        "step: s, name: n, prompts: {n: hello}, models: [offline/lead], params: {temperature: [0.0]}",
        "params: {temperature: 0}, model: offline/lead, prompt: hello, name: n, step: s",
        "step: s, name: n, prompt: hello, model: offline/lead, params: {temperature: 0}, program: {kind: single, n: 9}",
    ],
)
def test_what_does_not_decide_the_answer_makes_no_new_strategy(same: str) -> None:
    base = one("step: s, name: n, prompt: hello, model: offline/lead, params: {temperature: 0}")
    assert one(same).strategy_id == base.strategy_id


def test_equal_strategies_collapse_and_unlike_ones_cannot_share_a_name() -> None:
    twice = "{step: s, name: a, prompt: hi, model: offline/lead}, {step: s, name: b, prompt: hi, model: offline/lead}"
    assert [s.name for s in expanded(f"strategies: [{twice}]")] == ["a"]
    other_step = (
        "{step: s, name: a, prompt: hi, model: offline/lead}, {step: t, name: a, prompt: ho, model: offline/lead}"
    )
    assert len(expanded(f"strategies: [{other_step}]")) == 2
    with pytest.raises(
        ConfigError, match=r"strategies\[1\]: the name 'a' of step 's' already belongs to .*strategies\[0\]"
    ):
        expanded(f"strategies: [{twice.replace('name: b, prompt: hi', 'name: a, prompt: ho')}]")
    with pytest.raises(ConfigError, match="'recorded' of step 's' already belongs to production's own answers"):
        one("step: s, name: recorded, prompt: hi, model: offline/lead")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "step: s, model: offline/lead",
            "give exactly one of prompts, prompt, file, replace_system, keep_prompt; received none",
        ),
        ("step: s, model: offline/lead, prompt: a, keep_prompt: true", "received prompt, keep_prompt"),
        ("step: s, prompt: a", "needs `model` or `models`"),
        ("step: s, prompt: a, model: offline/lead, params: {seed: []}", "params.seed: an empty list"),
        ("step: s, prompt: '{{ a', model: offline/lead", "the template is not usable, line 1"),
        ("step: s, prompts: {p: '{% include \"x\" %}'}, model: offline/lead", "prompts.p: .* cannot load another one"),
        ("step: s, file: nowhere.jinja, model: offline/lead", "file: .*nowhere.jinja cannot be read"),
        ("step: s, keep_prompt: true, system: x, model: offline/lead", "system: goes with a prompt"),
        ("step: s, prompt: a, model: offline/lead, program: {kind: refine}", "refine needs a judge. Judges: j"),
        ("step: s, prompt: a, model: offline/lead, program: {kind: refine, judge: k}", "no judge 'k'. Judges: j"),
        ("step: s, prompt: a, model: offline/lead, program: {kind: mixture_of_agents}", "needs models that propose"),
    ],
)
def test_an_unusable_entry_is_named_with_its_cure(entry: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        one(entry)
    assert str(caught.value).startswith("strategies[0]")


def test_strategy_files_and_prompt_files_are_read_by_glob(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.yaml").write_text("- {step: s, name: b, prompt: b, model: offline/lead}\n")
    (tmp_path / "more" / "a.yaml").write_text("- {step: s, file: more/long.jinja, model: offline/lead}\n")
    (tmp_path / "more" / "long.jinja").write_text("Long {{ x }}")
    found = expanded("strategy_files: ['more/*.yaml']", tmp_path)
    assert [(s.name, s.template.prompt) for s in found] == [("long/lead", "Long {{ x }}"), ("b", "b")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- {step: s, prompt: a, model: nobody/knows}", r"bad.yaml\[0\]: 'nobody/knows' stands neither"),
        ("- {step: s, promt: a}", "bad.yaml: 0.promt: Extra inputs"),
        ("step: s", "bad.yaml: .* must hold a list"),
        ("- [", "bad.yaml is not readable YAML"),
    ],
)
def test_a_bad_strategy_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        expanded("strategy_files: ['*.yaml']", tmp_path)


def test_a_glob_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="matches 'no/\\*.yaml'"):
        expanded("strategy_files: ['no/*.yaml']", tmp_path)


def test_the_judge_of_a_program_is_part_of_the_strategy() -> None:
    program = "{kind: best_of_n, n: 2, pick: judge, judge: careful}"
    entry = f"{{step: summarise, name: n, prompt: a, model: offline/lead, program: {program}}}"
    text = GRID.split("strategies:")[0] + f"strategies: [{entry}]"
    found = expanded(text)[0]
    assert found.program["judge"]["rubric"] == "Shorter is better."
    assert expanded(text.replace("Shorter", "Longer"))[0].strategy_id != found.strategy_id


def test_recorded_is_a_strategy_with_an_id_per_step() -> None:
    strategy = recorded_strategy("summarise")
    assert strategy.strategy_id == recorded_id("summarise") == "recorded-summarise"
    assert strategy.is_recorded and strategy.name == strategy.origin == "recorded"


def test_strategies_survive_the_lake(tmp_path: Path) -> None:
    entry = "{step: t, name: k, keep_prompt: true, model: offline/lead, program: {kind: refine, judge: careful, n: 2}}"
    found = [*expanded(GRID + f"  - {entry}\n"), recorded_strategy("summarise")]
    lake = Lake(tmp_path / "lake")
    assert write_strategies(lake, found)
    assert read_strategies(lake) == {s.strategy_id: s for s in found}
    assert set(read_strategies(lake, "t")) == {s.strategy_id for s in found if s.step == "t"}
    assert to_rows(found).schema == schema_of("strategies")
    assert not write_strategies(lake, found), "an unchanged configuration writes nothing"


def test_a_strategy_that_left_the_configuration_stays_inactive_and_comes_back_as_itself(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    first, second = expanded("strategies: [{step: s, prompts: {a: a, b: b}, model: offline/lead}]")
    grown = make_strategy(
        name="tuned", step="s", model="offline/lead", template=Template("prompt", "t"), origin="optimized"
    )
    write_strategies(lake, [first, second, grown, recorded_strategy("s")])
    born = dict(lake.read("strategies", ["strategy_id", "created_at"]).iter_rows())
    write_strategies(lake, [first])
    active = dict(lake.read("strategies", ["strategy_id", "active"]).iter_rows())
    assert active == {first.strategy_id: True, second.strategy_id: False, grown.strategy_id: True, "recorded-s": True}
    write_strategies(lake, [first, second])
    assert lake.read("strategies")["active"].all()
    assert dict(lake.read("strategies", ["strategy_id", "created_at"]).iter_rows()) == born


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=4), st.text(max_size=50), st.text(max_size=50))
@settings(max_examples=60)
def test_rows_and_back_give_the_same_strategy_with_the_id_of_its_content(
    params: dict, prompt: str, system: str
) -> None:
    strategy = make_strategy(
        name="n", step="s", model="m", template=Template("prompt", prompt, system, ({"a": params},)), params=params
    )
    (back,) = from_rows(to_rows([strategy]))
    assert back == strategy
    again = make_strategy(
        name="x", step="s", model="m", template=back.template, params=back.params, program=back.program
    )
    assert again.strategy_id == strategy.strategy_id


def test_select_takes_names_ids_and_globs() -> None:
    found = expanded(GRID)
    assert [s.name for s in select(found, "terse/gpt-4.1/*")] == [f"terse/gpt-4.1/t{t}" for t in ("0", "0.7", "1")]
    assert select(found, found[3].strategy_id) == [found[3]]
    assert select(found, "*") == found
    assert select(found, f"{found[5].name}, {found[0].name}") == [found[0], found[5]]


def test_an_unknown_strategy_is_named_with_its_nearest() -> None:
    with pytest.raises(InputError, match=r"'terse/gpt-4.1-mimi/t0'. Near: terse/gpt-4.1-mini/t0"):
        select(expanded(GRID), "terse/gpt-4.1-mimi/t0")
    with pytest.raises(InputError, match="matches 'zzz'. There are 12, such as terse/"):
        select(expanded(GRID), "zzz")
    with pytest.raises(InputError, match="empty pattern"):
        select(expanded(GRID), " ")


def test_a_question_reads_a_recordings_row() -> None:
    row = {"request_id": "r", "step": "s", "inputs": '{"x": 1}', "messages": None}
    assert Question.from_row(row) == Question("r", "s", {"x": 1}, None)
    with pytest.raises(InputError, match="request r: `inputs` holds a list, it must be a dict"):
        Question.from_row({**row, "inputs": "[1]"})
    with pytest.raises(InputError, match="request r: `messages` is not JSON"):
        Question.from_row({**row, "messages": "["})


def test_the_next_round_is_a_child_with_the_best_answers_as_examples() -> None:
    champion = one("step: s, name: terse, prompt: 'Say {{ x }}', model: offline/lead")
    best = [{"request_id": f"r{i}", "inputs": {"x": i}, "answer": f"answer {i}"} for i in range(5)]
    child = next_round(champion, lambda step: best)
    assert child is not None and child.parent_strategy_id == champion.strategy_id
    assert child.name == "terse/round-2" and child.template.examples == tuple(best[:3])
    assert next_round(child, lambda step: best) is None, "no new champion, so refinement ends"
    grandchild = next_round(child, lambda step: best[1:])
    assert grandchild is not None and grandchild.name == "terse/round-3"
    assert next_round(champion, lambda step: []) is None
    with pytest.raises(InputError, match="names no request_id"):
        next_round(champion, lambda step: [{"answer": "whose?"}])


def test_the_examples_in_the_docs_are_usable() -> None:
    text = (HERE.parent / "docs" / "strategies.md").read_text(encoding="utf-8")
    grid, inherits, programs = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    head = "models: {gpt-4.1-mini: {}, gpt-4.1: {}, local/llama: {}, a: {}, b: {}, c: {}}\n"
    head += "judges: {careful: {model: offline/judge}}\n"
    assert [s.name for s in expanded(head + grid)][:2] == ["terse/gpt-4.1-mini/t0", "terse/gpt-4.1-mini/t0.7"]
    (inherits_all,) = expanded(head.replace("gpt-4.1-mini: {}", "openai/gpt-4.1-mini: {}") + inherits)
    assert inherits_all.params == {"temperature": 0.2, "tools": None, "tool_choice": None}
    entries = [line.split("#")[0].strip() for line in programs.strip().splitlines()]
    strategies = ", ".join(f"{{step: s, name: n{n}, prompt: hi, model: a, {entry}}}" for n, entry in enumerate(entries))
    kinds = [s.program["kind"] for s in expanded(f"{head}strategies: [{strategies}]")]
    assert kinds == ["best_of_n", "best_of_n", "mixture_of_agents", "refine"]


def test_the_docs_name_every_filter() -> None:
    text = (HERE.parent / "docs" / "strategies.md").read_text(encoding="utf-8")
    named = set(re.search(r"Filters there are:\s+`([^`]*)`", text).group(1).split())  # type: ignore[union-attr]
    assert named == {name for name in sandbox().filters if not name.startswith(" ")} - {"d"}


def test_rows_of_no_strategy_have_the_tables_schema() -> None:
    assert to_rows([]).schema == schema_of("strategies")
    assert from_rows(pl.DataFrame(schema=schema_of("strategies"))) == []
