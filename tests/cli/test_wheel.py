"""What lies in the wheel; `test_installed.py` runs it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.installs
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
