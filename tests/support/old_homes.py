"""Homes as earlier releases left them; tests/fixtures/homes/make.py makes them with those releases' own code."""

import tarfile
from pathlib import Path

from qbawa.project import Home

_FOLDER = Path(__file__).parents[1] / "fixtures" / "homes"


def old_home(version: str, folder: Path) -> Home:
    """The home of a release, unpacked into a folder that is not the one where it was made."""
    with tarfile.open(_FOLDER / f"{version}.tar.gz") as packed:
        packed.extractall(folder, filter="data")
    return Home(folder / "home")
