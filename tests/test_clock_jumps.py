"""Clocks that jump, as they do after a dead battery or a wrong time server: nothing is lost, doubled or paid twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from scripted_provider import ScriptedProvider

pytestmark = pytest.mark.hostile

NIGHT = """
import json, sys
from pathlib import Path
import qbawa
from qbawa.ingest import stage as ingest_stage
from qbawa.project import Home, open_project
from qbawa.replay import stage as replay_stage
from qbawa.tournaments.stage import play

night, home = sys.argv[1], Home(Path(sys.argv[2]))
qbawa.configure(home.journal, pipeline="sample")
explain = qbawa.step(name="explain")(lambda topic: qbawa.llm_call(model="m", messages=[], output=topic, cost_usd=0.0) or topic)
for number in range(2):
    with qbawa.request(request_id=f"{night}-{number}"):
        explain(f"topic {night} {number}")
assert qbawa.flush()
qbawa.configure(None)
project = open_project(home)
ingest_stage.ingest(project, ingest_stage.new_batches(project, thorough=False))
replay_stage.choose_requests(project)
replay_stage.declare_strategies(project)
cells = replay_stage.wanted_cells(project.lake)
replayed = replay_stage.replay(project, cells, run_id=night)
played = play(project, run_id=night)
project.maintain()
read = project.lake.read
print(json.dumps({
    "recordings": read("recordings")["recording_id"].to_list(), "cells": read("replay_matrix").height,
    "failed": replayed.failed, "missing": replayed.missing, "spent": replayed.cost_usd + played.cost_usd,
    "latencies": read("recordings")["latency_s"].to_list(),
    "pending": len(ingest_stage.new_batches(project)),
}))
"""


def test_nights_under_a_clock_that_jumps_lose_double_and_pay_nothing_twice(
    tmp_path: Path, server: ScriptedProvider
) -> None:
    faketime = shutil.which("faketime")
    if faketime is None:
        pytest.skip("needs the program faketime")
    home = tmp_path / "home"
    home.mkdir()
    server.say = lambda prompt: (
        json.dumps({"rationale": "r", "verdict": "1"}) if "<answer_1>" in prompt else prompt[-9:]
    )
    model = {"base_url": server.base_url, "input_usd_per_million": 10, "output_usd_per_million": 1000}
    (home / "qbawa.yaml").write_text(
        yaml.safe_dump(
            {
                "models": {"m": model},
                "strategies": [
                    {
                        "step": "explain",
                        "name": "way",
                        "model": "m",
                        "prompts": {"a": "A {{ topic }}", "b": "B {{ topic }}"},
                    }
                ],
                "judges": {"j": {"model": "m"}},
                "budget": {"usd_per_day": 50},
            }
        )
    )
    found = []
    for night, jump in enumerate(("+0d", "-40d", "+400d", "-1h")):
        done = subprocess.run(
            [faketime, "-f", jump, sys.executable, "-c", NIGHT, f"n{night}", str(home)],
            capture_output=True, text=True, timeout=120, env={**os.environ, "FAKETIME_DONT_FAKE_MONOTONIC": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads(done.stdout.splitlines()[-1]))
        now = found[-1]
        assert now["failed"] == now["missing"] == now["pending"] == 0, (jump, now)
        assert len(now["recordings"]) == len(set(now["recordings"])) == 2 * len(found), jump
        assert now["cells"] == 3 * 2 * len(found), jump
        assert all(latency >= 0 for latency in now["latencies"])
    assert server.asked_again() == 0
