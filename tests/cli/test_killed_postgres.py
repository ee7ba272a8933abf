"""PostgreSQL killed together with whoever started it: the next command starts it again, however fresh the dead are."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from qbawa.cli.launch.postgres import postgres
from qbawa.project import Home

pytestmark = pytest.mark.slow


@pytest.fixture
def home() -> Iterator[Home]:
    # A short path, since a UNIX socket's may have about 100 characters.
    home = Home(Path(tempfile.mkdtemp(prefix="qb-", dir="/tmp")))
    yield home
    shutil.rmtree(home.root, ignore_errors=True)


@pytest.mark.hostile
def test_a_lock_that_names_a_process_not_buried_yet_stops_nobody(home: Home) -> None:
    with postgres(home):
        data = home.postgres / "data"
        locks = {name: (data / name).read_text() for name in ("postmaster.pid", ".s.PGSQL.5432.lock")}
    # The server's user has it, and nobody has waited for it: its number is still taken.
    owner = data.stat().st_uid
    dead = subprocess.Popen(["true"], **({} if owner == os.getuid() else {"user": owner}))
    while Path(f"/proc/{dead.pid}/stat").exists() and "Z" not in Path(f"/proc/{dead.pid}/stat").read_text().split()[2]:
        pass
    try:
        for name, text in locks.items():
            _, *rest = text.splitlines()
            (data / name).write_text("\n".join([str(dead.pid), *rest]) + "\n")
        with postgres(home) as url:
            psycopg2.connect(url.replace("+psycopg2", "")).close()
    finally:
        dead.wait()
