"""Dagster's processes, started on a home: the UI with its daemon, or one run."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import qbawa
from qbawa.cli.launch.postgres import postgres
from qbawa.errors import BusyError, InputError
from qbawa.project import Home

STOP_PATIENCE_S = 20


@contextmanager
def dagster_environment(home: Home) -> Iterator[dict[str, str]]:
    """Environment variables with which any Dagster process works on this home; PostgreSQL runs meanwhile."""
    home.dagster.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).parent / "dagster.yaml", home.dagster / "dagster.yaml")
    with postgres(home) as url:
        yield os.environ | {
            "QBAWA_HOME": str(home.root),
            "QBAWA_POSTGRES_URL": url,
            "DAGSTER_HOME": str(home.dagster),
            "DAGSTER_EVENT_BATCH_SIZE": "500",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_OFFLINE_MODE": "true",
            # In our own processes alone: `resources` and `sensors` are no names to put into anybody's environment.
            "PYTHONPATH": os.pathsep.join(filter(None, [str(project_folder()), os.environ.get("PYTHONPATH")])),
        }


def run_module(home: Home, module: str, arguments: Sequence[str]) -> int:
    """Exit code of `python -m module arguments` in Dagster's environment; Ctrl-C reaches it as usual."""
    with dagster_environment(home) as environment:
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(command, env=environment, cwd=home.root)
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The terminal has sent it to the child as well; let that finish what is in flight.
            return process.wait()


def serve(home: Home, host: str, port: int, announce: Callable[[str], object]) -> int:
    """Run the Dagster UI and daemon until Ctrl-C or SIGTERM, and leave no process behind.

    `announce` is told where, once nothing stands in the way.
    Raises BusyError where this home is served already or the port is taken.
    """
    with _sole_server(home):
        _end_leftovers(home)
        _check_port(host, port)
        announce(f"Starting PostgreSQL and Dagster on {home.root} (about 20 s) ...")
        # Both by hand: a shell that starts this in the background has SIGINT ignored.
        signal.signal(signal.SIGINT, _interrupt)
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            with dagster_environment(home) as environment:
                return _run_until_interrupted(environment, home, host, port, announce)
        except KeyboardInterrupt:
            return 0


def _run_until_interrupted(
    environment: dict[str, str], home: Home, host: str, port: int, announce: Callable[[str], object]
) -> int:
    command = [
        *(sys.executable, "-m", "dagster", "dev"),
        *("--workspace", str(project_folder() / "workspace.yaml")),
        *("--host", host, "--port", str(port), "--log-level", "warning"),
    ]
    # A session of its own, so that everything it starts can be found and ended together.
    process = subprocess.Popen(
        command, env=environment | {"PYTHONWARNINGS": "ignore"}, cwd=home.root, start_new_session=True
    )
    _session_file(home).write_text(str(process.pid))
    try:
        if _wait_until_healthy(process, f"http://{host}:{port}/server_info"):
            announce(f"Dagster UI: http://{host}:{port}   (Ctrl-C stops everything)")
        return process.wait()
    finally:
        # A second Ctrl-C must not keep the first from being finished.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_session(process.pid)
        _session_file(home).unlink(missing_ok=True)


def project_folder() -> Path:
    """The folder that holds workspace.yaml and the asset code: inside the wheel, else the checkout.

    Raises InputError where neither is there.
    """
    package = Path(qbawa.__file__).resolve().parent
    for folder in (package / "dagster_project", package.parent):
        if (folder / "workspace.yaml").exists():
            return folder
    raise InputError(
        f"The Dagster project that belongs to {package} is missing. Install the wheel whole (pip install 'qbawa[pipeline]'), "
        "or clone the repository and use its `make up`."
    )


@contextmanager
def _sole_server(home: Home) -> Iterator[None]:
    import fcntl

    home.root.mkdir(parents=True, exist_ok=True)
    with (home.root / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise BusyError(
                f"qbawa is up on {home.root} already (process {lock.read().strip() or 'unknown'}). "
                "Stop that one with Ctrl-C first, or set QBAWA_HOME to another folder."
            ) from None
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            raise BusyError(f"Port {port} on {host} is taken by another program. Choose one with --port.") from None


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str) -> bool:
    """True once the address answers; False where the process ends before."""
    while process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return True
        except OSError:
            time.sleep(0.5)
    return False


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _session_file(home: Home) -> Path:
    return home.root / "up.session"


def _end_leftovers(home: Home) -> None:
    """End what a `qbawa up` that was killed has left running on this home."""
    import psutil

    try:
        session = int(_session_file(home).read_text())
        process = psutil.Process(session)
        ours = process.environ().get("QBAWA_HOME") == str(home.root) and os.getsid(session) == session
    except (OSError, ValueError, psutil.Error):
        return
    if ours:
        _end_session(session)


def _end_session(session: int) -> None:
    import psutil

    members = _session_members(session)
    _signal(session, signal.SIGINT)
    _, left = psutil.wait_procs(members, timeout=STOP_PATIENCE_S)
    for survivor in {*left, *_session_members(session)}:
        _signal(survivor.pid, signal.SIGKILL)
    psutil.wait_procs(left, timeout=5)


def _session_members(session: int) -> list:
    import psutil

    members = []
    for candidate in psutil.process_iter():
        try:
            if os.getsid(candidate.pid) == session:
                members.append(candidate)
        except (ProcessLookupError, PermissionError):
            continue
    return members


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
