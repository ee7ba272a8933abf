"""Answers are compared by what they mean: how JSON is spelt says nothing, what stands in it does."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from qbawa.model_apis.canonical import meaning


def call(arguments: Any, **more: Any) -> str:
    function = {"name": "look", "arguments": arguments}
    return json.dumps(
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function, **more}]}
    )


def test_keys_numbers_and_white_space_are_spelling() -> None:
    assert meaning('{"a": 1, "b": [2.0, {"c": null}]}') == meaning(' {"b":[2,{"c":null}],\n"a":1.0} ')
    assert meaning('{"a": 1e2}') == meaning('{"a": 100}') and meaning('{"a": "1"}') != meaning('{"a": 1}')
    assert meaning('{"a": true}') != meaning('{"a": 1}') and meaning("[1, 2]") != meaning("[2, 1]")


def test_ids_of_calls_and_the_text_of_arguments_are_spelling() -> None:
    same = [
        call({"city": "Rome", "n": 1}),
        call('{"n": 1.0, "city": "Rome"}', id="c1"),
        call('{"n":1,"city":"Rome"}', id="x"),
    ]
    assert len({meaning(text) for text in same}) == 1
    assert meaning(call({"city": "Oslo", "n": 1})) != meaning(same[0])
    assert meaning(call({})) == meaning(call("")) != meaning(call("{"))


def test_text_is_the_same_but_for_spacing_at_line_ends() -> None:
    assert meaning("a  \r\nb\n\n") == meaning("a\nb") != meaning(" a\nb")
    assert meaning("{not json}") == "{not json}" and meaning("[1, 2") == "[1, 2"
    assert meaning('Here: {"a": 1}') != meaning('Here: {"a":1}')


def shuffled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(inner) for inner in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(max_size=3), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=10,
), min_size=1))  # fmt: skip
def test_any_object_means_the_same_in_any_order_and_layout(value: dict[str, Any]) -> None:
    assert meaning(json.dumps(value)) == meaning(json.dumps(shuffled(value), indent=2, ensure_ascii=False))
