"""A model that fails as a whole stops the run before judging; a run that a cap stopped says so by code and tag."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
import yaml
from dagster import ExecuteInProcessResult, build_sensor_context
from dagster_home import DagsterHome, dagster_home, prompts, record
from scripted_provider import ScriptedProvider, first_words

from qbawa.judges.prompt import read_blocks
from qbawa_assets.model_checks import CAP_TAG
from qbawa_assets.partitions import requests
from resources import ProjectResource
from sensors.sensors import new_answers

pytestmark = pytest.mark.slow

REQUESTS = ["r1", "r2", "r3"]


def say(prompt: str) -> str:
    if "JUDGE" not in prompt:
        return first_words(prompt)
    one, two = (read_blocks(prompt)[f"answer_{number}"] for number in (1, 2))
    return json.dumps({"rationale": "by the alphabet", "verdict": "1" if one < two else "2"})


def configure(world: DagsterHome, server: ScriptedProvider, dead: dict[str, object], **budget: float) -> None:
    usual = {
        "base_url": server.base_url,
        "input_usd_per_million": 100,
        "output_usd_per_million": 100,
        "max_attempts": 1,
    }
    strategies = [prompts(2), {**prompts(1), "name": "other", "model": "dead"}]
    world.home.root.mkdir(parents=True, exist_ok=True)
    world.home.config.write_text(
        yaml.safe_dump(
            {
                "models": {"scripted": usual, "dead": {**usual, **dead}},
                "strategies": strategies,
                "judges": {"j": {"model": "scripted", "rubric": "JUDGE"}},
                "tournament": {"format": "round_robin", "goal": "order", "confidence": 0.999},
                "budget": budget,
            }
        )
    )


@pytest.fixture(scope="module")
def world(server: ScriptedProvider) -> Iterator[DagsterHome]:
    """A home with a model that answers and judges, and one whose server is away."""
    with dagster_home() as here, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        server.say = say
        away = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        configure(here, server, {"base_url": away}, usd_per_run=50)
        record(here.home, REQUESTS)
        yield here


def failure(result: ExecuteInProcessResult) -> tuple[str, str]:
    """The step that failed first, and why."""
    event = next(event for event in result.all_events if event.is_step_failure)
    said = event.step_failure_data.user_failure_data
    return str(event.step_key), str(said.description if said else event.step_failure_data.error)


def judged(server: ScriptedProvider) -> int:
    return sum(times for body, times in server.answered.items() if "JUDGE" in body)


def test_a_flywheel_with_a_model_that_never_answers_judges_nothing(
    world: DagsterHome, server: ScriptedProvider
) -> None:
    result = world.run("flywheel")
    step, why = failure(result)
    assert not result.success and step == "check_models"
    assert "Model 'dead' gave no answer: all 3 of its cells failed (connection" in why
    assert "qbawa run flywheel" in why and "qbawa run tournament_sweep" in why
    assert judged(server) == 0 and server.calls == len(REQUESTS) * 2
    [output] = [event for event in result.events_for_node("sweep_matrix") if event.is_successful_output]
    [problem] = output.step_output_data.metadata["problems"].value
    assert "Model 'dead' cannot be reached" in problem and "strategy 'other/w0'" in problem


def test_what_others_answered_is_kept_and_its_cells_alone_are_red(world: DagsterHome) -> None:
    shown = world.statuses()
    assert world.rows("SELECT count(*) FROM calls WHERE error IS NULL") == [(len(REQUESTS) * 2,)]
    assert len(shown["materialized"]) == len(REQUESTS) * 3 and len(shown["failed"]) == len(REQUESTS)


def test_the_sensor_does_not_judge_behind_its_back(world: DagsterHome) -> None:
    resources = {"project": ProjectResource(home=str(world.home.root))}
    with build_sensor_context(instance=world.instance, resources=resources) as context:
        skipped = new_answers(context)
    assert "Model 'dead' gave no answer" in skipped.skip_message


def test_a_run_that_a_cap_stopped_has_an_exit_code_and_a_tag_of_its_own(
    world: DagsterHome, server: ScriptedProvider
) -> None:
    configure(world, server, {"base_url": server.base_url}, usd_per_run=0.2)
    command = world.command("run", "flywheel", "--usd", "7")
    said, _ = command.communicate(timeout=120)
    assert command.returncode == 3, said
    assert "budget.usd_per_run is $0.2, below the $7 that were asked for" in said
    [newest] = world.instance.get_runs(limit=1)
    assert newest.is_success and newest.tags[CAP_TAG] == "dollar cap"
    assert 0 < judged(server) < len(REQUESTS) * 6 * 2


def test_the_next_run_goes_on_to_the_end_and_pays_nothing_twice(world: DagsterHome, server: ScriptedProvider) -> None:
    configure(world, server, {"base_url": server.base_url})
    result = world.run("flywheel")
    run = world.instance.get_run_by_id(result.run_id)
    assert result.success and run is not None and CAP_TAG not in run.tags
    assert server.asked_again() == 0 and judged(server) > 0
    assert not world.statuses()["failed"]
    assert world.statuses("tournament_brackets", requests)["materialized"] == set(REQUESTS)
