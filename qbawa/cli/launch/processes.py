"""What a command has started: ended in good order, also by the next command where this one was killed."""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

from qbawa.project import Home

STOP_PATIENCE_S = 20
"""How long a server may take to end before it is killed."""
DRAIN_PATIENCE_S = 120
"""How long a run may take to await the calls that it has in flight: a little more than the longest call."""
ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]


class Groups:
    """The process groups that one command has started, in a file that outlives it.

    Each child leads a group of its own, so that whatever it starts in turn can be found, and a Ctrl-C in the terminal
    or a signal of `timeout` reaches us alone: who passes it on decides the order.
    """

    def __init__(self, home: Home, path: Path) -> None:
        self.home = home
        self._path = path
        self._numbers: list[int] = []

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], **options: Any
    ) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(command, env=environment, cwd=self.home.root, process_group=0, **options)
        self._numbers.append(process.pid)
        self._path.write_text("".join(f"{number}\n" for number in self._numbers))
        return process

    def runs(self) -> int:
        """How many runs are under way in these process groups."""
        return sum(map(_is_run, _members(self.home, self._numbers)))

    def end(self) -> None:
        """End everything that still runs in these process groups."""
        end_groups(self.home, self._numbers)


@contextmanager
def own_groups(home: Home) -> Iterator[Groups]:
    """Process groups that are ended with the context; where this process is killed, the next command ends them."""
    folder = _folder(home)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{os.getpid()}"
    # The lock dies with this process, and says so to others.
    with path.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        groups = Groups(home, path)
        try:
            yield groups
        finally:
            groups.end()
            path.unlink(missing_ok=True)


def end_leftovers(home: Home) -> None:
    """End what commands that were killed have left running on this home."""
    for path in _folder(home).glob("*"):
        with suppress(OSError), path.open("r+") as left:
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _end_listed(home, path)
    _end_leftovers_of_0_1(home)


def _end_leftovers_of_0_1(home: Home) -> None:
    """Version 0.1.0 wrote one session, and held another file's lock."""
    session = home.root / "up.session"
    if not session.exists():
        return
    with suppress(OSError), (home.root / "up.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _end_listed(home, session)


def _end_listed(home: Home, path: Path) -> None:
    end_groups(home, [int(line) for line in path.read_text().split() if line.isdigit()])
    path.unlink(missing_ok=True)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C, SIGTERM (`kill`, `timeout`), a closed terminal and Ctrl-\\ all raise KeyboardInterrupt, the first time.

    Later ones are ignored, so that what the first one began is finished.
    """

    def interrupt(*_: object) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    # By hand for SIGINT too: a shell that starts this in the background has it ignored. `nohup` is respected.
    before = {
        number: signal.getsignal(number)
        for number in ENDING
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_groups(home: Home, numbers: Collection[int]) -> None:
    """End the processes of these process groups that work on this home: runs may finish their calls, then all are killed."""
    if not any(map(_exists, numbers)):
        return
    import psutil

    signalled: set[psutil.Process] = set()
    began = time.monotonic()
    while members := _members(home, numbers):
        runs = [member for member in members if _is_run(member)]
        if time.monotonic() - began > (DRAIN_PATIENCE_S if runs else STOP_PATIENCE_S):
            break
        leaders = [member for member in members if member.pid in numbers and member not in runs]
        # What a server has started ends with it; where the server is gone already, its helpers are asked themselves.
        for member in {*runs, *leaders} or set(members):
            # Once only: a second signal would interrupt what the first one has begun.
            if member not in signalled:
                signalled.add(member)
                _signal(member, signal.SIGINT if member in runs else signal.SIGTERM)
        psutil.wait_procs(members, timeout=0.5)
    for member in (left := _members(home, numbers)):
        _signal(member, signal.SIGKILL)
    psutil.wait_procs(left, timeout=5)


def _exists(group: int) -> bool:
    """Whether a process group has members, of whatever kind: looking at each process of the machine takes longer."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_run(process: "psutil.Process") -> bool:
    """Whether this process executes a run: launched by a code server, or by `qbawa run`."""
    import psutil

    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return "--multiprocessing-fork" in command or "qbawa_assets.run_job" in command


def _members(home: Home, numbers: Collection[int]) -> "list[psutil.Process]":
    import psutil

    members = []
    for candidate in psutil.process_iter():
        try:
            if (
                os.getpgid(candidate.pid) in numbers
                and candidate.status() != psutil.STATUS_ZOMBIE
                # A number may have passed on to somebody else's group.
                and candidate.environ().get("QBAWA_HOME") == str(home.root)
            ):
                members.append(candidate)
        except (OSError, psutil.Error):
            continue
    return members


def _signal(process: "psutil.Process", number: signal.Signals) -> None:
    import psutil

    with suppress(psutil.Error):
        process.send_signal(number)


def _folder(home: Home) -> Path:
    return home.root / "running"
