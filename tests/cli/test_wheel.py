"""The wheel, outside the checkout: it holds the Dagster project as a folder, and runs jobs with it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from qbawa.cli.sample import write_sample
from qbawa.project import Home

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT]
    subprocess.run([sys.executable, *map(str, command)], check=True, cwd=folder)
    [built] = folder.glob("*.whl")
    return built


def test_no_name_but_qbawa_lands_in_anybodys_environment(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"qbawa"}
    assert {"qbawa/dagster_project/workspace.yaml", "qbawa/dagster_project/sensors/sensors.py"} <= set(names)
    assert "qbawa/cli/launch/dagster.yaml" in names and "qbawa/cli/sample/qbawa.yaml" in names
    assert not [name for name in names if "__pycache__" in name]
    assert [name for name in names if name.endswith("licenses/LICENSE")]


def test_a_job_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    installed, home = tmp_path / "installed", Home(tmp_path / "home")
    zipfile.ZipFile(wheel).extractall(installed)
    write_sample(home)
    # In front of everything: neither the checkout nor an installed qbawa is looked at.
    environment = os.environ | {"PYTHONPATH": str(installed), "QBAWA_HOME": str(home.root)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled files tell what was loaded
    ran = subprocess.run(
        [sys.executable, "-m", "qbawa", "run", "take_new_recordings"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    project = installed / "qbawa" / "dagster_project"
    assert list((project / "qbawa_assets" / "__pycache__").glob("jobs.*.pyc")), "the assets were those of the wheel"
    assert list((project / "sensors" / "__pycache__").glob("sensors.*.pyc"))
