"""The user's home, one folder, and the project in it: its configuration and its lake.

What is heavy (pydantic, Delta, DuckDB) is imported where it is used: every command needs a home, few open its lake.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qbawa.errors import ConfigError, QbawaError
from qbawa.storage.backends import Notes

if TYPE_CHECKING:
    from qbawa.config import Config
    from qbawa.storage.lake import Lake

DEFAULT_FOLDER = ".qbawa"


class Home:
    """Where everything that a user owns lies: configuration, journals, lake, catalog, exports, Dagster's own storage.

    The code can be upgraded without touching it, and a back-up is a copy of it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "qbawa.yaml"
        self.journal = root / "journal"
        """Segments of recordings; applications write here, `new_recordings` reads."""
        self.calls = root / "calls"
        """Segments of paid model calls; the engine writes here before anything reads an answer."""
        self.lake = root / "lake"
        self.catalog = root / "catalog.duckdb"
        self.exports = root / "exports"
        self.upgrade_lock = root / "upgrade.lock"
        self.dagster = root / "dagster"
        self.postgres = root / "postgres"

    def whole_path(self, path: str) -> Path:
        """Where a path of a table lies: those of the home are relative to it."""
        return self.root / path

    def make_private(self) -> None:
        """Have the folder, closed to other users of the machine: recordings and answers are nobody else's business."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A mounted volume may belong to somebody else, or be read-only.
        with suppress(OSError):
            if stat.S_IMODE(self.root.stat().st_mode) & 0o077:
                self.root.chmod(0o700)

    @classmethod
    def find(cls) -> Home:
        """The home named by the environment variable QBAWA_HOME, else `.qbawa/` in the current folder."""
        return cls(Path(os.environ.get("QBAWA_HOME") or DEFAULT_FOLDER).expanduser().resolve())


@dataclass(frozen=True)
class Project:
    """What every stage of the flywheel needs: where things lie, what the user wants, what has been done."""

    home: Home
    config: Config
    lake: Lake

    @property
    def journals(self) -> list[Path]:
        """Folders in which applications leave recordings."""
        return [self.home.journal, *(self.home.root / folder for folder in self.config.journals)]

    @property
    def notes(self) -> Notes:
        """What runs have seen already; not a store."""
        return Notes(self.home.root)

    def publish(self) -> None:
        """Bring catalog.duckdb up to the lake's present state."""
        from qbawa.storage.catalog import publish

        publish(self.lake, self.home.catalog)

    def maintain(self) -> dict[str, dict[str, int]]:
        """Compact the lake and publish the catalog; says what was done, by table."""
        done = self.lake.maintain()
        self.publish()
        return done


def open_project(home: Home | None = None) -> Project:
    """The project in a home (default: the one in force), its lake upgraded where an older qbawa has written it.

    Raises ConfigError where qbawa.yaml is absent or wrong, LakeFormatError for the lake of a newer qbawa, StorageError where
    disk or object store refuse.
    """
    from qbawa.config_file import load_config
    from qbawa.storage.faults import explain
    from qbawa.storage.upgrade import upgrade

    home = home or Home.find()
    config = load_config(home.config)
    home.make_private()
    lake = configured_lake(home, config)
    try:
        upgrade(lake, home.upgrade_lock)
    except QbawaError:
        raise
    except Exception as error:
        if said := explain(error):
            raise said from error
        raise
    return Project(home, config, lake)


def current_catalog(home: Home) -> Path:
    """The home's catalog, brought up to the lake's present state; where it is so already, the lake is not opened.

    Raises as `open_project`.
    """
    from qbawa.config_file import load_config
    from qbawa.storage.catalog import is_current

    config = load_config(home.config)
    lake_options(config)
    uri = _lake_uri(home, config)
    if not is_current(home.catalog, uri if "://" in uri else os.path.abspath(uri)):
        open_project(home).publish()
    return home.catalog


def configured_lake(home: Home, config: Config) -> Lake:
    """The lake that qbawa.yaml names, not looked at yet. Raises ConfigError, InputError."""
    from qbawa.storage.lake import Lake

    return Lake(_lake_uri(home, config), lake_options(config))


def lake_options(config: Config) -> dict[str, str]:
    """What the object store's client is told, keys out of the environment. Raises ConfigError where one is not there."""
    return {key: _from_environment(key, value) for key, value in config.lake.storage_options.items()}


def _lake_uri(home: Home, config: Config) -> str:
    if config.lake.uri is None:
        return str(home.lake)
    return config.lake.uri if "://" in config.lake.uri else str(home.root / config.lake.uri)


def _from_environment(key: str, value: str) -> str:
    if not value.startswith("$"):
        return value
    if value[1:] not in os.environ:
        raise ConfigError(f"lake.storage_options.{key} is {value}, but the environment has no {value[1:]}.")
    return os.environ[value[1:]]
