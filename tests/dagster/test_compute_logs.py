"""What a run prints stands in the UI's file and on the terminal, and no process is started for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PRINTING = """
import os, subprocess, sys
from qbawa_assets.compute_logs import TerminalLogs
logs = TerminalLogs(sys.argv[1])
print("before", flush=True)
with logs.capture_logs(["run", "compute_logs", "stage"]):
    print("from Python")
    print("an error", file=sys.stderr)
    os.write(1, b"from below Python\\n")
    subprocess.run([sys.executable, "-c", "print('from a child')"])
    if sys.argv[2:] == ["crash"]:
        os.write(2, b"last words\\n")
        os.abort()
print("after", flush=True)
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PRINTING, str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])


def kept(folder: Path, kind: str) -> str:
    return (folder / "run" / "compute_logs" / f"stage.{kind}").read_text()


@pytest.mark.slow
def test_what_is_printed_is_kept_and_shown(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert sorted(kept(tmp_path, "out").splitlines()) == ["from Python", "from a child", "from below Python"]
    assert kept(tmp_path, "err") == "an error\n" == done.stderr
    shown = done.stdout.splitlines()
    assert shown[0] == "before" and shown[-1] == "after" and shown[1:-1] == kept(tmp_path, "out").splitlines()
    assert (tmp_path / "run" / "compute_logs" / "stage.complete").exists()


@pytest.mark.slow
def test_the_last_words_of_a_crash_are_kept(tmp_path: Path) -> None:
    assert run(tmp_path, "crash").returncode < 0
    assert kept(tmp_path, "err") == "an error\nlast words\n"
