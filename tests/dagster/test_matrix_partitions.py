"""The replay matrix as Dagster sees it: rows by the asset, exact cells by the sweep, and a failed cell red alone."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl
import pytest
from dagster import DagsterRunStatus
from dagster_home import DagsterHome, configure, dagster_home, prompts, record
from scripted_provider import ScriptedProvider

REQUESTS = ["r1", "r2", "r3", "r4"]
WAYS = 3
CELLS = len(REQUESTS) * (WAYS + 1)  # and `recorded`


@pytest.fixture(scope="module")
def world(server: ScriptedProvider) -> Iterator[DagsterHome]:
    """A home whose four requests are in the matrix's partitions; nothing is answered yet."""
    with dagster_home() as here:
        configure(here.home, server, strategies=[prompts(WAYS)])
        record(here.home, REQUESTS)
        assert here.run("take_new_recordings").success
        yield here


def keys(world: DagsterHome, request: str | None = None) -> set[str]:
    ids = world.project.lake.read("strategies", ["strategy_id"])["strategy_id"]
    return {f"{r}|{s}" for r in REQUESTS for s in ids if request in (None, r)}


def way(world: DagsterHome, name: str) -> str:
    return str(
        world.project.lake.read(
            "strategies", ["strategy_id"], keep=pl.col("name").str.contains(name, literal=True)
        ).item()
    )


def lake_cells(world: DagsterHome, status: str) -> set[str]:
    cells = world.project.lake.read("replay_matrix", ["request_id", "strategy_id"], keep=pl.col("status") == status)
    return {f"{request}|{strategy}" for request, strategy in cells.iter_rows()}


def agree(world: DagsterHome) -> dict[str, set[str]]:
    """What Dagster shows, once it is certain that it shows what the lake holds."""
    shown = world.statuses()
    assert shown["materialized"] == lake_cells(world, "ok")
    assert shown["failed"] == lake_cells(world, "failed")
    assert not shown["in_progress"]
    return shown


def test_recordings_become_the_two_dimensions_of_the_matrix(world: DagsterHome) -> None:
    strategies = set(world.project.lake.read("strategies", ["strategy_id"])["strategy_id"])
    assert len(strategies) == WAYS + 1
    assert set(world.instance.get_dynamic_partitions("request")) == set(REQUESTS)
    assert set(world.instance.get_dynamic_partitions("strategy")) == strategies


def test_a_row_of_the_matrix_can_be_materialized_alone(world: DagsterHome, server: ScriptedProvider) -> None:
    row = world.row("r1")
    assert world.materialize("replay_matrix", row[0], row[-1]).success
    assert agree(world)["materialized"] == set(row)
    assert server.calls == WAYS


def test_one_cell_can_be_materialized_alone(world: DagsterHome, server: ScriptedProvider) -> None:
    before, cell = server.calls, f"r2|{way(world, 'w0')}"
    assert world.materialize("replay_matrix", cell).success
    assert agree(world)["materialized"] == {*keys(world, "r1"), cell}
    assert server.calls == before + 1


def test_a_cell_that_fails_in_a_row_is_red_alone(world: DagsterHome, server: ScriptedProvider) -> None:
    server.refuses = lambda prompt: "part 1" in prompt and "way 1" in prompt
    row = world.row("r2")
    result = world.materialize("replay_matrix", row[0], row[-1])
    assert not result.success
    broken = f"r2|{way(world, 'w1')}"
    shown = agree(world)
    assert shown["failed"] == {broken}
    assert shown["materialized"] == {*keys(world, "r1"), *keys(world, "r2")} - {broken}


def test_the_sweep_turns_it_green_and_asks_for_nothing_else(world: DagsterHome, server: ScriptedProvider) -> None:
    server.refuses = lambda prompt: False
    before = server.calls
    assert world.run("replay_sweep", {"ops": {"sweep_matrix": {"config": {"requests": "r2"}}}}).success
    assert agree(world)["materialized"] == {*keys(world, "r1"), *keys(world, "r2")}
    assert server.calls == before + 1


def test_a_cell_that_fails_in_the_sweep_is_red_alone(world: DagsterHome, server: ScriptedProvider) -> None:
    server.refuses = lambda prompt: "part 3" in prompt and "way 2" in prompt
    result = world.run("replay_sweep")
    run = world.instance.get_run_by_id(result.run_id)
    assert run is not None and run.status is DagsterRunStatus.FAILURE
    [failure] = [event for event in result.all_events if event.is_step_failure]
    said = failure.step_failure_data.user_failure_data.description
    assert said.startswith("1 cell failed: 1 bad_request. Request 'r4'")
    assert "refused by the script" in said and "replay_sweep" in said and len(said) < 500
    shown = agree(world)
    assert shown["failed"] == {f"r4|{way(world, 'w2')}"}
    assert len(shown["materialized"]) == CELLS - 1


def test_it_stays_red_while_it_fails_and_nothing_else_is_asked_again(
    world: DagsterHome, server: ScriptedProvider
) -> None:
    before = server.calls
    assert not world.run("replay_sweep").success
    assert agree(world)["failed"] == {f"r4|{way(world, 'w2')}"}
    assert server.calls == before


def test_a_healed_provider_makes_the_whole_matrix_green(world: DagsterHome, server: ScriptedProvider) -> None:
    server.refuses = lambda prompt: False
    before = server.calls
    assert world.run("replay_sweep").success
    assert agree(world)["materialized"] == keys(world)
    assert server.calls == before + 1
    assert server.asked_again() == 0


def test_a_request_without_the_step_has_no_cell(world: DagsterHome, server: ScriptedProvider) -> None:
    configure(world.home, server, strategies=[prompts(WAYS)])
    record(world.home, ["other"], step="translate")
    before = server.calls
    assert world.run("flywheel").success
    assert "other" in world.instance.get_dynamic_partitions("request")
    done = agree(world)["materialized"]
    # Of its own step it has what production answered, and nothing of the step that it never ran.
    assert len([key for key in done if key.startswith("other|")]) == 1
    assert server.calls == before
