"""What has been ingested costs a tick nothing, and what the lake does not hold is never taken for ingested."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qbawa.erasure import forget
from qbawa.errors import InputError
from qbawa.ingest import batches as batches_module
from qbawa.ingest.batches import Batch, all_batches, load_batch
from qbawa.ingest.block_writer import complete_among
from qbawa.ingest.journal_retention import Fate, Retired, put_aside, retire_segments
from qbawa.ingest.stage import ingest_batch, pending_batches
from qbawa.project import Home
from qbawa.storage.journal import JournalWriter
from qbawa.storage.lake import Lake


def drop(folder: Path, *numbers: int) -> Path:
    """A closed segment with these recordings."""
    with JournalWriter(folder) as writer:
        for n in numbers:
            step = {"v": 1, "kind": "step", "recording_id": f"s_{n}", "request_id": f"r_{n}", "pipeline": "p"}
            step |= {"step": "answer", "inputs": {"question": f"why {n}?"}, "output": f"because of {n}", "tags": {}}
            step |= {"started_at": "2026-11-20T10:00:00+00:00", "latency_s": 0.5, "llm_calls": 0}
            writer.append(json.dumps(step).encode())
        writer.sync()
        segment = writer.segment
    assert segment is not None
    return segment.with_suffix(".jsonl")


def quick(lake: Lake, *folders: Path) -> list[Batch]:
    """What a tick of the sensor finds."""
    return pending_batches(lake, folders, thorough=False)


def ingest(lake: Lake, *folders: Path) -> None:
    for batch in quick(lake, *folders):
        ingest_batch(lake, batch)


def recorded(lake: Lake) -> list[str]:
    return sorted(lake.read("recordings")["recording_id"])


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "home" / "journal"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "home" / "lake")


def test_ingested_batches_leave_no_manifest_and_are_found_by_name(lake: Lake, journal: Path) -> None:
    for number in range(3):
        drop(journal, number)
        ingest(lake, journal)
    assert not list((journal / "batches").glob("*.json"))
    names = [batch.name for batch in all_batches([journal])]
    assert len(names) == 3 and names == sorted(names)
    assert not ingest_batch(lake, load_batch(names[0], [journal])).changed


@pytest.mark.parametrize("thorough", [True, False])
def test_a_lake_that_was_made_anew_is_filled_again(lake: Lake, journal: Path, thorough: bool) -> None:
    drop(journal, 1)
    ingest(lake, journal)
    shutil.rmtree(lake.uri)
    lake = Lake(lake.uri)
    for batch in pending_batches(lake, [journal], thorough=thorough):
        ingest_batch(lake, batch)
    assert recorded(lake) == ["s_1"]


def test_a_lake_put_back_from_a_back_up_is_filled_up(lake: Lake, journal: Path, tmp_path: Path) -> None:
    drop(journal, 1)
    ingest(lake, journal)
    shutil.copytree(lake.uri, tmp_path / "back-up")
    drop(journal, 2)
    ingest(lake, journal)
    assert quick(lake, journal) == []
    shutil.rmtree(lake.uri)
    shutil.copytree(tmp_path / "back-up", lake.uri)
    lake = Lake(lake.uri)
    ingest(lake, journal)
    assert recorded(lake) == ["s_1", "s_2"]


def test_rows_that_went_by_hand_come_back_with_the_next_thorough_look(lake: Lake, journal: Path) -> None:
    drop(journal, 1)
    ingest(lake, journal)
    lake.delete("recordings", "true")
    assert quick(lake, journal) == []
    (batch,) = pending_batches(lake, [journal])
    ingest_batch(lake, batch)
    assert recorded(lake) == ["s_1"]


def test_a_copy_under_another_name_is_read_once(lake: Lake, journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = drop(journal, 1)
    ingest(lake, journal)
    shutil.copy(segment, journal / "copy.jsonl")
    assert quick(lake, journal) == []
    monkeypatch.setattr(batches_module.hashlib, "file_digest", None)  # whoever reads a file now fails
    monkeypatch.setattr(batches_module, "_looks", {})  # as a process that has just started
    assert quick(lake, journal) == []


@pytest.mark.slow
def test_a_process_that_looks_again_and_again_sees_what_others_do(lake: Lake, journal: Path) -> None:
    assert quick(lake, journal) == []
    for number in range(3):
        drop(journal, number)
        (batch,) = quick(lake, journal)
        assert quick(lake, journal) == [batch], "it is still to be ingested"
        ingest_batch(lake, batch)
        assert quick(lake, journal) == []
    # A writer that dies leaves its folder as it is.
    dead = subprocess.Popen(
        [sys.executable, "-c", _DIES, str(journal), drop(journal.parent / "aside", 9).read_text().strip()]
    )
    assert dead.wait() == -9 and list(journal.glob("*.open"))
    time.sleep(0.2)
    (batch,) = quick(lake, journal)
    assert ingest_batch(lake, batch).rows == 1
    retire(lake, journal, "archive")
    assert quick(lake, journal) == []
    drop(journal, 4)
    assert len(quick(lake, journal)) == 1


_DIES = """
import os, signal, sys
from qbawa.storage.journal import JournalWriter
writer = JournalWriter(sys.argv[1])
writer.append(sys.argv[2].encode())
writer.sync()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_moved_home_finds_segments_of_its_other_journals(lake: Lake, journal: Path, tmp_path: Path) -> None:
    other = journal.parent / "other_app"
    drop(journal, 1)
    drop(other, 2)
    waiting = quick(lake, journal, other)
    assert sum(len(batch.segments) for batch in waiting) == 2
    moved = (tmp_path / "home").rename(tmp_path / "elsewhere")
    lake, folders = Lake(moved / "lake"), [moved / "journal", moved / "other_app"]
    ingest(lake, *folders)
    assert recorded(lake) == ["s_1", "s_2"]
    moved = moved.rename(tmp_path / "further")
    lake, folders = Lake(moved / "lake"), [moved / "journal", moved / "other_app"]
    assert quick(lake, *folders) == []
    assert not any(ingest_batch(lake, batch).changed for batch in all_batches(folders))


def test_absolute_paths_of_0_1_0_are_found_in_a_moved_home(lake: Lake, journal: Path, tmp_path: Path) -> None:
    other = journal.parent / "other_app"
    drop(other, 2)
    (batch,) = quick(lake, journal, other)
    manifest = journal / "batches" / f"{batch.name}.json"
    content = json.loads(manifest.read_text())
    content["segments"][0]["path"] = str(other / batch.segments[0].path.name)
    manifest.write_text(json.dumps({"barren" if k == "empty" else k: v for k, v in content.items()}))
    moved = (tmp_path / "home").rename(tmp_path / "elsewhere")
    folders = [moved / "journal", moved / "other_app"]
    assert ingest_batch(Lake(moved / "lake"), load_batch(batch.name, folders)).rows == 1


# ── retention ────────────────────────────────────────────────────────────────────────────────────────────────────────


def retired(lake: Lake, journal: Path, fate: Fate, older_than_s: float = 0.0) -> Retired:
    held = functools.partial(complete_among, lake)
    return retire_segments([journal], fate, older_than_s=older_than_s, held=held)


def retire(lake: Lake, journal: Path, fate: Fate, older_than_s: float = 0.0) -> int:
    return retired(lake, journal, fate, older_than_s).segments


@pytest.mark.parametrize("fate", ["keep", "archive"])
def test_retired_segments_leave_the_folder_and_can_be_ingested_again(lake: Lake, journal: Path, fate: Fate) -> None:
    drop(journal, 1, 2)
    ingest(lake, journal)
    before = lake.read("recordings")
    assert retire(lake, journal, fate) == 1
    assert not list(journal.glob("*.jsonl"))
    (kept,) = put_aside(journal)
    assert kept.suffix == (".gz" if fate == "archive" else ".jsonl")
    assert retire(lake, journal, fate) == 0 and quick(lake, journal) == [] == pending_batches(lake, [journal])
    shutil.rmtree(lake.uri)
    lake = Lake(lake.uri)
    ingest(lake, journal)
    assert lake.read("recordings").equals(before), "names of sources too"


def test_a_setting_that_changes_takes_what_was_put_aside_along(lake: Lake, journal: Path) -> None:
    drop(journal, 1)
    ingest(lake, journal)
    assert [retire(lake, journal, fate) for fate in ("keep", "archive", "delete", "delete")] == [1, 1, 1, 0]
    assert not put_aside(journal) and recorded(lake) == ["s_1"]
    assert quick(lake, journal) == []
    (batch,) = all_batches([journal])
    with pytest.raises(InputError, match="Its rows stay in the lake"):
        ingest_batch(lake, batch)


def test_nothing_is_retired_that_the_lake_does_not_hold_or_that_is_young(lake: Lake, journal: Path) -> None:
    drop(journal, 1)
    ingest(lake, journal)
    drop(journal, 2)
    assert len(quick(lake, journal)) == 1
    assert retire(lake, journal, "delete", older_than_s=3600) == 0
    lake.delete("recordings", "true")  # the index still believes that the lake holds the first
    assert retire(lake, journal, "delete") == 0
    for batch in pending_batches(lake, [journal]):
        ingest_batch(lake, batch)
    assert recorded(lake) == ["s_1", "s_2"]
    assert retire(lake, journal, "delete") == 2


_RETIRE = """
import sys
from pathlib import Path
from qbawa.ingest.block_writer import complete_among
from qbawa.ingest.journal_retention import retire_segments
from qbawa.storage.lake import Lake
print("begun", flush=True)
held = lambda names: complete_among(Lake(sys.argv[1]), names)
retire_segments([Path(sys.argv[2])], "archive", older_than_s=0, held=held)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.02, 0.06])
def test_kill_9_while_segments_are_packed_loses_none(lake: Lake, journal: Path, after_s: float) -> None:
    for number in range(40):
        drop(journal, number)
    ingest(lake, journal)
    process = subprocess.Popen([sys.executable, "-c", _RETIRE, lake.uri, str(journal)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    until = time.monotonic() + 30
    while not put_aside(journal) and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(after_s)
    process.kill()
    process.communicate()
    assert quick(lake, journal) == []
    retire(lake, journal, "archive")
    assert not list(journal.glob("*.jsonl")) and len(put_aside(journal)) == 40
    shutil.rmtree(lake.uri)
    lake = Lake(lake.uri)
    ingest(lake, journal)
    assert recorded(lake) == sorted(f"s_{number}" for number in range(40))


def test_a_request_is_forgotten_in_packed_segments_too(lake: Lake, journal: Path) -> None:
    home = Home(journal.parent)
    drop(journal, 1, 2)
    ingest(lake, journal)
    retire(lake, journal, "archive")
    assert forget(lake, home, "r_1").journal_lines == 1
    assert quick(lake, journal) == [] == pending_batches(lake, [journal])
    shutil.rmtree(lake.uri)
    lake = Lake(lake.uri)
    ingest(lake, journal)
    assert recorded(lake) == ["s_2"]


def test_a_folder_that_cannot_be_written_keeps_its_segments(lake: Lake, journal: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere: run as an ordinary user")
    drop(journal, 1)
    ingest(lake, journal)
    journal.chmod(0o500)
    try:
        done = retired(lake, journal, "archive")
        assert (done.segments, done.left) == (0, 1)
    finally:
        journal.chmod(0o700)
