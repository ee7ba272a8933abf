"""Brackets of requests on a real instance: each partition says what it holds, and new answers cause new matches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import yaml
from dagster import AssetKey, AssetRecordsFilter, DagsterRunStatus, RunRequest, SkipReason, build_sensor_context
from dagster_home import DagsterHome, configure, dagster_home, prompts, record
from scripted_provider import ScriptedProvider

from qbawa_assets import partition_reports
from resources import ProjectResource
from sensors.sensors import new_answers

MOST_PICTURES = 3
"""In place of a dozen, each of which takes 0.15 s to draw."""
REQUESTS = [f"r{n:02}" for n in range(MOST_PICTURES + 2)]
COUNTS = "matches", "verdicts", "unscored"


@pytest.fixture(scope="module")
def world(server: ScriptedProvider) -> Iterator[DagsterHome]:
    """A home whose requests stand in the matrix and have no answer yet."""
    with dagster_home() as here, mock.patch.object(partition_reports, "MOST_PICTURES", MOST_PICTURES):
        configure(here.home, server, **settings(3))
        record(here.home, REQUESTS)
        assert here.run("take_new_recordings").success
        yield here


def settings(ways: int, **judge: Any) -> dict[str, Any]:
    return {
        "strategies": [prompts(ways)],
        "judges": {"j": {"model": "offline/judge"} | judge},
        "tournament": {"format": "round_robin", "goal": "order"},
    }


def tick(world: DagsterHome) -> RunRequest | SkipReason:
    resources = {"project": ProjectResource()}
    with (
        mock.patch.dict(os.environ, world.environment),
        build_sensor_context(instance=world.instance, resources=resources) as context,
    ):
        asked = new_answers(context)
    assert isinstance(asked, RunRequest | SkipReason)
    return asked


def said(world: DagsterHome) -> str:
    asked = tick(world)
    assert isinstance(asked, SkipReason)
    return asked.skip_message or ""


def brackets(world: DagsterHome) -> dict[str, dict[str, Any]]:
    """What each partition of the asset says last."""
    told: dict[str, dict[str, Any]] = {}
    key = AssetKey("tournament_brackets")
    for event in world.instance.fetch_materializations(AssetRecordsFilter(key), limit=1_000, ascending=True).records:
        assert event.partition_key is not None and event.asset_materialization is not None
        told[event.partition_key] = {n: value.value for n, value in event.asset_materialization.metadata.items()}
    return told


def stored(world: DagsterHome) -> dict[str, tuple[int, ...]]:
    sums = world.rows(
        "SELECT request_id, count(*)::INT, sum(verdicts)::INT, sum(unscored)::INT FROM matches GROUP BY 1 ORDER BY 1"
    )
    return {request: tuple(counts) for request, *counts in sums}


def test_without_answers_there_is_nothing_to_judge(world: DagsterHome) -> None:
    assert said(world) == "No answers yet."


def test_answers_given_by_hand_cause_matches(world: DagsterHome) -> None:
    assert world.materialize("replay_matrix", world.row("r00")[0], world.row("r01")[-1]).success
    first = tick(world)
    assert isinstance(first, RunRequest)
    again = tick(world)
    # The daemon starts a run for a key once.
    assert isinstance(again, RunRequest) and again.run_key == first.run_key
    assert world.run("replay_sweep").success
    more = tick(world)
    assert isinstance(more, RunRequest) and more.run_key != first.run_key


def test_nobody_judges_while_others_are_answering(world: DagsterHome) -> None:
    from qbawa_assets.definitions import definitions

    job = definitions.resolve_job_def("replay_sweep")
    with mock.patch.dict(os.environ, world.environment):
        run = world.instance.create_run_for_job(job, status=DagsterRunStatus.STARTED)
    assert "replay_sweep is still under way" in said(world)
    world.instance.report_run_failed(run, "ended by the test")
    assert isinstance(tick(world), RunRequest)


def test_money_is_spent_only_within_a_cap(world: DagsterHome, server: ScriptedProvider) -> None:
    good = world.home.config.read_text()
    try:
        paid = {"priced": {"base_url": server.base_url, "input_usd_per_million": 1, "output_usd_per_million": 1}}
        config = yaml.safe_load(good)
        config["models"] |= paid
        config["judges"]["j"]["model"] = "priced"
        world.home.config.write_text(yaml.safe_dump(config))
        assert "by j costs money without a cap" in said(world)
        world.home.config.write_text(yaml.safe_dump(config | {"budget": {"usd_per_run": 0.5}}))
        assert isinstance(tick(world), RunRequest)
        world.home.config.write_text(yaml.safe_dump(config | {"judges": {}}))
        assert "nobody to judge them" in said(world)
        world.home.config.write_text("strategies: [{stp: x}]")
        assert "stp" in said(world)
    finally:
        world.home.config.write_text(good)


def test_every_partition_of_a_range_shows_its_own_bracket(world: DagsterHome) -> None:
    assert world.materialize("tournament_brackets", "r00", "r02").success
    told = brackets(world)
    assert sorted(told) == ["r00", "r01", "r02"]
    counts = stored(world)
    assert all(tuple(told[r][name] for name in COUNTS) == counts[r] for r in told)
    pictures = [told[r]["bracket"] for r in told]
    assert all(drawn.startswith("![picture](data:image/png") for drawn in pictures)
    assert len(set(pictures)) == 3, "each picture is of its own request"
    # A part of the requests is no tournament over all answers.
    assert isinstance(tick(world), RunRequest)


def test_a_sweep_judges_every_new_answer_and_draws_a_bounded_number_of_brackets(world: DagsterHome) -> None:
    assert world.run("tournament_sweep").success
    told, counts = brackets(world), stored(world)
    assert sorted(told) == sorted(counts) == REQUESTS
    assert all(tuple(told[r][name] for name in COUNTS) == counts[r] for r in told)
    assert said(world) == "Tournaments have seen every answer."
    materialized = world.instance.get_materialized_partitions(AssetKey("tournament_brackets"))
    assert materialized == set(REQUESTS)


def test_a_long_range_draws_its_first_brackets_and_says_how_to_see_the_others(world: DagsterHome) -> None:
    calls = world.rows("SELECT count(*) FROM calls")
    assert world.materialize("tournament_brackets", REQUESTS[0], REQUESTS[-1]).success
    told = brackets(world)
    drawn = [request for request in REQUESTS if told[request]["bracket"].startswith("![picture]")]
    assert drawn == REQUESTS[:MOST_PICTURES]
    assert "by itself" in told[REQUESTS[-1]]["bracket"]
    assert world.rows("SELECT count(*) FROM calls") == calls


def test_a_new_strategy_s_answers_are_new_answers(world: DagsterHome, server: ScriptedProvider) -> None:
    configure(world.home, server, **settings(4))
    assert said(world) == "Tournaments have seen every answer."
    assert world.run("replay_sweep").success
    assert isinstance(tick(world), RunRequest)
    before = sum(counts[0] for counts in stored(world).values())
    assert world.run("tournament_sweep").success
    assert sum(counts[0] for counts in stored(world).values()) > before
    assert said(world) == "Tournaments have seen every answer."


def test_the_ratings_of_a_sweep_say_how_far_its_judges_can_be_trusted(world: DagsterHome) -> None:
    event = world.instance.get_latest_materialization_event(AssetKey("judge_reliability"))
    assert event is not None and event.asset_materialization is not None
    metadata = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    assert str(metadata["judges"]).startswith("![picture]")
    [row] = event.asset_materialization.metadata["preview"].records
    assert {"judge", "agreement_human", "gate"} <= set(row.data) and len(row.data) <= 9
