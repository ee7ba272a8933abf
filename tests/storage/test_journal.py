"""The journal keeps what it acknowledged, whole, whatever happens to its writers."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbawa.storage.journal import JournalWriter, adopt_orphans, all_segments, closed_segments, read_lines


def lines_in(paths: list[Path]) -> list[bytes]:
    return [line for path in paths for line in read_lines(path)]


@settings(max_examples=40, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")), max_size=30),
    max_bytes=st.integers(1, 200),
)
def test_every_line_comes_back_once_and_in_order_over_any_rotation(tmp_path_factory, lines, max_bytes):
    folder = tmp_path_factory.mktemp("journal")
    with JournalWriter(folder, max_bytes=max_bytes) as journal:
        for line in lines:
            journal.append(line)
            assert journal.sync() == 1
    assert lines_in(closed_segments(folder)) == lines
    assert all_segments(folder) == closed_segments(folder)


def test_nothing_is_written_before_the_first_sync(tmp_path):
    journal = JournalWriter(tmp_path / "journal")
    journal.append(b"{}")
    assert not (tmp_path / "journal").exists()
    assert journal.sync() == 1
    assert lines_in(all_segments(tmp_path / "journal")) == [b"{}"]
    assert closed_segments(tmp_path / "journal") == []


def test_an_old_segment_closes_on_an_idle_sync(tmp_path):
    journal = JournalWriter(tmp_path, max_age_s=0.0)
    journal.append(b"1")
    journal.sync()
    assert lines_in(closed_segments(tmp_path)) == [b"1"]
    assert journal.sync() == 0 and journal.segment is None


def test_a_line_with_a_newline_is_refused(tmp_path):
    with pytest.raises(ValueError, match="newline"):
        JournalWriter(tmp_path).append(b"a\nb")


def test_a_living_writer_keeps_its_segment(tmp_path):
    journal = JournalWriter(tmp_path)
    journal.append(b"1")
    journal.sync()
    assert adopt_orphans(tmp_path) == []
    journal.close()
    assert lines_in(closed_segments(tmp_path)) == [b"1"]


def test_a_dead_writers_segment_is_adopted_without_its_torn_line(tmp_path):
    (tmp_path / "20260101T000000.0Z-1-aa.open").write_bytes(b"1\n2\n" + b"x" * 100_000)
    (tmp_path / "20260101T000001.0Z-1-bb.open").write_bytes(b"torn only")
    assert [path.name for path in adopt_orphans(tmp_path)] == ["20260101T000000.0Z-1-aa.jsonl"]
    assert lines_in(closed_segments(tmp_path)) == [b"1", b"2"]
    assert len(list(tmp_path.iterdir())) == 1
    assert adopt_orphans(tmp_path) == []


def test_a_segment_without_a_name_yet_is_removed_once_its_writer_must_be_dead(tmp_path):
    young, old = tmp_path / "20260101T000000.0Z-1-aa.new", tmp_path / "20260101T000000.0Z-1-bb.new"
    for path in (young, old):
        path.touch()
    long_ago = time.time() - 120
    os.utime(old, (long_ago, long_ago))
    assert adopt_orphans(tmp_path) == []
    assert young.exists() and not old.exists()


def test_reading_leaves_out_a_torn_last_line_and_follows_a_rename(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1\n2")
    assert list(read_lines(tmp_path / "a.open")) == [b"1"]


def test_a_forked_child_writes_neither_its_parents_lines_nor_its_segment(tmp_path):
    journal = JournalWriter(tmp_path)
    journal.append(b"before")
    journal.sync()
    journal.append(b"parent")
    child = os.fork()
    if not child:
        journal.append(b"child")
        journal.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    journal.close()
    assert sorted(lines_in([path]) for path in closed_segments(tmp_path)) == [[b"before", b"parent"], [b"child"]]


def test_a_child_that_outlives_its_parent_does_not_keep_the_parents_segment(tmp_path):
    code = f"""
import os, sys, time
from qbawa.storage.journal import JournalWriter
journal = JournalWriter({str(tmp_path)!r}); journal.append(b"parent"); journal.sync()
if os.fork() == 0:
    time.sleep(60)
print("ready", flush=True); time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout.readline() == b"ready\n"
        assert adopt_orphans(tmp_path) == []
        process.kill()
        process.wait()
        adopted = adopt_orphans(tmp_path)
        for _ in range(100):  # the child lets go of the segment once it runs, which may be after its parent's death
            if adopted:
                break
            time.sleep(0.1)
            adopted = adopt_orphans(tmp_path)
        assert lines_in(adopted) == [b"parent"]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


def test_threads_may_append_while_another_syncs(tmp_path):
    journal = JournalWriter(tmp_path, max_bytes=2_000)
    done = threading.Event()

    def append(name: int) -> None:
        for number in range(2_000):
            journal.append(f"{name}-{number}".encode())

    def sync() -> None:
        while not done.is_set():
            journal.sync()

    syncing = threading.Thread(target=sync)
    appending = [threading.Thread(target=append, args=(name,)) for name in range(4)]
    for thread in (syncing, *appending):
        thread.start()
    for thread in appending:
        thread.join()
    done.set()
    syncing.join()
    journal.close()
    lines = lines_in(closed_segments(tmp_path))
    assert sorted(lines) == sorted(f"{name}-{number}".encode() for name in range(4) for number in range(2_000))
    for name in range(4):
        assert [line for line in lines if line.startswith(b"%d-" % name)] == [
            b"%d-%d" % (name, number) for number in range(2_000)
        ]


def test_a_full_disk_leaves_whole_lines_and_a_retry_loses_nothing(tmp_path):
    journal = JournalWriter(tmp_path)
    journal.append(b"first")
    journal.sync()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    journal.append(b"x" * 1_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(OSError):
            journal.sync()
        assert journal.segment.read_bytes() == b"first\n"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.append(b"last")
    assert journal.sync() == 2
    journal.close()
    assert lines_in(closed_segments(tmp_path)) == [b"first", b"x" * 1_000, b"last"]


def test_lines_wait_until_there_is_a_folder_for_them(tmp_path):
    (tmp_path / "journal").write_text("a file where the folder should be")
    journal = JournalWriter(tmp_path / "journal")
    journal.append(b"1")
    with pytest.raises(OSError):
        journal.sync()
    (tmp_path / "journal").unlink()
    assert journal.sync() == 1
    journal.close()
    assert lines_in(closed_segments(tmp_path / "journal")) == [b"1"]


def test_a_deleted_segment_is_replaced(tmp_path):
    journal = JournalWriter(tmp_path)
    journal.append(b"1")
    journal.sync()
    journal.segment.unlink()
    journal.append(b"2")
    journal.sync()
    journal.close()
    assert lines_in(closed_segments(tmp_path)) == [b"2"]


KILLED = """
import sys
from qbawa.storage.journal import JournalWriter
journal = JournalWriter(sys.argv[1], max_bytes=5_000)
number = 0
while True:
    for _ in range(7):
        journal.append(b"%d " % number + b"x" * 300); number += 1
    journal.sync()
    print(number, flush=True)
"""


@pytest.mark.hostile
@pytest.mark.parametrize("wait", range(6))
def test_acknowledged_lines_survive_kill_9(tmp_path, wait):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    for _ in range(1 + wait * 5):
        acknowledged = int(process.stdout.readline())
    process.kill()
    rest = process.stdout.read().split(b"\n")[:-1]
    process.stdout.close()
    process.wait()
    acknowledged = int(rest[-1]) if rest else acknowledged
    adopt_orphans(tmp_path)
    lines = lines_in(closed_segments(tmp_path))
    assert [int(line.split()[0]) for line in lines] == list(range(len(lines)))
    assert all(len(line.split()[1]) == 300 for line in lines)
    assert len(lines) >= acknowledged
