"""Files that several processes share: a swap that is whole, a lock that dies with its process, notes in the home."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbawa.storage.backends import Notes
from qbawa.storage.files import atomic_swap, file_lock, write_atomically
from qbawa.storage.sql import sql_literal, sql_name

HOLDER = """
import sys, time
from pathlib import Path
from qbawa.storage.files import file_lock
with file_lock(Path(sys.argv[1]), shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    time.sleep(60)
"""

KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from qbawa.storage.files import atomic_swap
with atomic_swap(Path(sys.argv[1])) as draft:
    draft.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def hold(path: Path, kind: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), kind], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def is_free(path: Path, *, shared: bool = False) -> bool:
    try:
        with file_lock(path, shared=shared, wait=False):
            return True
    except BlockingIOError:
        return False


def test_a_swap_that_fails_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_swap(path) as draft:
        draft.write_text("new")
        1 / 0  # noqa: B018
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.json"]
    write_atomically(path, b"\x00new")
    assert path.read_bytes() == b"\x00new"


def test_a_writer_killed_in_a_swap_leaves_the_old_file_and_no_file_of_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    killed = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(path)], cwd=os.getcwd())
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old" and list(tmp_path.glob("*.json")) == [path]


def test_a_lock_is_held_by_one_process_and_dies_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = hold(path, "alone")
    try:
        assert not is_free(path) and not is_free(path, shared=True)
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert is_free(path)


def test_shared_locks_are_held_together_and_shut_out_a_sole_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = hold(path, "shared")
    try:
        assert is_free(path, shared=True) and not is_free(path)
    finally:
        holder.kill()
        holder.wait()
    assert is_free(path)


def test_a_lock_is_free_again_though_a_forked_child_still_holds_the_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with file_lock(path):
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)"],
            pass_fds=[int(fd) for fd in os.listdir("/proc/self/fd") if _is_open(fd, path)],
        )
    try:
        assert is_free(path)
    finally:
        child.kill()
        child.wait()


def _is_open(descriptor: str, path: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}") == str(path)
    except OSError:
        return False


def test_notes_are_kept_one_by_one_and_are_empty_before(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    assert notes.get("judged") == ""
    notes.put("judged", "3 answers, the last of é")
    notes.put("stages", "{}")
    assert Notes(tmp_path).get("judged") == "3 answers, the last of é" and Notes(tmp_path).get("stages") == "{}"
    (tmp_path / "judged").write_bytes(b"\xff\xfe")
    assert notes.get("judged") == ""


@pytest.mark.slow
@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])))
def test_any_text_survives_as_an_sql_literal_and_as_a_name(text: str) -> None:
    with duckdb.connect() as connection:
        found = connection.sql(f"SELECT {sql_literal(text)} AS {sql_name('n' + text)}")
        assert found.fetchall() == [(text,)] and found.columns == ["n" + text]
