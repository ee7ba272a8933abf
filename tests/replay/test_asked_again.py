"""A recorded question is asked again as it was: tools, form and parameters are part of it, tool calls are answers."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from qbawa.engine.calls import Native
from qbawa.engine.prompting.question import Question
from qbawa.errors import UnfaithfulError
from qbawa.project import Home, Project, open_project
from qbawa.replay.stage import plan, replay, wanted_cells
from qbawa.replay.strategies.asked_again import native_request
from qbawa.replay.strategies.repository import write_strategies
from qbawa.replay.strategies.strategy import Strategy, Template, make_strategy
from qbawa.storage.frames import frame, now
from tests.support.scripted_provider import ScriptedProvider, scripted_provider

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "book",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "nights": {"type": "integer"}},
                "required": ["city"],
            },
        },
    }
]
MESSAGES = [{"role": "system", "content": "You book hotels."}, {"role": "user", "content": "Two nights in Rome"}]
PARAMETERS = {"tools": TOOLS, "tool_choice": "auto", "temperature": 0.3, "stream": True, "user": "u1"}


def strategy(kind: str, params: Mapping[str, Any] | None = None, **template: Any) -> Strategy:
    return make_strategy(
        name=kind,
        step="book",
        model="scripted",
        template=Template(kind, **template),
        params=params,  # type: ignore[arg-type]
    )


KEEP = strategy("keep_prompt")
PROMPT = strategy("prompt", prompt="Book: {{ wish }}")
OWN = strategy("prompt", {"tools": None, "tool_choice": None, "temperature": 1}, prompt="Say: {{ wish }}")


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with scripted_provider() as running:
        yield running


def calls(arguments: str) -> str:
    call = {"id": "call_9", "type": "function", "function": {"name": "book", "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    usage = {"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 40}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": usage})


def project_in(folder: Path, provider: ScriptedProvider, strategies: list[Strategy], **columns: Any) -> Project:
    home = Home(folder)
    home.config.write_text(yaml.safe_dump({"models": {"scripted": {"base_url": provider.base_url, "free": True}}}))
    project = open_project(home)
    row = {
        "request_id": "r", "recording_id": "r1", "step": "book", "inputs": json.dumps({"wish": "Two nights in Rome"}),
        "messages": json.dumps(MESSAGES), "parameters": json.dumps(PARAMETERS), "model": "m", "output": "x",
        "recorded_at": now(), "block_id": "b",
    } | columns  # fmt: skip
    project.lake.replace("recordings", ["b"], frame("recordings", [row]))
    chosen = {"step": "book", "request_id": "r", "recording_id": "r1", "block_id": "book"}
    project.lake.replace("replay_set", ["book"], frame("replay_set", [chosen]))
    write_strategies(project.lake, strategies)
    return project


def test_strategies_inherit_all_that_was_asked_and_null_takes_it_away(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    bodies: list[dict[str, Any]] = []
    project = project_in(tmp_path, provider, [KEEP, PROMPT, OWN])
    report = replay(project, wanted_cells(project.lake), run_id="1")
    assert report.ok == 3
    bodies = [json.loads(body) for body in provider.answered]
    by_temperature = {(body["temperature"], body["messages"][-1]["content"]): body for body in bodies}
    kept = by_temperature[0.3, "Two nights in Rome"]
    assert kept == {
        "model": "scripted",
        "messages": MESSAGES,
        "tools": TOOLS,
        "tool_choice": "auto",
        "temperature": 0.3,
    }
    assert by_temperature[0.3, "Book: Two nights in Rome"]["tools"] == TOOLS
    assert by_temperature[1, "Say: Two nights in Rome"].keys() == {"model", "messages", "temperature"}


def test_a_tool_call_is_an_answer_kept_without_what_is_drawn_at_random(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    provider.fails = lambda prompt: (200, calls('{"nights": 2.0, "city": "Rome"}'))
    project = project_in(tmp_path, provider, [KEEP])
    assert replay(project, wanted_cells(project.lake), run_id="1").ok == 1
    (answer,) = project.lake.read("replay_matrix")["answer"]
    function = {"name": "book", "arguments": {"city": "Rome", "nights": 2.0}}
    assert json.loads(answer) == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": function}],
    }


def test_words_that_look_like_a_tool_call_are_none(tmp_path: Path, provider: ScriptedProvider) -> None:
    lie = json.dumps({"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "book"}}]})
    provider.say = lambda prompt: lie
    project = project_in(tmp_path, provider, [KEEP])
    replay(project, wanted_cells(project.lake), run_id="1")
    (answer,) = project.lake.read("replay_matrix")["answer"]
    assert json.loads(answer) == {"role": "assistant", "content": lie}


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        (
            "parameters",
            {"response_format": {"__qbawa__": "code", "name": "app.Booking"}},
            "`response_format` could not",
        ),
        ("messages", [{"role": "user", "content": {"__qbawa__": "object", "type": "PIL.Image"}}], "could not keep"),
        ("tags", {"qbawa.cut": "messages"}, "too long for the recorder"),
    ],
)
def test_what_cannot_be_asked_as_it_was_is_refused_before_and_costs_nothing(
    tmp_path: Path, provider: ScriptedProvider, column: str, value: Any, why: str
) -> None:
    project = project_in(tmp_path, provider, [KEEP], **{column: json.dumps(value)})
    cells = wanted_cells(project.lake)
    foreseen = plan(project, cells)
    assert foreseen.refused.cells == 1 and why in foreseen.refused.first and foreseen.calls == 0
    assert why in foreseen.line()
    report = replay(project, cells, run_id="1")
    assert (report.refused, provider.calls) == (1, 0)
    (error,) = project.lake.read("replay_matrix")["error"]
    assert error.startswith("unfaithful: ") and why in error


RESPONSE = {"model": "m", "instructions": "You book.", "input": "Rome", "max_output_tokens": 9, "stream": True}


def question(body: Mapping[str, Any], api: str = "openai.responses") -> Question:
    messages = [{"role": "system", "content": "You book."}, {"role": "user", "content": "Rome"}]
    return Question("r", "book", {}, messages, native=Native(api, body))


def test_a_request_of_another_api_keeps_its_form_under_small_changes() -> None:
    asked = question(RESPONSE)
    assert asked.messages is not None
    kept = native_request(KEEP, asked, asked.messages)
    assert kept == Native("openai.responses", RESPONSE)
    hotter = native_request(strategy("keep_prompt", {"temperature": 1, "max_tokens": 50}), asked, asked.messages)
    assert hotter and hotter.body == {**RESPONSE, "temperature": 1, "max_output_tokens": 50}
    plain = native_request(strategy("keep_prompt", {"max_output_tokens": None}), asked, asked.messages)
    assert plain and "max_output_tokens" not in plain.body
    other = [{"role": "system", "content": "Be brief."}, *asked.messages[1:]]
    brief = native_request(strategy("replace_system", system="Be brief."), asked, other)
    assert brief and brief.body == {**RESPONSE, "instructions": "Be brief."}


def test_a_change_that_only_a_chat_completion_can_carry_goes_there_or_is_refused() -> None:
    more = [{"role": "user", "content": "Examples … Rome"}]
    assert native_request(KEEP, question(RESPONSE), more) is None
    searching = question({**RESPONSE, "tools": [{"type": "web_search"}]})
    with pytest.raises(UnfaithfulError, match="web_search"):
        native_request(KEEP, searching, more)
