"""kill -9 in the middle of paid work, then a rerun: nothing lost, nothing twice, nothing paid again, Dagster agrees."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from dagster import build_sensor_context
from dagster_home import DagsterHome, configure, dagster_home, prompts, record
from scripted_provider import ScriptedProvider

from qbawa.engine.ledger.index import is_answer
from qbawa.judges.prompt import read_blocks
from qbawa.storage.journal import all_segments, read_lines
from qbawa_assets.orphaned_runs import end_abandoned_runs
from sensors.sensors import abandoned_runs

REQUESTS = [f"r{n}" for n in range(5)]
WAYS = 16
PAID = len(REQUESTS) * WAYS
BUDGET = 120
CELLS = len(REQUESTS) * (WAYS + 1)  # and `recorded`


@pytest.fixture(scope="module")
def world(server: ScriptedProvider) -> Iterator[DagsterHome]:
    """A home with recordings, strategies and two judges; nothing is answered yet."""
    with dagster_home() as here:
        server.say = opinion
        configure(
            here.home,
            server,
            strategies=[prompts(WAYS)],
            judges={
                "scripted": {"model": "scripted", "rubric": "JUDGE"},
                "ranking": {"model": "scripted", "rubric": "JUDGE", "kind": "listwise"},
            },
            tournament={"format": "round_robin", "goal": "order", "verdict_budget": BUDGET},
        )
        record(here.home, REQUESTS)
        assert here.run("take_new_recordings").success
        yield here


def opinion(prompt: str) -> str:
    """An answer; or, as a judge, a verdict that depends on nothing but what is compared."""
    draw = random.Random(prompt)
    if '"ranking"' in prompt:
        numbers = range(1, len(read_blocks(prompt)))
        return json.dumps({"rationale": "It reads better.", "ranking": draw.sample(numbers, len(numbers))})
    if "JUDGE" in prompt:
        return json.dumps({"rationale": "It reads better.", "verdict": draw.choice("12")})
    return f"Answer {draw.randrange(10**9)}, which explains it."


def kill_while(world: DagsterHome, server: ScriptedProvider, job: str, answers: int, said: Path) -> None:
    """Start a job and, once the provider has given so many more answers, kill -9 everything that works on it."""
    goal = server.calls + answers
    with said.open("w") as output:
        process = world.command("run", job, stdout=output)
        try:
            _wait(lambda: server.calls >= goal or process.poll() is not None, said)
            assert process.poll() is None, said.read_text()
        finally:
            # Its whole session, so that no child quietly finishes what the parent began.
            for member in psutil.process_iter():
                try:
                    if os.getsid(member.pid) == process.pid:
                        member.send_signal(signal.SIGKILL)
                except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
                    continue
            process.wait()


def _wait(happened: Callable[[], bool], said: Path) -> None:
    until = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < until, said.read_text()
        time.sleep(0.005)


def journalled(world: DagsterHome) -> dict[str, str]:
    """Answered calls on disk: call_key and the body by which the provider counts."""
    lines = [
        json.loads(raw)
        for folder in (world.home.calls, world.home.calls / "loaded")
        for path in all_segments(folder)
        for raw in read_lines(path)
    ]
    return {
        line["call_key"]: json.dumps(
            {"model": "scripted", "messages": line["messages"], **line["params"]}, sort_keys=True
        )
        for line in lines
        if is_answer(line)
    }


@pytest.mark.hostile
def test_a_sweep_killed_again_and_again_ends_as_if_nothing_had_happened(
    world: DagsterHome, server: ScriptedProvider, tmp_path: Path
) -> None:
    server.latency_s = 0.15
    chance = random.Random(os.urandom(8))
    known: dict[str, str] = {}
    answered: dict[str, int] = {}
    for number in range(2):
        kill_while(world, server, "replay_sweep", chance.randint(9, 24), tmp_path / f"said-{number}")
        now = journalled(world)
        assert set(known) <= set(now)
        known = now
        for body in known.values():
            # An answer that was under way at an earlier kill may have been asked for again; from here on it may not.
            answered.setdefault(body, server.answered[body])
    assert known
    server.latency_s = 0.0
    assert world.run("replay_sweep").success
    cells = [tuple(row) for row in world.rows("SELECT request_id, strategy_id FROM replay_matrix WHERE status = 'ok'")]
    assert len(cells) == len(set(cells)) == CELLS
    keys = [key for (key,) in world.rows("SELECT call_key FROM calls WHERE error IS NULL")]
    assert len(keys) == len(set(keys)) == PAID
    assert set(known) <= set(keys)
    assert {body: server.answered[body] for body in answered} == answered
    assert world.statuses() == {
        "materialized": {f"{request}|{strategy}" for request, strategy in cells},
        "failed": set(),
        "in_progress": set(),
    }


@pytest.mark.hostile
def test_a_tournament_killed_in_the_middle_pays_no_verdict_twice(
    world: DagsterHome, server: ScriptedProvider, tmp_path: Path
) -> None:
    server.latency_s = 0.15
    before = set(journalled(world))
    kill_while(world, server, "tournament_sweep", 30, tmp_path / "said")
    known = {key: body for key, body in journalled(world).items() if key not in before}
    assert known
    server.latency_s = 0.0
    assert world.run("tournament_sweep").success
    verdicts = world.rows("SELECT verdict_id, call_key FROM verdicts")
    assert len({verdict for verdict, _ in verdicts}) == len(verdicts) == BUDGET
    # Every verdict that was paid before the kill counts, and none was paid for again.
    assert set(known) <= {key for _, key in verdicts}
    assert {server.answered[body] for body in known.values()} == {1}
    assert len({key for _, key in verdicts}) < 0.75 * BUDGET, "half of the verdicts come from rankings"


@pytest.mark.hostile
def test_killed_runs_do_not_look_alive(world: DagsterHome) -> None:
    abandoned_runs(build_sensor_context(instance=world.instance))
    assert [run.run_id for run in world.instance.get_runs() if not run.is_finished] == []


@pytest.mark.hostile
def test_a_run_that_lives_is_left_alone(world: DagsterHome, server: ScriptedProvider, tmp_path: Path) -> None:
    server.latency_s = 0.0
    with (tmp_path / "said").open("w") as output:
        process = world.command("run", "maintain_lake", stdout=output)
        _wait(lambda: any(not run.is_finished for run in world.instance.get_runs()), tmp_path / "said")
        assert end_abandoned_runs(world.instance, launched_here=True) == []
        assert process.wait(120) == 0
