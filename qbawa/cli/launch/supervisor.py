"""Dagster's three servers, started in their order and started again when they end."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qbawa.cli.launch.processes import STOP_PATIENCE_S, Groups
from qbawa.errors import LaunchError

Announce = Callable[[str], object]

FIRST_DELAY_S, LONGEST_DELAY_S = 1.0, 60.0
STEADY_S = 60.0
"""A server that has lived this long starts with the shortest delay again."""
MOST_TRIES_AT_FIRST = 3
"""A server that never came up is not tried for ever: something is wrong that its own words explain."""


@dataclass
class Server:
    """One server, and how often it has ended of late."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    is_ready: Callable[[], bool]
    """Whether it answers; asked until it does."""
    is_whole: Callable[[int], bool] = lambda pid: True
    """Whether all of it still runs, given its process."""
    inherits: Sequence[int] = ()
    """File descriptors."""
    needs: "Sequence[Server]" = ()
    """Those that must answer before it is started for the first time."""
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    came_up: bool = field(default=False, init=False)
    started: float = field(default=0.0, init=False)
    ends: int = field(default=0, init=False)
    again_at: float | None = field(default=None, init=False)

    def start(self, groups: Groups) -> None:
        self.process = groups.start(self.command, self.environment, pass_fds=tuple(self.inherits))
        self.started, self.again_at, self.came_up = time.monotonic(), None, False

    def watch(self, groups: Groups, announce: Announce) -> None:
        """Look once: start it again where it has ended and its delay is over."""
        assert self.process is not None
        if self.again_at is not None:
            if time.monotonic() >= self.again_at:
                self.start(groups)
            return
        if self.process.poll() is None:
            self.came_up = self.came_up or self.is_ready()
            if not self.came_up or self.is_whole(self.process.pid):
                return
            self.process.kill()
            self.process.wait()
        lived = time.monotonic() - self.started
        self.ends = 1 if lived >= STEADY_S else self.ends + 1
        delay = min(FIRST_DELAY_S * 2 ** (self.ends - 1), LONGEST_DELAY_S)
        self.again_at, self.came_up = time.monotonic() + delay, False
        announce(f"The {self.name} has ended ({_how(self.process.returncode)}); starting it again in {delay:.0f} s.")

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()


def bring_up(servers: Sequence[Server], groups: Groups, announce: Announce) -> None:
    """Start servers, each once those that it needs answer, and wait until all do. Raises LaunchError where one never does."""
    while waiting := [server for server in servers if not server.came_up]:
        for server in waiting:
            if server.process is None:
                if all(needed.came_up for needed in server.needs):
                    server.start(groups)
                continue
            server.watch(groups, announce)
            if server.ends >= MOST_TRIES_AT_FIRST:
                raise LaunchError(
                    f"The {server.name} ended {server.ends} times before it answered; what it said stands above."
                )
        time.sleep(0.1)


def unix_socket_answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
    return True


def code_server_is_whole(pid: int) -> bool:
    """Whether a code server still has the process that holds the code, without which it answers nothing."""
    import psutil

    try:
        children = psutil.Process(pid).children()
        return any(child.status() != psutil.STATUS_ZOMBIE for child in children)
    except psutil.Error:
        return False


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
