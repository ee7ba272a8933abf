"""A request leaves every journal segment, put aside, packed or not; no other line is lost or taken in twice, kills or not."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from qbawa.erasure import forget
from qbawa.erasure.journals import cut_segments
from qbawa.errors import InputError
from qbawa.ingest.batch_index import NAME
from qbawa.ingest.batches import MANIFESTS
from qbawa.ingest.journal_retention import Fate, put_aside, retire_segments
from qbawa.ingest.line_reader import open_bytes
from qbawa.ingest.stage import ingest_batch, pending_batches
from qbawa.project import Home
from qbawa.storage.journal import JournalWriter, closed_segments
from qbawa.storage.lake import Lake

pytestmark = pytest.mark.hostile

GONE = "r_3"


def write_segment(folder: Path, *requests: str) -> None:
    with JournalWriter(folder) as writer:
        for request in requests:
            step = {"v": 1, "kind": "step", "recording_id": f"s_{request}", "request_id": request, "step": "answer"}
            step |= {
                "started_at": "2026-11-01T00:00:00Z",
                "inputs": {"topic": f"a text of {request} alone"},
                "output": "yes",
            }
            writer.append(json.dumps(step).encode())


def ingest(lake: Lake, *folders: Path, thorough: bool = True) -> int:
    batches = pending_batches(lake, folders, thorough=thorough)
    for batch in batches:
        ingest_batch(lake, batch)
    return len(batches)


def put_all_aside(fate: Fate, *folders: Path) -> None:
    retire_segments(folders, fate, older_than_s=-1, held=set)


def text_of(*folders: Path) -> bytes:
    found = []
    for folder in folders:
        for path in (*closed_segments(folder), *put_aside(folder)):
            with open_bytes(path) as file:
                found.append(file.read())
    return b"".join(found)


@pytest.mark.parametrize("fate", ["keep", "archive"])
def test_segments_that_were_put_aside_lose_the_request_and_keep_their_age(tmp_path: Path, fate: Fate) -> None:
    home, other = Home(tmp_path / "h"), tmp_path / "other"
    lake = Lake(home.lake)
    for folder in (home.journal, other):
        write_segment(folder, f"{folder.name}_1", GONE, "r_30")
        write_segment(folder, f"{folder.name}_2")
    ingest(lake, home.journal, other)
    put_all_aside(fate, home.journal, other)
    segments = [path for folder in (home.journal, other) for path in put_aside(folder)]
    assert len(segments) == 4 and all((path.suffix == ".gz") == (fate == "archive") for path in segments)
    written = {path: path.stat().st_mtime_ns for path in segments}
    assert forget(lake, home, GONE, journals=[home.journal, other]).journal_lines == 2
    assert f'"{GONE}"'.encode() not in text_of(home.journal, other)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    for thorough in (True, False):
        assert ingest(lake, home.journal, other, thorough=thorough) == 0
    # From them alone the lake can be filled again, without it.
    shutil.rmtree(lake.uri)
    again = Lake(lake.uri)
    ingest(again, home.journal, other)
    assert set(again.read("recordings")["request_id"]) == {
        "r_30",
        *(f"{name}_{n}" for name in ("journal", "other") for n in (1, 2)),
    }


def test_the_index_of_batches_names_no_request_and_describes_the_segments_as_they_are(tmp_path: Path) -> None:
    home = Home(tmp_path)
    lake = Lake(home.lake)
    write_segment(home.journal, "r_1", "somebody-in-particular")
    ingest(lake, home.journal)
    forget(lake, home, "somebody-in-particular")
    path = home.journal / MANIFESTS / NAME
    assert b"somebody" not in path.read_bytes()
    (segment,) = closed_segments(home.journal)
    with sqlite3.connect(path) as index:
        known = index.execute("SELECT bytes, changed_ns FROM segment").fetchall()
    assert known == [(segment.stat().st_size, segment.stat().st_mtime_ns)]


def test_a_batch_that_is_formed_and_not_ingested_yet_is_ingested_without_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    lake = Lake(home.lake)
    write_segment(home.journal, "r_1", GONE)
    assert len(pending_batches(lake, [home.journal])) == 1
    assert forget(lake, home, GONE).journal_lines == 1
    assert ingest(lake, home.journal) == 1
    assert lake.read("recordings")["request_id"].to_list() == ["r_1"]


def test_what_a_killed_packer_has_left_goes_too(tmp_path: Path) -> None:
    home = Home(tmp_path)
    lake = Lake(home.lake)
    write_segment(home.journal, "r_1", GONE)
    ingest(lake, home.journal)
    put_all_aside("archive", home.journal)
    (packed,) = put_aside(home.journal)
    draft = packed.with_name(f".{packed.name}.{'0f' * 16}")
    draft.write_bytes(packed.read_bytes())
    (home.journal / ".lock").touch()
    forget(lake, home, GONE)
    assert not draft.exists() and (home.journal / ".lock").exists()


def test_a_damaged_packed_segment_is_named_and_the_rest_waits_for_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    lake = Lake(home.lake)
    write_segment(home.journal, "r_1", GONE)
    ingest(lake, home.journal)
    put_all_aside("archive", home.journal)
    (packed,) = put_aside(home.journal)
    whole = packed.read_bytes()
    packed.write_bytes(whole[:40])
    with pytest.raises(InputError, match=packed.name):
        forget(lake, home, GONE)
    packed.write_bytes(whole)
    assert forget(lake, home, GONE).journal_lines == 1
    assert GONE.encode() not in gzip.decompress(packed.read_bytes())


_CUT = """
import sys
from pathlib import Path
from qbawa.erasure.journals import cut_segments
print("begun", flush=True)
cut_segments(Path(sys.argv[1]), Path(sys.argv[1]), sys.argv[2])
"""


def killed_cut(journal: Path, until: Callable[[], None]) -> None:
    process = subprocess.Popen([sys.executable, "-c", _CUT, str(journal), GONE], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    until()
    process.kill()
    process.communicate()


def test_kill_9_at_random_moments_loses_no_line_of_others_and_takes_none_in_twice(tmp_path: Path) -> None:
    chance = random.Random()
    home = Home(tmp_path)
    lake = Lake(home.lake)
    for n in range(40):
        write_segment(home.journal, f"r_{n}_a", GONE, f"r_{n}_b")
        if n == 19:
            ingest(lake, home.journal)
            put_all_aside("archive", home.journal)
    ingest(lake, home.journal)
    moments = [chance.uniform(0, 0.3) for _ in range(3)]
    for moment in moments:
        killed_cut(home.journal, lambda moment=moment: time.sleep(moment))  # type: ignore[misc]
    left = text_of(home.journal).count(f'"{GONE}"'.encode())
    assert cut_segments(home.journal, home.journal, GONE) == left, moments
    others = sorted(f"r_{n}_{end}" for n in range(40) for end in "ab")
    lines = text_of(home.journal).splitlines()
    assert sorted(json.loads(line)["request_id"] for line in lines) == others, moments
    assert ingest(lake, home.journal) == 0, moments
