"""A table that was opened before shows what was committed since, whoever committed it and whatever became of its log."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from qbawa.storage.frames import frame
from qbawa.storage.lake import Lake

TABLE = "feedback"


@pytest.fixture
def lakes(tmp_path: Path) -> Iterator[tuple[Lake, Lake]]:
    """One that has seen the table hold `one`, and another one's view of it."""
    mine, other = Lake(tmp_path), Lake(tmp_path)
    other.merge(TABLE, noted("one"))
    assert comments(mine) == {"one"}
    yield mine, other


def noted(*comments: str) -> pl.DataFrame:
    return frame(TABLE, [{"request_id": text, "comment": text, "block_id": "b"} for text in comments])


def comments(lake: Lake) -> set[str]:
    return set(lake.read(TABLE)["comment"])


def test_what_others_commit_is_seen(lakes: tuple[Lake, Lake]) -> None:
    mine, other = lakes
    for text in ("two", "three"):
        other.merge(TABLE, noted(text))
    assert comments(mine) == {"one", "two", "three"} and mine.versions() == other.versions()
    mine.merge(TABLE, noted("four"))
    assert comments(other) == comments(mine) == {"one", "two", "three", "four"}


@pytest.mark.parametrize("commits", [1, 4], ids=["shorter", "longer"])
def test_a_table_that_was_made_anew_is_another_one(lakes: tuple[Lake, Lake], tmp_path: Path, commits: int) -> None:
    mine, _ = lakes
    mine.merge(TABLE, noted("two"))
    assert comments(mine) == {"one", "two"}
    shutil.rmtree(tmp_path / TABLE)
    anew = Lake(tmp_path)
    for number in range(commits):
        anew.merge(TABLE, noted(f"new {number}"))
    assert comments(mine) == {f"new {number}" for number in range(commits)}
    assert mine.state(TABLE) == anew.state(TABLE)


def test_a_log_that_somebody_has_shortened_is_read_from_its_checkpoint(lakes: tuple[Lake, Lake]) -> None:
    mine, other = lakes
    other.merge(TABLE, noted("two"))
    other.delete(TABLE, "comment = 'one'")
    other.purge(TABLE, alone=True)
    assert comments(mine) == {"two"} and mine.versions() == other.versions()
    mine.merge(TABLE, noted("three"))
    assert comments(other) == {"two", "three"}


def test_threads_that_write_through_one_lake_lose_nothing(tmp_path: Path) -> None:
    """Each adds to the block that all share, so one that wrote on what it had not read would take rows away."""
    lake = Lake(tmp_path)
    names = [f"{thread} {number}" for thread in range(3) for number in range(6)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda thread: [lake.merge(TABLE, noted(n)) for n in names if n[0] == str(thread)], range(3)))
    assert comments(lake) == set(names)


@pytest.mark.hostile
def test_threads_that_make_a_table_at_once_all_write_to_it(tmp_path: Path) -> None:
    for turn in range(30):
        lake, start = Lake(tmp_path / str(turn)), threading.Barrier(4)

        def write(number: int, lake: Lake = lake, start: threading.Barrier = start) -> None:
            start.wait()
            lake.merge(TABLE, noted(str(number)))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        assert comments(lake) == {"0", "1", "2", "3"}
