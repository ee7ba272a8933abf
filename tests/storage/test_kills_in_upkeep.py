"""kill -9 while small files are joined, old ones deleted and datasets exported."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from small_lake import build, fill

from qbawa.datasets.exports.manifest import read_manifest
from qbawa.datasets.stage import export_datasets
from qbawa.project import Home, open_project
from qbawa.storage.lake import Lake

pytestmark = pytest.mark.hostile

JOIN = """
import sys
from datetime import timedelta
import qbawa.storage.lake as module
from qbawa.storage.frames import frame

module.MOST_FILES = 4  # so that every few commits join files
lake, first = module.Lake(sys.argv[1]), int(sys.argv[2])
for n in range(first, first + 1000):
    lake.replace("calls", [f"seg_{n}"], frame("calls", [{"block_id": f"seg_{n}", "call_key": f"k{n}", "response_text": "x"}]))
    print(n, flush=True)
    if n % 3 == 2:
        lake.maintain(keep=timedelta(0))
"""

EXPORT = """
import shutil, sys
from pathlib import Path
from qbawa.datasets.stage import export_datasets
from qbawa.project import Home, open_project

project = open_project(Home(Path(sys.argv[1])))
print("ready", flush=True)
while True:
    export_datasets(project)
    shutil.rmtree(project.home.exports.rename(project.home.root / "gone"))
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)


def kill_after(process: subprocess.Popen[str], seconds: float) -> str:
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    return process.communicate()[0]


def test_no_row_is_lost_or_doubled_where_files_are_joined_and_deleted(tmp_path: Path) -> None:
    acknowledged = -1
    for seconds in (0.03, 0.11, 0.23, 0.31):
        writer = start(JOIN, str(tmp_path / "lake"), str(acknowledged + 1))
        assert writer.stdout is not None
        said = [writer.stdout.readline(), writer.stdout.readline(), *kill_after(writer, seconds).splitlines()]
        acknowledged = max(int(line) for line in said if line.strip())
        held = Lake(tmp_path / "lake").read("calls")["call_key"].to_list()
        assert len(held) == len(set(held)), "doubled"
        assert {f"k{n}" for n in range(acknowledged + 1)} <= set(held)
        # At most the one that was not acknowledged any more.
        assert len(held) <= acknowledged + 2


def test_an_export_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.root.mkdir()
    home.config.write_text("datasets: {d: {format: trl_preference, p_best: 0.5}}\n")
    fill(Lake(home.lake))
    build(Lake(home.lake))
    project = open_project(home)
    expected = {row["version"] for row in export_datasets(project).rows.iter_rows(named=True)}
    for seconds in (0.02, 0.07, 0.12, 0.2):
        exporter = start(EXPORT, str(home.root))
        assert exporter.stdout is not None and exporter.stdout.readline() == "ready\n"
        kill_after(exporter, seconds)
        shutil.rmtree(home.root / "gone", ignore_errors=True)
        for folder in (home.exports / "d").glob("[!.]*"):
            assert read_manifest(folder) is not None and len(list(folder.glob("*.jsonl"))) >= 1, "half a version"
    left = list((home.exports / "d").glob(".*"))
    for folder in left:
        os.utime(folder, (time.time() - 2 * 86_400,) * 2)
    rows = export_datasets(project).rows
    assert set(rows["version"]) == expected
    [path] = [home.whole_path(path) for path in rows["path"]]
    assert read_manifest(path) is not None
    assert project.lake.read("datasets", keep=pl.col("version").is_in(list(expected))).height == 1
    assert not list((home.exports / "d").glob(".*")), "what a killed export left is gone"
