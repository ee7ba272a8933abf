"""The wheel where it is installed: an environment that holds it and its dependencies, a folder that is no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.installs
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel of this tree, and of this environment everything but qbawa."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    find = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(find, check=True, capture_output=True, text=True).stdout.strip())
    [wheel] = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(packages)
    # A folder named in a .pth is searched, but the .pth files inside it are not read: the editable install of the
    # checkout, which is one of those, stays out of sight.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture
def empty_folder() -> Iterator[Path]:
    # A short path, since a UNIX socket's may have about 100 characters.
    folder = Path(tempfile.mkdtemp(prefix="qb-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def run(python: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "QBAWA_HOME")}
    return subprocess.run(
        [str(python), *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )


def test_no_name_but_qbawa_lands_in_the_environment(python: Path, empty_folder: Path) -> None:
    where = run(python, empty_folder, "-c", "import qbawa; print(qbawa.__file__)").stdout
    assert "site-packages" in where and str(ROOT / "qbawa") not in where
    for name in ("sensors", "resources", "qbawa_assets"):
        assert "ModuleNotFoundError" in run(python, empty_folder, "-c", f"import {name}").stderr, name


def test_the_flywheel_turns_where_the_wheel_is_installed(python: Path, empty_folder: Path) -> None:
    """What `qbawa demo` does, on fewer requests."""
    record = "from pathlib import Path; from qbawa.cli.demo_app.pipeline import record_demo; "
    for words in (
        ("-m", "qbawa", "init"),
        ("-c", f"{record}record_demo(Path('.qbawa/journal'), 3)"),
        ("-m", "qbawa", "run", "flywheel"),
        ("-m", "qbawa", "status"),
    ):
        done = run(python, empty_folder, *words)
        assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert "Leaderboard of step 'summarise'" in done.stdout
    assert {path.name for path in empty_folder.iterdir()} == {".qbawa"}
