"""The lake's format: its number, refusing a newer one, and bringing an older one up to ours."""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path

from qbawa.errors import LakeFormatError
from qbawa.storage import migrations
from qbawa.storage.files import file_lock
from qbawa.storage.lake import Lake

Migration = Callable[[Lake], None]


def known_migrations() -> dict[int, str]:
    """Module names of all migrations by number, from 1 on without a gap: `m0001_relative_paths` is 1."""
    found = sorted(module.name for module in pkgutil.iter_modules(migrations.__path__))
    return {int(name[1:5]): name for name in found}


FORMAT = max(known_migrations())
"""The format that this version reads and writes: the number of its last migration. 0.1.0's lakes are format 0."""


def upgrade(lake: Lake, lock: Path) -> list[str]:
    """Bring the lake to FORMAT; names of the migrations that ran, none where it is there already.

    A lake that has no table yet is of our format from its first one on. Processes of one machine take turns by `lock`; those of
    several machines may run the same migration at once, which does no harm. Raises LakeFormatError for a newer lake.
    """
    held = lake.format()
    check_format(lake, held)
    if held is None:
        lake.format_when_made = FORMAT
    if held in (FORMAT, None):
        return []
    lock.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(lock):
        held = lake.format()
        check_format(lake, held)
        ran = []
        for number, name in known_migrations().items():
            if number > (held or 0):
                migrate: Migration = importlib.import_module(f"{migrations.__name__}.{name}").migrate
                migrate(lake)
                # Noted last: after a kill it runs again and finds its own work done.
                lake.note_format(number)
                ran.append(name)
        return ran


def check_format(lake: Lake, held: int | None) -> None:
    """Raise LakeFormatError where the lake's format is newer than ours: its rows may mean what this code does not know."""
    if held is not None and held > FORMAT:
        raise LakeFormatError(
            f"The lake {lake.uri} has format {held}, this version of qbawa knows formats up to {FORMAT}: a newer version "
            "has written it. Use that version or a later one (`git pull` and `make install`, or pip install -U with the extra "
            "`pipeline`)."
        )
