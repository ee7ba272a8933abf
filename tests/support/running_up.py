"""`qbawa up` as a process, what it has said, and whatever works on its home."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from qbawa.project import Home

PATIENCE_S = 240


@dataclass
class Up:
    """A running `qbawa up` and what it has said."""

    home: Home
    port: int
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def running_up(home: Home, *arguments: str) -> Iterator[Up]:
    """`qbawa up` on this home whose UI answers; interrupted at the end where it still runs."""
    home.root.mkdir(parents=True, exist_ok=True)
    port, output = free_port(), home.root / "said"
    with output.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "qbawa", "up", "--port", str(port), *arguments],
            env=environment(home),
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    up = Up(home, port, process, output)
    try:
        wait_for(lambda: "Dagster UI" in up.said, up, "the UI")
        yield up
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(home: Home) -> Mapping[str, str]:
    return {**os.environ, "QBAWA_HOME": str(home.root)}


def qbawa(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that is expected to end by itself."""
    command = [sys.executable, "-m", "qbawa", *arguments]
    return subprocess.run(command, env=environment(home), capture_output=True, text=True, timeout=PATIENCE_S)


def wait_for(happened: Callable[[], object], up: Up, what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not happened():
        assert up.process.poll() is None, up.said
        assert time.monotonic() < until, f"waited in vain for {what}\n{up.said}"
        time.sleep(0.5)


def processes_of(home: Home) -> list[psutil.Process]:
    """Whatever works on this home, PostgreSQL included."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(home.root) in " ".join(process.cmdline()) or process.environ().get("QBAWA_HOME") == str(home.root):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
