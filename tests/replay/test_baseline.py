"""The faithful baseline: recorded requests asked again say whether anything has changed since they were recorded."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from qbawa.project import Home, Project, open_project
from qbawa.replay.baseline import likeness, model_for
from qbawa.replay.stage import check_baseline
from qbawa.storage.frames import frame, now
from tests.support.running_up import qbawa
from tests.support.scripted_provider import ScriptedProvider, scripted_provider

REQUESTS = ("one", "two", "three")


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with scripted_provider() as running:
        yield running


def answer(prompt: str) -> str:
    return f"The answer to number {prompt} is what was asked for in it"


def project_in(folder: Path, provider: ScriptedProvider, model: str = "vendor/gpt-x") -> Project:
    home = Home(folder)
    models = {"mine": {"base_url": provider.base_url, "litellm_model": "openai/gpt-x", "free": True}}
    home.config.write_text(yaml.safe_dump({"models": models}))
    project = open_project(home)
    rows = [
        {"request_id": r, "recording_id": r, "step": "draft", "inputs": "{}", "model": model, "output": answer(r),
         "messages": json.dumps([{"role": "user", "content": r}]), "recorded_at": now(), "block_id": "b"}
        for r in REQUESTS
    ]  # fmt: skip
    project.lake.replace("recordings", ["b"], frame("recordings", rows))
    chosen = [{"step": "draft", "request_id": r, "recording_id": r, "block_id": "draft"} for r in REQUESTS]
    project.lake.replace("replay_set", ["draft"], frame("replay_set", chosen))
    project.publish()
    return project


def test_what_answers_as_recorded_is_said_to_and_paid_for_once(tmp_path: Path, provider: ScriptedProvider) -> None:
    provider.say = answer
    project = project_in(tmp_path, provider)
    (found,) = check_baseline(project, requests=2, samples=2)
    assert (found.requests, found.answers, found.same_as_recorded, found.changed) == (2, 4, 1.0, False)
    assert found.model == "mine", "found by the name that its server knows"
    asked = provider.calls
    check_baseline(project, requests=2, samples=2)
    assert provider.calls == asked == 4


def test_a_model_that_has_changed_under_its_name_is_found(tmp_path: Path, provider: ScriptedProvider) -> None:
    provider.say = lambda prompt: "Nein, heute ist alles ganz anders als gestern"
    (found,) = check_baseline(project_in(tmp_path, provider))
    assert found.changed and found.like_each_other == 1.0 and found.like_recorded is not None
    assert "look at its version" in found.line()


def test_chance_alone_is_no_change(tmp_path: Path, provider: ScriptedProvider) -> None:
    turns = iter(range(100))
    provider.say = lambda prompt: f"{answer(prompt)}, said for the {next(turns)}th time"
    (found,) = check_baseline(project_in(tmp_path, provider))
    assert found.same_as_recorded == 0.0 and not found.changed


def test_a_model_that_is_not_configured_is_named(tmp_path: Path, provider: ScriptedProvider) -> None:
    (found,) = check_baseline(project_in(tmp_path, provider, model="other"))
    assert found.like_recorded is None and "'other'" in found.line() and provider.calls == 0
    assert model_for("other", {}) is None


def test_words_against_a_tool_call_share_nothing() -> None:
    call = json.dumps(
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "book", "arguments": {}}}]}
    )
    assert likeness(call, "I would book") == 0.0
    assert likeness("one two", "two three") == pytest.approx(0.5)


@pytest.mark.slow
def test_the_command_says_it_and_fails_where_something_changed(tmp_path: Path, provider: ScriptedProvider) -> None:
    project_in(tmp_path, provider)
    provider.say = lambda prompt: "Nein, heute ist alles ganz anders als gestern"
    done = qbawa(Home(tmp_path), "replay", "--check", "--requests", "1")
    assert done.returncode == 1 and "look at its version" in done.stdout
    said = json.loads(qbawa(Home(tmp_path), "replay", "--check", "--json").stdout)
    assert said[0]["changed"] is True and said[0]["step"] == "draft"
    assert "say --check" in qbawa(Home(tmp_path), "replay").stderr
