"""Stop means drain: whoever ends a run while it pays loses no answer that was paid, and the next run asks none again."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from dagster import DagsterEventType
from dagster_home import configure, dagster_on, prompts, record
from running_up import Up, environment, processes_of, qbawa, running_up, wait_for
from scripted_provider import ScriptedProvider

from qbawa.project import Home

pytestmark = pytest.mark.hostile

LAUNCH = """
mutation launch($location: String!) { launchRun(executionParams: {
  selector: {repositoryLocationName: $location, repositoryName: "__repository__", jobName: "replay_sweep"}, runConfigData: {}
}) { __typename ... on LaunchRunSuccess { run { runId } } } }
"""
CANCEL = "mutation cancel($run: String!) { terminateRun(runId: $run) { __typename } }"
STATUS = "query status($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"


@pytest.fixture
def home(server: ScriptedProvider) -> Iterator[Home]:
    """A home whose 60 cells take the provider a while each, eight of them at a time."""
    here = Home(Path(tempfile.mkdtemp(prefix="qb-", dir="/tmp")))
    configure(here, server, strategies=[prompts(10)], replay_set={"size": 6})
    record(here, [f"r{number}" for number in range(6)])
    server.answered.clear()
    server.latency_s = 0.7
    try:
        assert qbawa(here, "run", "take_new_recordings").returncode == 0
        yield here
    finally:
        shutil.rmtree(here.root, ignore_errors=True)


def kept(home: Home) -> int:
    """Paid answers that the home holds, in its lake or its ledger."""
    count = "from qbawa.engine.session import LedgerReader; from qbawa.project import Home, open_project; import sys; \
from pathlib import Path; from qbawa.engine.ledger.to_lake import load_calls; home = Home(Path(sys.argv[1])); \
project = open_project(home); load_calls(project.lake, home.calls); \
print(project.lake.read('calls', ['call_key']).height)"
    done = subprocess.run([sys.executable, "-c", count, str(home.root)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def stopped_in_the_middle(home: Home, server: ScriptedProvider) -> None:
    """Nothing that was answered is lost, not all was asked, and the next run asks for the rest alone."""
    asked = server.calls
    assert 0 < asked < 60, "it was stopped in the middle"
    assert kept(home) == asked
    server.latency_s = 0.0
    assert qbawa(home, "run", "replay_sweep").returncode == 0
    assert server.asked_again() == 0 and server.calls == 60


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_command_loses_no_call_in_flight(
    home: Home, server: ScriptedProvider, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "qbawa", "run", "replay_sweep"]
    run = subprocess.Popen(command, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + 60
    while server.calls < 8 and time.monotonic() < until:
        time.sleep(0.05)
    run.send_signal(number)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 130, said
    assert processes_of(home) == []
    stopped_in_the_middle(home, server)


def test_cancelling_in_the_ui_loses_no_call_in_flight(home: Home, server: ScriptedProvider) -> None:
    with running_up(home) as up:
        launched: dict[str, str] = {}

        def launch() -> bool:
            answer = asked(up, LAUNCH, location="qbawa").get("launchRun", {})
            launched.update(answer.get("run") or {})
            return bool(launched)

        wait_for(launch, up, "the run")
        run = launched["runId"]
        wait_for(lambda: server.calls >= 8, up, "calls")
        assert asked(up, CANCEL, run=run)["terminateRun"]["__typename"] == "TerminateRunSuccess"
        wait_for(lambda: asked(up, STATUS, run=run)["runOrError"]["status"] == "CANCELED", up, "its end")
        time.sleep(1.5)  # what the provider was asked before is answered by now, whoever still listens
    stopped_in_the_middle(home, server)


def test_a_run_whose_process_is_killed_is_started_again_and_goes_on_where_it_was(
    home: Home, server: ScriptedProvider
) -> None:
    with running_up(home) as up:
        launched: dict[str, str] = {}

        def launch() -> bool:
            launched.update(asked(up, LAUNCH, location="qbawa").get("launchRun", {}).get("run") or {})
            return bool(launched)

        wait_for(launch, up, "the run")
        wait_for(lambda: server.calls >= 8, up, "calls")
        with dagster_on(home) as here:
            [started] = here.instance.get_records_for_run(launched["runId"], of_type=DagsterEventType.RUN_START).records
        assert started.event_log_entry.dagster_event is not None
        psutil.Process(started.event_log_entry.dagster_event.pid).kill()
        time.sleep(1.0)  # what the provider was asked before is answered by now
        server.latency_s = 0.0
        wait_for(lambda: retried(up, launched["runId"]) == ["SUCCESS"], up, "the run that follows")
    # Answers that the kill cut off between provider and journal were paid and are asked again; eight were in flight at most.
    assert server.asked_again() <= 8 and len(server.answered) == 60


def retried(up: Up, run: str) -> list[str]:
    """States of the runs that have followed a run."""
    group = "query group($run: ID!) { runGroupOrError(runId: $run) { ... on RunGroup { runs { runId status } } } }"
    runs: list[dict[str, str]] = asked(up, group, run=run)["runGroupOrError"].get("runs") or []  # type: ignore[assignment]
    return [each["status"] for each in runs if each["runId"] != run]


def asked(up: Up, query: str, **variables: str) -> dict[str, dict[str, str]]:
    answer = httpx.post(f"{up.url}/graphql", json={"query": query, "variables": variables}, timeout=60)
    return dict(json.loads(answer.text)["data"] or {})
