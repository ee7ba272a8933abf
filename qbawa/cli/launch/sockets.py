"""Where UNIX sockets lie: in the home, or behind a short path of our own where the home's is too long for one.

And sockets of TCP, taken before what listens on them is started.
"""

import errno
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qbawa.errors import BusyError, InputError
from qbawa.project import Home

# The least that systems allow for a socket's path, with room for the longest name that we use.
LONGEST_PATH, LONGEST_NAME = 103, len("/.s.PGSQL.5432.lock")


def socket_folder(home: Home) -> Path:
    """A folder that only we can enter, and whose path is short enough for sockets in it."""
    folder = home.root / "sockets"
    if _is_short(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder
    remembered = home.root / "sockets.path"
    try:
        short = Path(remembered.read_text())
    except OSError:
        short = None
    if short is None or not _is_ours(short):
        # A name that nobody can guess, so that nobody can have put a folder or a link of theirs there before.
        short = Path(tempfile.mkdtemp(prefix="qbawa-", dir=_short_parent()))
        remembered.write_text(str(short))
    return short


def keep_fresh(folder: Path) -> None:
    """Mark a folder as used: systems clear out old things under /tmp."""
    for path in (folder, *folder.iterdir()):
        os.utime(path, follow_symlinks=False)


@contextmanager
def listening(host: str, port: int, option: str) -> Iterator[socket.socket]:
    """A socket that listens there. Raises BusyError, which names the option that chooses another port, where it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host.strip("[]"), port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise BusyError(
                    f"Port {port} on {host} is taken by another program. Choose one with {option}."
                ) from None
            raise InputError(f"Cannot listen on {host}, port {port}: {error.strerror or error}.") from None
        listener.listen(128)
        yield listener


def reachable(host: str) -> str:
    """How a program of this machine reaches a server that listens on this host."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))
    return f"[{host}]" if ":" in host else host


def _is_short(folder: Path) -> bool:
    return len(os.fsencode(folder)) + LONGEST_NAME <= LONGEST_PATH


def _is_ours(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == 0o700


def _short_parent() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and _is_short(Path(runtime) / "qbawa-12345678") and _is_ours(Path(runtime)):
        return Path(runtime)
    return Path("/tmp")
