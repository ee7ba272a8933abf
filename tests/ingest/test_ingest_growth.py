"""Taking in what is new looks at what is new, and at an old file only where an id has come before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qbawa.ingest import block_writer
from qbawa.ingest.stage import ingest_batch, pending_batches
from qbawa.storage import block_names, known_keys
from qbawa.storage.journal import JournalWriter
from qbawa.storage.lake import Lake


@pytest.fixture(autouse=True)
def saved_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_keys, "_UNSAVED_FILES", 1)
    monkeypatch.setattr(block_names, "_UNSAVED_FILES", 1)
    monkeypatch.setitem(block_writer.BlockWriter.__init__.__kwdefaults__, "block_bytes", 4_000)


def drop(journal: Path, *numbers: int) -> None:
    with JournalWriter(journal) as writer:
        for n in numbers:
            step = {
                "v": 1,
                "kind": "step",
                "recording_id": f"s_{n}",
                "request_id": f"r_{n}",
                "pipeline": "p",
                "step": "x",
            }
            step |= {"inputs": {}, "output": "because", "tags": {}, "started_at": 1.76e9 + n, "latency_s": 1}
            writer.append(json.dumps(step).encode())
            told = {"v": 1, "kind": "feedback", "request_id": f"r_{n}", "score": 1, "comment": None, "at": 1.76e9 + n}
            writer.append(json.dumps(told).encode())


def take(uri: Path, journal: Path) -> list[int]:
    """Rows and quarantined lines of what is pending, as a new process takes it in."""
    lake = Lake(uri)
    done = [ingest_batch(lake, batch) for batch in pending_batches(lake, [journal], thorough=False)]
    return [sum(report.rows for report in done), sum(report.quarantined for report in done)]


def test_new_ids_open_no_file_of_earlier_batches_and_old_ones_are_still_refused(tmp_path: Path) -> None:
    uri, journal = tmp_path / "lake", tmp_path / "journal"
    for start in (0, 20):
        drop(journal, *range(start, start + 20))
        assert take(uri, journal) == [20, 0]
    old = [path for table in ("recordings", "feedback") for path in (uri / table).glob("*.parquet")]
    assert len(old) > 6
    # A file is read once, by the next block or batch.
    drop(journal, 40)
    assert take(uri, journal) == [1, 0]
    for path in old:
        path.rename(path.with_suffix(".hidden"))
    drop(journal, *range(60, 80))
    assert take(uri, journal) == [20, 0]
    for path in old:
        path.with_suffix(".hidden").rename(path)
    drop(journal, 5, 25, 40, 65, 90)
    assert take(uri, journal) == [1, 8]
    found = Lake(uri).read("recordings")["recording_id"]
    assert sorted(found) == sorted(f"s_{n}" for n in (*range(41), *range(60, 80), 90))


def test_names_of_blocks_are_right_for_a_table_with_a_column_of_files(tmp_path: Path) -> None:
    """The quarantine names the file of each line, as does what looks for names by file."""
    with JournalWriter(tmp_path / "journal") as writer:
        writer.append(b"broken")
    assert take(tmp_path / "lake", tmp_path / "journal") == [0, 1]
    lake = Lake(tmp_path / "lake")
    assert lake.blocks("quarantine") == set(lake.read("quarantine")["block_id"])
