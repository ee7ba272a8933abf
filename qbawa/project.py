"""A home opened for work: its configuration and its lake."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qbawa.config import Config
from qbawa.config_file import load_config
from qbawa.errors import ConfigError
from qbawa.home import Home

if TYPE_CHECKING:
    from qbawa.storage.lake import Lake


@dataclass(frozen=True)
class Project:
    """What every stage of the flywheel needs: where things lie, what the user wants, what has been done."""

    home: Home
    config: Config
    lake: "Lake"

    @property
    def journals(self) -> list[Path]:
        """Folders in which applications leave recordings."""
        return [self.home.journal, *(self.home.root / folder for folder in self.config.journals)]

    def publish(self) -> None:
        """Bring catalog.duckdb up to the lake's present state."""
        from qbawa.storage.catalog import publish

        publish(self.lake, self.home.catalog)


def open_project(home: Home | None = None) -> Project:
    """The project in a home (default: the one in force). Raises ConfigError where qbawa.yaml is absent or wrong."""
    home = home or Home.find()
    config = load_config(home.config)
    from qbawa.storage.lake import Lake

    options = {key: _from_environment(key, value) for key, value in config.lake.storage_options.items()}
    return Project(home, config, Lake(_lake_uri(home, config), options))


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
