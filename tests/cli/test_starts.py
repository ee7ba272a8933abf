"""What a command does not need it does not import: that is what makes it start at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from newsdesk import newsdesk

from qbawa.project import Home

pytestmark = pytest.mark.slow

DAGSTER = {"dagster", "dagster_postgres", "sqlalchemy", "psycopg2"}
MODELS = {"litellm", "aiohttp", "httpx", "openai", "jinja2", "dspy", "torch"}
STATISTICS = {"scipy", "sklearn", "matplotlib", "numpy", "pyarrow", "pandas", "rensa"}
LAKE = {"polars", "deltalake", "duckdb"}
CONFIGURATION = {"pydantic", "yaml"}
LIGHT = DAGSTER | MODELS | STATISTICS | LAKE | CONFIGURATION
COMMANDS = ("demo", "up", "import", "status", "plan", "run", "sql", "trace", "judge", "export", "forget", "doctor")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with answers, whose catalog is up to date."""
    project = newsdesk(tmp_path_factory.mktemp("starts"))
    project.publish()
    yield project.home


def imported(home: Home, *arguments: str) -> set[str]:
    """Top-level modules that `qbawa …` has imported when it ends."""
    code = (
        "import sys\nfrom qbawa.cli import main\n"
        f"sys.argv = ['qbawa', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code in (None, 0, 1), end.code\n"
        "print('\\n' + ' '.join(name for name in sys.modules if '.' not in name))\n"
    )
    environment = {"QBAWA_HOME": str(home.root), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), *((command, "--help") for command in COMMANDS)])
def test_help_needs_no_library(home: Home, arguments: tuple[str, ...]) -> None:
    assert not imported(home, *arguments) & LIGHT


def test_init_needs_no_library(tmp_path: Path) -> None:
    assert not imported(Home(tmp_path / "home"), "init") & LIGHT


def test_sql_on_a_catalog_that_is_up_to_date_opens_no_lake(home: Home) -> None:
    assert not imported(home, "sql", "SELECT count(*) FROM replay_matrix") & (
        DAGSTER | MODELS | STATISTICS | {"polars", "deltalake"}
    )


@pytest.mark.parametrize("command", ["status", "doctor", "trace"])
def test_looking_at_the_lake_needs_neither_dagster_nor_models_nor_statistics(home: Home, command: str) -> None:
    import duckdb

    with duckdb.connect(str(home.catalog), read_only=True) as connection:
        row = connection.execute("SELECT cell_id FROM replay_matrix LIMIT 1").fetchone()
    assert row is not None
    arguments = [command, row[0]] if command == "trace" else [command]
    assert not imported(home, *arguments) & (DAGSTER | MODELS | STATISTICS)
