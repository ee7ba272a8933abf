"""Where everything that a user owns lies: one folder, `QBAWA_HOME`."""

import os
from dataclasses import dataclass
from pathlib import Path

DEFAULT_FOLDER = ".qbawa"


@dataclass(frozen=True, slots=True)
class Home:
    """The folder that holds configuration, journals, lake, catalog, exports and Dagster's own storage.

    The code can be upgraded without touching it, and a back-up is a copy of it.
    """

    root: Path

    @classmethod
    def find(cls) -> "Home":
        """The home named by the environment variable QBAWA_HOME, else `.qbawa/` in the current folder."""
        return cls(Path(os.environ.get("QBAWA_HOME") or DEFAULT_FOLDER).expanduser().resolve())

    @property
    def config(self) -> Path:
        return self.root / "qbawa.yaml"

    @property
    def journal(self) -> Path:
        """Segments of recordings; applications write here, `new_recordings` reads."""
        return self.root / "journal"

    @property
    def calls(self) -> Path:
        """Segments of paid model calls; the engine writes here before anything reads an answer."""
        return self.root / "calls"

    @property
    def lake(self) -> Path:
        return self.root / "lake"

    @property
    def catalog(self) -> Path:
        return self.root / "catalog.duckdb"

    @property
    def exports(self) -> Path:
        return self.root / "exports"

    @property
    def dagster(self) -> Path:
        return self.root / "dagster"

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"
