"""A folder that has not changed is not listed again, not even by the next process; and no segment is ever overlooked."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from qbawa.ingest import batches as batches_module
from qbawa.ingest.stage import ingest_batch, pending_batches
from qbawa.storage.journal import JournalWriter
from qbawa.storage.lake import Lake

SETTLED_S = 0.15  # longer than a stamp counts as fresh

_listed: list[str] = []
_listening = False


def _listen(event: str, arguments: tuple[object, ...]) -> None:
    if _listening and event == "os.listdir":
        _listed.append(str(arguments[0]))


sys.addaudithook(_listen)


@contextmanager
def listings(folder: Path) -> Iterator[list[str]]:
    """Each time that Python lists this folder."""
    global _listening
    _listed.clear()
    _listening, seen = True, list[str]()
    try:
        yield seen
    finally:
        _listening = False
        seen += [path for path in _listed if path == str(folder.resolve())]


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "_MANY", 2)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "home" / "journal"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "home" / "lake")


def drop(folder: Path, *names: str) -> None:
    """A closed segment for each name."""
    for name in names:
        with JournalWriter(folder) as writer:
            writer.append(
                b'{"v":1,"kind":"step","recording_id":"%b","request_id":"r","pipeline":"p","step":"x",' % name.encode()
                + b'"inputs":{},"output":"o","tags":{},"started_at":1.76e9,"latency_s":1}'
            )


def restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "_looks", {})


def tick(lake: Lake, journal: Path) -> int:
    """What the sensor does, and the run that it starts; how many segments came in."""
    found = pending_batches(lake, [journal], thorough=False)
    for batch in found:
        ingest_batch(lake, batch)
    return sum(len(batch.segments) for batch in found)


def test_a_process_that_starts_lists_a_folder_that_nobody_has_changed_no_more(
    lake: Lake, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(journal, "a", "b", "c")
    assert tick(lake, journal) == 3
    time.sleep(SETTLED_S)
    assert tick(lake, journal) == 0
    restart(monkeypatch)
    with listings(journal) as seen:
        assert tick(lake, journal) == 0
    assert seen == []
    drop(journal, "d")
    with listings(journal) as seen:
        assert tick(lake, journal) == 1
    assert len(seen) >= 1


def test_a_segment_is_seen_whose_coming_somebody_has_dated_back(
    lake: Lake, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(journal, "a", "b", "c")
    tick(lake, journal)
    time.sleep(SETTLED_S)
    tick(lake, journal)
    before = journal.stat()
    drop(journal, "d")
    os.utime(journal, ns=(before.st_atime_ns, before.st_mtime_ns))
    restart(monkeypatch)
    assert tick(lake, journal) == 1


def test_a_batch_that_was_formed_and_not_taken_in_is_found_by_the_next_process(
    lake: Lake, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(journal, "a", "b", "c")
    tick(lake, journal)
    drop(journal, "d")
    time.sleep(SETTLED_S)
    assert len(pending_batches(lake, [journal], thorough=False)) == 1  # noted: d is not in the index
    restart(monkeypatch)
    for manifest in (journal / "batches").glob("b_*.json"):
        manifest.unlink()  # its segments then form a new batch, as the error message says
    assert tick(lake, journal) == 1 and tick(lake, journal) == 0


def test_an_index_without_the_note_is_read_as_before(
    lake: Lake, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(journal, "a", "b", "c")
    tick(lake, journal)
    time.sleep(SETTLED_S)
    tick(lake, journal)
    with closing(sqlite3.connect(journal / "batches" / "done.sqlite")) as index, index:
        assert index.execute("SELECT count(*) FROM look").fetchone() == (1,)
        index.execute("DROP TABLE look")
    restart(monkeypatch)
    drop(journal, "d")
    assert tick(lake, journal) == 1
    restart(monkeypatch)
    assert tick(lake, journal) == 0


@pytest.mark.hostile
@pytest.mark.slow  # waits for stamps to settle
@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_a_tick_of_any_process_leaves_nothing_out(
    lake: Lake, journal: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    draw, dropped = random.Random(seed), 0
    drop(journal, "first", "second", "third")
    dropped += 3
    for _ in range(25):
        match draw.choice(
            ["drop", "drop", "copy", "tick", "tick", "restart", "restart", "settle", "form", "lose", "touch"]
        ):
            case "drop":
                drop(journal, f"n{dropped}")
                dropped += 1
            case "copy":
                if there := sorted(journal.glob("*.jsonl")):
                    shutil.copy(draw.choice(there), journal / f"copy-{draw.randrange(1000)}.jsonl")
            case "tick":
                tick(lake, journal)
                assert lake.read("recordings").height == dropped
            case "restart":
                restart(monkeypatch)
            case "settle":
                time.sleep(SETTLED_S)
            case "form":
                pending_batches(lake, [journal], thorough=False)
            case "lose":
                if draw.random() < 0.3:
                    (journal / "batches" / "done.sqlite").unlink(missing_ok=True)
            case "touch":
                before = journal.stat()
                (journal / "note.txt").write_text("x")
                os.utime(journal, ns=(before.st_atime_ns, before.st_mtime_ns))
    tick(lake, journal)
    assert lake.read("recordings").height == dropped and pending_batches(lake, [journal]) == []
