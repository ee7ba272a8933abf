"""What the journal asks of the operating system, in order: a power loss or a race of microseconds cannot be tried at
will, but what guards against them can be seen.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

# Really makes every call, and prints those that lock a file or make contents or names durable, in their order.
TRACED = """
import fcntl, json, os, stat, sys
calls = []

def traced(module, name, describe):
    real = getattr(module, name)
    def call(*args):
        real(*args)
        calls.append(describe(*args))
    setattr(module, name, call)

def synced(file):
    status = os.fstat(file)
    return "sync folder" if stat.S_ISDIR(status.st_mode) else f"sync file of {status.st_size} bytes"

for name in ("fsync", "fdatasync"):
    if hasattr(os, name):
        traced(os, name, synced)
traced(os, "rename", lambda old, new: f"rename to {os.path.splitext(new)[1]}")
traced(fcntl, "flock", lambda file, how: "lock")
from qbawa.storage.journal import JournalWriter, adopt_orphans
"""


def calls_of(code: str, folder: Path) -> list[str]:
    command = [sys.executable, "-c", f"{TRACED}\n{code}\nprint(json.dumps(calls))", str(folder)]
    return list(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def test_lines_and_names_are_on_disk_before_they_are_acknowledged(tmp_path: Path) -> None:
    code = """
journal = JournalWriter(sys.argv[1])
for line in (b"1", b"22"):
    journal.append(line)
    calls.append(f"acknowledged {journal.sync()}")
journal.close()
"""
    assert calls_of(code, tmp_path) == [
        "lock",
        "rename to .open",
        "sync folder",
        "sync file of 2 bytes",
        "acknowledged 1",
        "sync file of 5 bytes",
        "acknowledged 1",
        "rename to .jsonl",
        "sync folder",
    ]


def test_an_adopted_segment_is_on_disk_without_its_torn_line_before_it_gets_its_final_name(tmp_path: Path) -> None:
    (tmp_path / "20260101T000000.0Z-1-aa.open").write_bytes(b"1\n22\ntorn")
    assert calls_of("adopt_orphans(sys.argv[1])", tmp_path) == [
        "lock",
        "sync file of 5 bytes",
        "rename to .jsonl",
        "sync folder",
    ]


def test_looking_for_orphans_does_not_lock_a_segment_whose_writer_is_just_about_to(tmp_path: Path) -> None:
    (tmp_path / "20260101T000000.0Z-1-aa.new").touch()
    assert calls_of("adopt_orphans(sys.argv[1])", tmp_path) == []
