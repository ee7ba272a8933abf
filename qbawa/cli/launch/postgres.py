"""The PostgreSQL server that holds Dagster's events: the user's own, or a private one in the home."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

from qbawa.cli.launch.postgres_server import PASSFILE, USER, PrivateServer
from qbawa.cli.launch.sockets import socket_folder
from qbawa.project import Home
from qbawa.storage.files import file_lock

OWN_SERVER = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE")
DATABASE = "dagster"


@contextmanager
def postgres(home: Home) -> Iterator[str]:
    """SQLAlchemy URL of a running server, for as long as the context lasts.

    Where one of PGHOST, PGHOSTADDR, PGSERVICE or PGDATABASE is set, the server that the usual PG* variables describe
    is used as it is; passwords stay in the environment. Otherwise a private server in the home is started, shared by
    every qbawa process that works there, and stopped by the last one to leave. The URL names the file of its password.
    """
    if any(os.environ.get(name) for name in OWN_SERVER):
        yield "postgresql+psycopg2://"
        return
    home.postgres.mkdir(mode=0o700, parents=True, exist_ok=True)
    starting, users = home.postgres / "start.lock", home.postgres / "users.lock"
    server = PrivateServer(home.postgres, _short_name(home))
    with ExitStack() as using:
        with file_lock(starting):
            url = _start(server, alone=_is_free(users))
            using.enter_context(file_lock(users, shared=True))
        try:
            yield url
        finally:
            with file_lock(starting):
                using.close()
                # A lock dies with its process, so this holds even where others were killed.
                if _is_free(users):
                    server.stop()


def _start(server: PrivateServer, *, alone: bool) -> str:
    if server.is_running() and not server.is_secured():
        # Left over from version 0.1.0, which let every user of the machine in; or in use by one right now.
        if not alone:
            return _with_database(str(server.socket_of_running()), None)
        server.stop()
    if not server.is_running():
        server.start()
    return _with_database(str(server.socket), server.folder / PASSFILE)


def _with_database(host: str, passfile: Path | None) -> str:
    """URL of Dagster's database on this server, made where it is absent."""
    import psycopg2

    options = {"host": host} | ({"passfile": str(passfile)} if passfile else {})
    connection = psycopg2.connect(user=USER, dbname="postgres", **options)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
            if cursor.fetchone() is None:
                cursor.execute(f"CREATE DATABASE {DATABASE}")
                # The lake is the truth; a power cut may cost Dagster's last moment, never its consistency.
                cursor.execute(f"ALTER DATABASE {DATABASE} SET synchronous_commit = off")
    finally:
        connection.close()
    query = "&".join(f"{key}={quote(value, safe='/')}" for key, value in options.items())
    return f"postgresql+psycopg2://{USER}@/{DATABASE}?{query}"


def _short_name(home: Home) -> Path:
    """A path to the data folder, in which the socket lies, that is short enough for a socket's."""
    link, data = socket_folder(home) / "postgres", home.postgres / "data"
    if not link.is_symlink() or os.readlink(link) != str(data):
        link.unlink(missing_ok=True)
        link.symlink_to(data)
    return link


def _is_free(lock: Path) -> bool:
    try:
        with file_lock(lock, wait=False):
            return True
    except BlockingIOError:
        return False
