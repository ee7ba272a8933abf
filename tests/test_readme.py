"""The README is true: its commands work in the order given, its program records, its tree is the one on disk."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from recording import rows, run

from qbawa.cli.demo_app.pipeline import record_demo
from qbawa.project import Home

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REQUESTS = 4
MAKE = {"demo", "test", "up"}
"""Run by whoever reads on; `make demo` and `make up` are this file's commands and more, `make test` is this very run."""
INSTALL = ["qbawa[pipeline]"]
"""What the README installs: tests/cli/test_installed.py builds it and tries it."""


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language, "" for those without."""
    every = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.M | re.S)
    return [block for named, block in every if named == language]


def commands(block: str) -> list[list[str]]:
    """The command lines of a block, remarks left out."""
    return [words for line in block.splitlines() if (words := shlex.split(line, comments=True))]


def qbawa(words: list[str], home: Home, stdin: str = "") -> str:
    """What the command prints; it must end well."""
    assert Path(words[0]).name == "qbawa", words
    environment = os.environ | {"QBAWA_HOME": str(home.root), "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-m", "qbawa", *words[1:]],
        env=environment, cwd=home.root.parent, input=stdin, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def said() -> Iterator[dict[str, str]]:
    """What each of the README's commands printed, by its name, in a home with a few of the demo's recordings."""
    # A short path, since a UNIX socket's may have about 100 characters.
    folder = Path(tempfile.mkdtemp(prefix="qb-", dir="/tmp"))
    home = Home(folder / "home")
    try:
        tried, by_hand = (next(block for block in blocks("sh") if name in block) for name in ("make up", "qbawa init"))
        printed = {}
        for words in [*commands(by_hand), *(c for c in commands(tried) if c[0] != "make")]:
            name, stdin = words[1], ""
            if name == "trace":
                words = [pair(home) if word == "PAIR" else word for word in words]
            if name == "judge":
                stdin = "1\nq\n"
            printed[name] = qbawa(words, home, stdin)
            if name == "init":
                record_demo(home.journal, REQUESTS)
        yield printed
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def pair(home: Home) -> str:
    with duckdb.connect(str(home.catalog), read_only=True) as catalog:
        [[found]] = catalog.execute("SELECT pair_id FROM qbawa WHERE step = 'summarise' ORDER BY 1 LIMIT 1").fetchall()
    return str(found)


def test_every_command_of_the_readme_is_known_here() -> None:
    every = [words for block in blocks("sh") for words in commands(block)]
    assert {words[1] for words in every if words[0] == "make"} == MAKE
    assert {Path(words[0]).name for words in every} == {"make", "pip", "qbawa"}
    assert [words[2:] for words in every if words[0] == "pip"] == [INSTALL]
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"`?make (\w+)", README)) <= targets


def test_the_loop_by_hand_works_as_written(said: dict[str, str]) -> None:
    assert list(said) == ["init", "plan", "run", "judge", "trace", "export", "status", "sql"]
    assert "qbawa plan" in said["init"]
    assert (
        re.search(r"\d+ cells: \d+ calls, 0 already in the ledger", said["plan"]) and "Caps: $5 a run" in said["plan"]
    )
    assert "demo-" in said["trace"] and "summarise" in said["trace"]
    assert "summaries_dpo" in said["export"]


def test_status_and_sql_show_what_the_run_left(said: dict[str, str]) -> None:
    assert "Leaderboard of step 'summarise'" in said["status"] and "★" in said["status"]
    assert "summarise" in said["sql"] and "mean_p" in said["sql"]
    assert re.search(rf"recordings\W+{3 * REQUESTS}\b", said["status"])


def test_the_five_lines_record_an_app(tmp_path: Path) -> None:
    [program] = blocks("python")
    assert "qbawa.instrument()" in program
    without = "\n".join(line for line in program.splitlines() if not line.startswith("qbawa.instrument"))
    assert len([line for line in without.splitlines() if line.strip()]) <= 5
    run(f"{without}\nextract('Between A and B ...')\nassert qbawa.flush()", tmp_path / "journal", cwd=tmp_path)
    [row] = rows(tmp_path / "journal")
    assert row["step"] == "extract" and row["pipeline"] == "contracts"
    assert json.loads(json.dumps(row["inputs"])) == {"contract": "Between A and B ..."}


def tree() -> list[Path]:
    """The files and folders that the README's tree names."""
    [block] = [block for block in blocks("") if "qbawa_assets/" in block]
    named = []
    for line in block.splitlines():
        inside = line.startswith("  ")
        names = re.split(r"\s{2,}", line.strip())[0].split()
        named += [ROOT / "qbawa" / name if inside else ROOT / name for name in names]
    return named


def test_the_tree_is_the_one_on_disk() -> None:
    assert len(tree()) > 20
    for path in tree():
        assert path.exists(), path
        assert path.is_dir() == (path.suffix == ""), path


def test_every_package_has_its_line_in_the_tree() -> None:
    packages = {path.parent for path in (ROOT / "qbawa").glob("*/__init__.py")}
    assert packages <= {Path(os.path.normpath(path)) for path in tree()}


def test_the_pages_that_the_readme_names_exist() -> None:
    for page in re.findall(r"docs/[\w/.-]+\w", README):
        assert (ROOT / page).exists(), page
