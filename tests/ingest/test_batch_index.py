"""The index of batches after its writer was killed in the middle of a transaction."""

import signal
import subprocess
import sys
from pathlib import Path

from qbawa.ingest.batch_index import BatchIndex, Segment

KILLED = """
import os, signal, sqlite3, sys
index = sqlite3.connect(sys.argv[1])
index.execute("PRAGMA cache_size = 1")
index.execute("BEGIN")
index.executemany("INSERT INTO batch VALUES (?, 0)", ((f"new-{n:06}" * 20,) for n in range(5_000)))
index.execute("UPDATE batch SET empty = 1")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_began_is_taken_back_by_the_next_reader(tmp_path: Path) -> None:
    index = BatchIndex(tmp_path, tmp_path)
    index.add([("done", [Segment(tmp_path / "a.jsonl", 1, 1, "0" * 64)], False)])
    done = subprocess.run([sys.executable, "-c", KILLED, str(index.path)], check=False)
    assert done.returncode == -signal.SIGKILL and Path(f"{index.path}-journal").stat().st_size > 0
    assert index.names(empty=False) == ["done"] and index.names(empty=True) == []
