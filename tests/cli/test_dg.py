"""Dagster's own command for projects, `dg`, in an environment of its own: what a Dagster engineer types in a bare clone."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import dagster
import pytest

pytestmark = pytest.mark.installs
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with `dg` beside everything that is installed here."""
    folder = tmp_path_factory.mktemp("dg")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(folder / "bin" / "pip"), "install", "--quiet", f"dagster-dg-cli=={dagster.__version__}"]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"dagster-dg-cli cannot be installed here: {done.stderr[-300:]}")
    find = [str(folder / "bin" / "python"), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(find, check=True, capture_output=True, text=True).stdout.strip())
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "QBAWA_HOME": str(folder / "home"), "DAGSTER_DISABLE_TELEMETRY": "1"}


def test_dg_check_defs_passes_in_a_clone(environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["dg", "check", "defs"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All definitions loaded successfully." in done.stdout + done.stderr


def test_dg_lists_every_asset(environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["dg", "list", "defs", "--json"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for asset in ("replay_matrix", "replay_by_request", "champions"):
        assert f'"{asset}"' in done.stdout
