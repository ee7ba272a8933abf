"""A sweep of 30,000 cells through Dagster on embedded PostgreSQL, events included, and what the UI then waits for.

    python benchmarks/dagster_cells.py [--json] [--quick]

100 requests, recorded by the recorder, × a grid of 300 strategies of a free offline model, and `recorded`, in a fresh
home: `qbawa run replay_sweep` as a user would type it, from its start to its end (`seconds`). Then `qbawa up`, and the
query that the page of the matrix's partitions sends, cold and warm; `ui_status_s` is the slowest of them.

`rectangle_500_s` is what somebody waits who adds 25 strategies and has them answer 20 of the requests by the dialog of
`replay_by_request`: from the mutation that its button sends until the page of the matrix shows 500 more cells.

`load_cpu_s` is the least CPU time of three fresh processes that load the code location. `empty_rerun_s` and
`empty_rerun_cpu_s` are wall and CPU time of `qbawa run flywheel` in the home of `qbawa demo`, where the flywheel has
turned once and nothing has changed since, the best of five: what every run costs, whatever it finds to do. The home of
30,100 cells would have to be judged first, and is not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

STEP = "answer"
MODEL = "offline/lead"
PROMPTS, TEMPERATURES = 10, 30
WORDS = ("why", "how", "when", "does", "the", "market", "river", "engine", "winter", "letter", "bridge", "harbour")
# What the page of an asset's partitions asks for (Dagster 1.13).
QUERY = """
query PartitionHealthQuery($assetKey: AssetKeyInput!) {
  assetNodeOrError(assetKey: $assetKey) {
    ... on AssetNode {
      id
      partitionKeysByDimension { name type partitionKeys }
      assetPartitionStatuses {
        ... on MultiPartitionStatuses {
          primaryDimensionName
          ranges {
            primaryDimStartKey
            primaryDimEndKey
            secondaryDim {
              ... on DefaultPartitionStatuses { materializedPartitions materializingPartitions failedPartitions }
            }
          }
        }
      }
    }
  }
}
"""


LAUNCH = """
mutation LaunchPartitionBackfill($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) { __typename ... on PythonError { message } }
}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print nothing but the last line")
    parser.add_argument("--quick", action="store_true", help="2,000 cells, for a first look")
    options = parser.parse_args()
    requests, temperatures = (40, 5) if options.quick else (100, TEMPERATURES)
    with tempfile.TemporaryDirectory(prefix="qb-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        environment = {**os.environ, "QBAWA_HOME": folder}
        prepare(home, requests, temperatures)
        take_s, _ = run(environment, "take_new_recordings", options.json)
        seconds, cpu_s = run(environment, "replay_sweep", options.json)
        cells = count(environment)
        with ui(environment) as url:
            waits, materialized = zip(*(status(url) for _ in range(4)), strict=True)
            rectangle_s = rectangle(home, environment, url, materialized[-1], options.json)
    empty_rerun_s, empty_rerun_cpu_s = empty_rerun(options.json)
    result = {
        "cells": cells,
        "seconds": round(seconds, 1),
        "ui_status_s": round(max(waits), 2),
        "ui_status_warm_s": round(min(waits), 2),
        "ui_materialized": materialized[-1],
        "cpu_s": round(cpu_s, 1),
        "take_recordings_s": round(take_s, 1),
        "rectangle_500_s": round(rectangle_s, 1),
        "load_cpu_s": round(load_cpu(), 2),
        "empty_rerun_s": round(empty_rerun_s, 2),
        "empty_rerun_cpu_s": round(empty_rerun_cpu_s, 2),
        "quick": options.quick,
    }
    if materialized[-1] != cells:
        sys.exit(f"The UI shows {materialized[-1]} materialized cells, the lake holds {cells}.")
    print(json.dumps(result))


def prepare(home: Path, requests: int, temperatures: int) -> None:
    """A home with its configuration and a closed segment of recordings."""
    import qbawa

    prompts = {f"way-{n}": f"Way {n}. Answer briefly: {{{{ question }}}}" for n in range(PROMPTS)}
    grid = {"temperature": [round(0.03 * n, 2) for n in range(temperatures)]}
    strategies = [{"step": STEP, "prompts": prompts, "model": MODEL, "params": grid}]
    content = {"strategies": strategies, "replay_set": {"size": requests}}
    (home / "qbawa.yaml").write_text(yaml.safe_dump(content))

    @qbawa.step(name=STEP)
    def answer(question: str) -> str:
        messages = [{"role": "user", "content": question}]
        qbawa.llm_call(model="house/model", messages=messages, output="It depends.", cost_usd=0.0)
        return "It depends."

    seen = random.Random("dagster_cells")
    qbawa.configure(home / "journal", pipeline="bench")
    for number in range(requests):
        with qbawa.request(request_id=f"r{number:03}"):
            answer(f"Question {number}. " + " ".join(seen.choices(WORDS, k=80)) + ".")
    if not qbawa.flush():
        sys.exit("The recorder could not write everything.")
    qbawa.configure(None)


def run(environment: dict[str, str], job: str, quiet: bool) -> tuple[float, float]:
    """Wall and CPU seconds of `qbawa run JOB`."""
    began, cpu = time.monotonic(), sum(os.times()[2:4])
    output = subprocess.DEVNULL if quiet else sys.stderr
    subprocess.run(
        [sys.executable, "-m", "qbawa", "run", job], env=environment, check=True, stdout=output, stderr=output
    )
    return time.monotonic() - began, sum(os.times()[2:4]) - cpu


def rectangle(home: Path, environment: dict[str, str], url: str, before: int, quiet: bool) -> float:
    """Seconds from a backfill of 20 requests × 25 new strategies by the UI's mutation until the UI shows the 500 cells."""
    content = yaml.safe_load((home / "qbawa.yaml").read_text())
    prompts = {f"n{n}": f"New way {n}. Answer: {{{{ question }}}}" for n in range(25)}
    content["strategies"].append({"step": STEP, "name": "new", "prompts": prompts, "model": MODEL})
    (home / "qbawa.yaml").write_text(yaml.safe_dump(content))
    run(environment, "take_new_recordings", quiet)
    config = {"ops": {"replay_by_request": {"config": {"strategies": "new*"}}}}
    params = {
        "assetSelection": [{"path": ["replay_by_request"]}],
        "partitionNames": [f"r{n:03}" for n in range(20)],
        "fromFailure": False,
        "runConfigData": yaml.safe_dump(config),
    }
    began = time.monotonic()
    answer = ask(url, LAUNCH, {"params": params})["launchPartitionBackfill"]
    if answer["__typename"] != "LaunchBackfillSuccess":
        sys.exit(f"The backfill was not launched: {answer}")
    while (shown := status(url)[1]) < before + 500:
        if time.monotonic() - began > 300:
            sys.exit(f"After 300 s the UI shows {shown - before} of 500 cells.")
        time.sleep(0.5)
    return time.monotonic() - began


def load_cpu() -> float:
    """CPU seconds of a fresh process that loads the code location, the least of three."""
    from qbawa.cli.launch.dagster import project_folder

    folder, used = project_folder(), []
    for _ in range(3):
        cpu = sum(os.times()[2:4])
        subprocess.run([sys.executable, "-c", "import qbawa_assets.definitions"], cwd=folder, check=True)
        used.append(sum(os.times()[2:4]) - cpu)
    return min(used)


def empty_rerun(quiet: bool) -> tuple[float, float]:
    """Wall and CPU seconds of a run of the flywheel that finds nothing to do in the demo's home, the least of five."""
    with tempfile.TemporaryDirectory(prefix="qb-", ignore_cleanup_errors=True) as folder:
        environment = {**os.environ, "QBAWA_HOME": folder}
        output = subprocess.DEVNULL if quiet else sys.stderr
        subprocess.run(
            [sys.executable, "-m", "qbawa", "demo"], env=environment, check=True, stdout=output, stderr=output
        )
        runs = [run(environment, "flywheel", quiet) for _ in range(5)]
    return min(wall for wall, _ in runs), min(cpu for _, cpu in runs)


def count(environment: dict[str, str]) -> int:
    """Answered cells in the catalog, as a user would count them."""
    question = "SELECT count(DISTINCT cell_id) AS cells FROM replay_matrix WHERE status = 'ok'"
    said = subprocess.run(
        [sys.executable, "-m", "qbawa", "sql", "--json", question],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return int(json.loads(said.stdout)["cells"])


@contextmanager
def ui(environment: dict[str, str]) -> Iterator[str]:
    """Address of a running `qbawa up`, stopped at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "qbawa", "up", "--port", str(port)], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        if not any("Dagster UI" in line for line in process.stdout):
            sys.exit(f"`qbawa up` ended with code {process.wait()}.")
        yield f"http://127.0.0.1:{port}/graphql"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def status(url: str) -> tuple[float, int]:
    """Seconds until the UI has the state of all partitions, and how many are materialized."""
    began = time.monotonic()
    node = ask(url, QUERY, {"assetKey": {"path": ["replay_matrix"]}})["assetNodeOrError"]
    waited = time.monotonic() - began
    keys = {dimension["name"]: dimension["partitionKeys"] for dimension in node["partitionKeysByDimension"]}
    statuses = node["assetPartitionStatuses"]
    order = {key: place for place, key in enumerate(keys[statuses["primaryDimensionName"]])}
    return waited, sum(
        (order[part["primaryDimEndKey"]] - order[part["primaryDimStartKey"]] + 1)
        * len(part["secondaryDim"]["materializedPartitions"])
        for part in statuses["ranges"]
    )


def ask(url: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    """What the UI's server answers."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, body, {"Content-Type": "application/json"}), timeout=120) as answer:
        return dict(json.load(answer)["data"])


if __name__ == "__main__":
    main()
