"""Which sources have come since a version of the lake: read from the log, or from everything where the log does not say."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from qbawa.ingest.stage import held_batches, held_version
from qbawa.project import Home, Project, open_project
from qbawa.storage.frames import frame

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path) -> Project:
    home = Home(tmp_path / "home")
    home.root.mkdir()
    home.config.write_text("")
    project = open_project(home)
    for table in ("recordings", "feedback", "quarantine"):
        project.lake.versions()
        put(project, "old", table)
    return project


def put(project: Project, name: str, table: str = "recordings") -> None:
    key = {"recordings": "recording_id", "feedback": "feedback_id", "quarantine": "line_id"}[table]
    columns = {column for column in (key, "block_id") if column in project.lake.read(table).columns}
    project.lake.replace(table, [name], frame(table, [{column: name for column in columns}]))


def test_only_what_came_since_is_named(project: Project) -> None:
    before = held_version(project)
    assert held_batches(project, before) == set()
    put(project, "new")
    put(project, "noted", "feedback")
    put(project, "half/1")
    assert held_batches(project, before) == {"new", "noted"}, "a source that is not whole yet is no batch"
    assert held_batches(project) == {"old", "new", "noted"}
    assert held_batches(project, held_version(project)) == set()


def test_joining_files_brings_nothing_and_hides_nothing(project: Project) -> None:
    before = held_version(project)
    project.lake.maintain(keep=timedelta(hours=24))
    assert held_batches(project, before) == set()
    put(project, "new")
    project.lake.maintain(keep=timedelta(hours=24))
    assert held_batches(project, before) == {"new"}


def test_what_came_and_went_is_not_named(project: Project) -> None:
    before = held_version(project)
    put(project, "new")
    put(project, "short-lived")
    project.lake.delete("recordings", "block_id = 'short-lived'")
    assert held_batches(project, before) >= {"new"} and "short-lived" not in held_batches(project, before)


def lose_files(project: Project) -> None:
    put(project, "newer")
    project.lake.purge("recordings")


def lose_log(project: Project) -> None:
    newest = sorted(Path(project.lake.uri, "recordings", "_delta_log").glob("*.json"))[-1]
    project.lake._open("recordings").create_checkpoint()
    newest.unlink()


def make_anew(project: Project) -> None:
    shutil.rmtree(project.lake.uri)
    for name in ("new", "old"):
        put(open_project(project.home), name)


@pytest.mark.parametrize("lose", [lose_files, lose_log, make_anew])
def test_where_the_log_does_not_say_everything_is_named(project: Project, lose: Callable[[Project], None]) -> None:
    before = held_version(project)
    put(project, "new")
    lose(project)
    after = open_project(project.home)
    assert held_batches(after, before) == held_batches(after) >= {"old", "new"}


@pytest.mark.parametrize("cursor", ["", "no json", "[]", "{}", '{"recordings": 5}'])
def test_a_cursor_that_says_nothing_names_everything(project: Project, cursor: str) -> None:
    assert held_batches(project, cursor) == {"old"}


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_no_newcomer_is_missed_and_nothing_is_invented(project: Project, seed: int) -> None:
    draw = random.Random(seed)
    before, then = held_version(project), held_batches(project)
    for step in range(12):
        match draw.randrange(6):
            case 0:
                project.lake.maintain(keep=timedelta(hours=draw.choice([0, 24])))
            case 1:
                project.lake.delete("recordings", f"block_id = 'b{draw.randrange(step + 1)}'")
            case _:
                put(project, f"b{step}", draw.choice(["recordings", "feedback"]))
    now = held_batches(project)
    assert now - then <= held_batches(project, before) <= now
