"""Runs whose judge fails, as Dagster shows them: what was judged is kept and rated, what was not is red, and it is said why."""

from __future__ import annotations

import json
from collections.abc import Iterator

import polars as pl
import pytest
from dagster import AssetKey, ExecuteInProcessResult
from dagster_home import DagsterHome, configure, dagster_home, prompts, record
from scripted_provider import ScriptedProvider, first_words

from qbawa.judges.prompt import read_blocks
from qbawa_assets.partitions import requests

REQUESTS = ["r1", "r2", "r3"]
LATER = ("human_verdicts", "ratings", "judge_reliability", "qbawa", "champions")


def say(prompt: str) -> str:
    if "JUDGE" not in prompt:
        return first_words(prompt)
    one, two = (read_blocks(prompt)[f"answer_{number}"] for number in (1, 2))
    return json.dumps({"rationale": "by the alphabet", "verdict": "1" if one < two else "2"})


@pytest.fixture(scope="module")
def world(server: ScriptedProvider) -> Iterator[DagsterHome]:
    """A home with recordings and strategies, and a judge at the same provider."""
    with dagster_home() as here:
        server.say = say
        configure(
            here.home,
            server,
            strategies=[prompts(5)],
            judges={"scripted": {"model": "scripted", "rubric": "JUDGE"}},
            tournament={"format": "round_robin", "goal": "order", "confidence": 0.999},
        )
        record(here.home, REQUESTS)
        assert here.run("take_new_recordings").success and here.run("replay_sweep").success
        yield here


def brackets(world: DagsterHome) -> dict[str, set[str]]:
    return world.statuses("tournament_brackets", requests)


def why(result: ExecuteInProcessResult, node: str) -> str:
    [event] = [event for event in result.events_for_node(node) if event.event_type_value == "STEP_FAILURE"]
    failure = event.step_failure_data.user_failure_data
    assert failure is not None and failure.description is not None
    return failure.description


def verdicts(world: DagsterHome) -> int:
    return world.project.lake.read("verdicts").height


def test_a_flywheel_whose_judge_stops_stores_and_rates_and_fails(world: DagsterHome, server: ScriptedProvider) -> None:
    asked = server.calls
    denied = '{"error": {"code": "invalid_api_key", "message": "no such key"}}'
    server.fails = lambda prompt: (401, denied) if "JUDGE" in prompt and server.calls >= asked + 35 else None
    result = world.run("flywheel")
    assert not result.success
    assert "Judge 'scripted' (model 'scripted') gives no answer: wrong key (HTTP 401" in why(result, "check_brackets")
    assert verdicts(world) >= 35
    for asset in LATER:
        assert world.instance.get_latest_materialization_event(AssetKey(asset)), f"{asset} rests on what was judged"
    assert brackets(world) == {"materialized": set(), "failed": set(), "in_progress": set()}


def test_a_range_of_brackets_whose_judge_stops_is_red(world: DagsterHome) -> None:
    known = verdicts(world)
    result = world.materialize("tournament_brackets", "r1", "r3")
    assert not result.success and "Judge 'scripted'" in why(result, "tournament_brackets")
    assert brackets(world) == {"materialized": set(), "failed": set(REQUESTS), "in_progress": set()}
    assert verdicts(world) == known


def test_the_command_line_says_why_and_exits_with_1(world: DagsterHome) -> None:
    command = world.command("run", "tournament_sweep")
    said, _ = command.communicate(timeout=120)
    assert command.returncode == 1, said
    assert "Step 'explain' could not be judged to the end: Judge 'scripted'" in said


def test_the_next_run_goes_on_and_pays_nothing_twice(world: DagsterHome, server: ScriptedProvider) -> None:
    server.fails = lambda prompt: None
    assert world.run("flywheel").success
    assert server.asked_again() == 0
    assert brackets(world) == {"materialized": set(REQUESTS), "failed": set(), "in_progress": set()}
    assert verdicts(world) == len(REQUESTS) * 15 * 2


def test_judging_anew_reads_every_reply_again_and_asks_nobody(world: DagsterHome, server: ScriptedProvider) -> None:
    lake, asked = world.project.lake, server.calls
    healthy = lake.read("verdicts").sort("verdict_id")
    lake.merge("verdicts", healthy.with_columns(verdict=pl.lit("tie"), preference=0.5))
    world.project.publish()
    assert world.run("judge_anew").success
    assert lake.read("verdicts").sort("verdict_id").equals(healthy) and server.calls == asked
    assert world.rows("SELECT count(*) FROM matches WHERE winner = 'tie' AND origin <> 'identical'") == [(0,)]


def test_a_run_ends_at_its_dollar_cap_and_the_next_goes_on_there(world: DagsterHome, server: ScriptedProvider) -> None:
    text = world.home.config.read_text()
    world.home.config.write_text(
        text.replace("free: true", "input_usd_per_million: 100\n    output_usd_per_million: 100").replace(
            "JUDGE", "JUDGE 2"
        )
    )
    before = server.calls
    result = world.run("tournament_sweep", {"ops": {"sweep_brackets": {"config": {"usd": 0.5}}}})
    [output] = [event for event in result.events_for_node("sweep_brackets") if event.is_successful_output]
    assert result.success and "$0.5 a run" in str(output.step_output_data.metadata)
    assert before < server.calls < before + 90
    assert world.run("tournament_sweep").success
    assert server.asked_again() == 0
