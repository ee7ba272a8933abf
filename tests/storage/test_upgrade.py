"""A lake of 0.1.0 comes up to this version's format whatever happens meanwhile, and a newer one is refused in a sentence."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from old_homes import old_home

from qbawa.errors import LakeFormatError
from qbawa.ingest import stage as ingest_stage
from qbawa.project import Home, open_project
from qbawa.replay.stage import replay, wanted_cells
from qbawa.storage.lake import Lake
from qbawa.storage.tables import TABLES
from qbawa.storage.upgrade import FORMAT, known_migrations, upgrade


def qbawa(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qbawa", *arguments],
        env=os.environ | {"QBAWA_HOME": str(home.root)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def contents(lake: Lake) -> dict[str, list[object]]:
    """Every row of every table, but for the paths that the first migration changes."""
    return {name: sorted(map(str, lake.read(name).drop("path", strict=False).rows())) for name in TABLES}


def test_migrations_are_numbered_without_a_gap() -> None:
    assert list(known_migrations()) == list(range(1, FORMAT + 1))


def test_a_home_of_0_1_0_opens_with_every_row_and_paths_that_lie_in_it(tmp_path: Path) -> None:
    home = old_home("0.1.0", tmp_path)
    old = Lake(home.lake)
    assert old.format() == 0
    before = contents(old)
    assert all(before[name] for name in ("recordings", "replay_matrix", "matches", "verdicts", "qbawa", "datasets"))
    assert not any(Path(path).is_dir() for path in old.read("datasets")["path"]), "made in a folder that is gone"
    project = open_project(home)
    assert project.lake.format() == FORMAT
    assert contents(project.lake) == before
    for dataset, version, path in project.lake.read("datasets", ["dataset", "version", "path"]).iter_rows():
        assert path == f"exports/{dataset}/{version}" and home.whole_path(path).is_dir()


def test_a_home_of_0_1_0_goes_on_where_it_was_without_paying_again(tmp_path: Path) -> None:
    home = old_home("0.1.0", tmp_path)
    project = open_project(home)
    recorded = project.lake.read("recordings").height
    batches = ingest_stage.new_batches(project)
    assert len(batches) == 1, "the batch without rows and those that the lake holds are known"
    assert ingest_stage.ingest(project, batches).rows == 1
    assert project.lake.read("recordings").height == recorded + 1
    assert not ingest_stage.new_batches(project)
    report = replay(project, wanted_cells(project.lake), run_id="night-2")
    assert report.ok == report.cells and report.calls_paid == 0


@pytest.mark.slow
def test_commands_show_where_datasets_of_a_moved_home_lie(tmp_path: Path) -> None:
    home = old_home("0.1.0", tmp_path / "first")
    asked = ("sql", "--json", "SELECT path, version FROM datasets ORDER BY path")
    assert qbawa(home, *asked).returncode == 0
    (tmp_path / "second").mkdir()
    home = Home((tmp_path / "first" / "home").rename(tmp_path / "second" / "home"))
    shown = qbawa(home, *asked)
    assert shown.returncode == 0, shown.stderr
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    assert rows and all(Path(row["path"]).is_dir() and row["path"].startswith(str(tmp_path)) for row in rows)
    traced = json.loads(qbawa(home, "trace", "--json", rows[0]["version"]).stdout)
    assert traced["datasets"][0]["path"] == rows[0]["path"]
    exported = json.loads(qbawa(home, "export", "--json").stdout)
    folders = {Path(row["path"]).parent for row in rows}
    assert {Path(row["path"]).parent for row in exported["datasets"]} <= folders


def test_upgrading_twice_commits_nothing(tmp_path: Path) -> None:
    home = old_home("0.1.0", tmp_path)
    lake = Lake(home.lake)
    assert upgrade(lake, home.upgrade_lock) == list(known_migrations().values())
    versions = lake.versions()
    assert upgrade(lake, home.upgrade_lock) == [] and upgrade(Lake(home.lake), home.upgrade_lock) == []
    # As after a kill between the change and its note.
    (home.lake / "_format").rename(home.lake / "lost")
    assert upgrade(Lake(home.lake), home.upgrade_lock) == list(known_migrations().values())
    assert Lake(home.lake).versions() == versions


_UPGRADE = """
import sys
from pathlib import Path
from qbawa.project import Home, open_project
home = Home(Path(sys.argv[1]))
print("begun", flush=True)
open_project(home)
"""


def start_upgrade(home: Home) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", _UPGRADE, str(home.root)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    return process


@pytest.mark.hostile
@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.0, 0.03, 0.1])
def test_kill_9_during_an_upgrade_is_made_good_by_the_next_command(tmp_path: Path, after_s: float) -> None:
    home = old_home("0.1.0", tmp_path)
    before = contents(Lake(home.lake))
    for _ in range(2):
        process = start_upgrade(home)
        time.sleep(after_s)
        process.kill()
        process.wait()
    project = open_project(home)
    assert project.lake.format() == FORMAT and contents(project.lake) == before
    assert all(home.whole_path(path).is_dir() for path in project.lake.read("datasets")["path"])


@pytest.mark.slow
def test_processes_that_upgrade_at_once_agree(tmp_path: Path) -> None:
    home = old_home("0.1.0", tmp_path)
    before = contents(Lake(home.lake))
    processes = [start_upgrade(home) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert Lake(home.lake).format() == FORMAT and contents(Lake(home.lake)) == before


@pytest.mark.slow
def test_machines_that_share_no_lock_upgrade_a_lake_at_once(tmp_path: Path) -> None:
    """An address with a scheme is handled as an object store is."""
    home = old_home("0.1.0", tmp_path)
    script = (
        "import sys; from pathlib import Path; from qbawa.storage.lake import Lake\n"
        "from qbawa.storage.upgrade import upgrade\nupgrade(Lake(sys.argv[1]), Path(sys.argv[2]))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, f"file://{home.lake}", str(tmp_path / f"lock-{number}")])
        for number in range(3)
    ]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    lake = Lake(f"file://{home.lake}")
    assert lake.format() == FORMAT
    assert lake.read("datasets")["path"].str.starts_with("exports/").all()


def test_a_new_lake_is_of_this_format_and_needs_no_migration(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    assert lake.format() is None
    assert upgrade(lake, tmp_path / "lock") == []
    assert list(tmp_path.iterdir()) == [], "nothing is written before the first table is"
    assert lake.read("calls").is_empty() and lake.format() == FORMAT
    assert upgrade(Lake(tmp_path / "lake"), tmp_path / "lock") == []


@pytest.mark.slow
def test_a_newer_lake_is_refused_in_one_sentence_and_left_alone(tmp_path: Path) -> None:
    home = old_home("0.1.0", tmp_path)
    open_project(home).lake.note_format(FORMAT + 1)
    versions = Lake(home.lake).versions()
    with pytest.raises(LakeFormatError, match=f"format {FORMAT + 1}.*up to {FORMAT}"):
        open_project(home)
    for command in (["status"], ["run", "maintain_lake"]):
        said = qbawa(home, *command)
        assert said.returncode == 2 and said.stdout == ""
        assert re.fullmatch(r"qbawa: The lake .* has format .* newer version .*\n", said.stderr), said.stderr
    assert Lake(home.lake).versions() == versions and Lake(home.lake).format() == FORMAT + 1


def test_a_path_that_somebody_else_wrote_stays(tmp_path: Path) -> None:
    home = old_home("0.1.0", tmp_path)
    lake = Lake(home.lake)
    strange = lake.read("datasets").head(1).with_columns(version=pl.lit("v9"), path=pl.lit("/elsewhere/v8"))
    lake.merge("datasets", strange)
    upgrade(lake, home.upgrade_lock)
    assert lake.read("datasets", ["path"], keep=pl.col("version") == "v9")["path"].to_list() == ["/elsewhere/v8"]
