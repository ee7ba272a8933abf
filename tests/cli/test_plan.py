"""`qbawa plan` says what a run would find, and leaves the home as it was, byte by byte."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from newsdesk import CONFIG, newsdesk

from qbawa.cli.demo_app.pipeline import record_demo
from qbawa.cli.plan import command
from qbawa.ingest import stage as ingest_stage
from qbawa.project import Home, Project, open_project
from qbawa.replay import stage as replay_stage
from qbawa.replay.cells import choose_cells
from qbawa.tournaments.stage import plan_judging, play

# Another size, a strategy gone, another one in its place, a judge with another rubric, and prices.
CHANGED = """
models: {m: {base_url: "http://127.0.0.1:9/v1", input_usd_per_million: 2, output_usd_per_million: 8, max_in_flight: 2}}
replay_set: {size: 20, exclude: [demo-02]}
strategies:
  - step: summarise
    name: plain
    prompt: "Sum this article up in one sentence.\\n\\n{{ article }}"
    models: [offline/lead-2, offline/textrank, m]
  - step: triage
    name: json
    prompt: "Triage this ticket. Return only JSON with the keys category, priority and sentiment.\\n\\nTicket: {{ ticket }}"
    models: [offline/triage-careful, m]
judges: {rubric: {model: offline/judge}, priced: {model: m}}
tournament: {verdict_budget: 400}
"""

KILLED_APP = """
import json, os, signal, sys, time
from qbawa.storage.journal import JournalWriter
lines = [line.encode() for line in sys.stdin.read().splitlines()]
writer = JournalWriter(sys.argv[1])
for line in lines[:-1]:
    writer.append(line)
writer.sync()
with open(writer.segment, "ab") as file:  # as a machine that stops in the middle of a write leaves it
    file.write(lines[-1])
os.kill(os.getpid(), signal.SIGKILL)
"""


STORIES = [
    "A river rose over the old mill last night. Nobody was hurt.",
    "Chess players gather in Oslo. The youngest is nine years old.",
    "Bakers strike against dearer flour. Shops stay shut on Monday.",
    "Astronomers find a comet. It will pass in spring.",
]


def step(number: int) -> str:
    """A recorded step of a request that nobody has seen yet."""
    return json.dumps(
        {
            "v": 1, "kind": "step", "recording_id": f"late-{number}", "request_id": f"late-{number}", "parent_id": None,
            "pipeline": "newsdesk", "step": "summarise", "inputs": {"article": STORIES[number]},
            "messages": None, "output": STORIES[number], "model": "m", "parameters": {}, "input_tokens": 3,
            "output_tokens": 1, "cost_usd": 0.01, "started_at": "2026-11-20T10:00:00+00:00", "latency_s": 0.5,
            "error": None, "tags": {}, "user": "u", "llm_calls": 1,
        }
    )  # fmt: skip


def contents(root: Path) -> dict[str, tuple[int, str]]:
    """Every file and folder: when it was changed, and the hash of what it holds."""
    return {
        str(path.relative_to(root)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder",
        )
        for path in sorted(root.rglob("*"))
    }


def plan(home: Home, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    monkeypatch.setenv("QBAWA_HOME", str(home.root))
    done = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    said: dict[str, Any] = json.loads(done.output)
    return said


def plan_of_what_is_there(project: Project) -> dict[str, Any]:
    """The plan once a run's first stages have written what they make."""
    ingest_stage.ingest(project, ingest_stage.new_batches(project))
    replay_stage.choose_requests(project)
    replay_stage.declare_strategies(project)
    cells = choose_cells(replay_stage.wanted_cells(project.lake))
    judging = [asdict(row) for row in plan_judging(project, cells)]
    return asdict(replay_stage.plan(project, cells)) | {"judging": judging}


@pytest.fixture
def pending(tmp_path: Path) -> Home:
    """A judged home with a changed qbawa.yaml, a closed segment of old and new requests, and one of a killed app."""
    project = newsdesk(tmp_path)
    play(project, run_id="one", verdict_budget=20)
    home = project.home
    record_demo(home.journal, 9)
    late = "\n".join(map(step, range(4)))
    killed = subprocess.run([sys.executable, "-c", KILLED_APP, str(home.journal)], input=late, text=True)
    assert killed.returncode == -signal.SIGKILL and len(list(home.journal.glob("*.open"))) == 1
    # Of the calls too a segment may lie there that nobody has loaded, and one of a process that died.
    first, *_ = sorted((home.calls / "loaded").glob("*.jsonl"))
    shutil.copy(first, home.calls / first.name)
    shutil.copy(first, home.calls / f"{first.stem}-dead.open")
    home.config.write_text(CHANGED)
    return home


@pytest.mark.slow
def test_a_plan_changes_no_byte_of_the_home_and_says_what_a_run_would_find(
    pending: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pending.root, tmp_path / "run" / "home")
    before = contents(pending.root)
    said = plan(pending, monkeypatch)
    assert contents(pending.root) == before
    assert said["calls_to_pay"] > 0 and said["cost_usd"] > 0

    run = open_project(Home(tmp_path / "run" / "home"))
    found = plan_of_what_is_there(run)
    assert {name: said[name] for name in found} == json.loads(json.dumps(found))
    # What made the difference: new requests are in, the torn line and the excluded one are not.
    chosen = set(run.lake.read("replay_set")["request_id"])
    assert {"demo-09", "late-0", "late-2"} <= chosen and not {"late-3", "demo-02"} & chosen


@pytest.mark.slow
def test_a_plan_can_name_a_request_that_is_still_in_the_journal(pending: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    said = plan(pending, monkeypatch, "--requests", "late-1", "--strategies", "plain/*")
    assert said["cells"] == 3 and plan(pending, monkeypatch, "--requests", "late-*")["cells"] == 3 * 4, "and `recorded`"


def test_a_plan_of_a_home_without_a_lake_makes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")
    home.root.mkdir()
    home.config.write_text(CONFIG)
    before = contents(home.root)
    assert plan(home, monkeypatch)["cells"] == 0
    assert contents(home.root) == before == {"qbawa.yaml": before["qbawa.yaml"]}
