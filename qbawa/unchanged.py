"""Whether a stage has anything to do: its inputs are the versions of the tables that it reads, qbawa.yaml and the code.

Kept in `stages.json` of the home. It is a note, not a store: without it everything is just done once more.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from qbawa import __version__
from qbawa.project import Project


class Unchanged:
    """Remembers what each stage last saw and left behind. Make one before the stage begins.

    What others write while it runs counts as not seen, so the next run does it once more rather than never.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._seen = project.lake.versions()
        self._path: Path = project.home.root / "stages.json"

    def since(self, stage: str, reads: Sequence[str], writes: str) -> bool:
        """True where `stage` ran last on exactly what is there now, and its table is as it left it."""
        return self._notes().get(stage) == self._state(reads, writes, self._seen[writes])

    def note(self, stage: str, reads: Sequence[str], writes: str) -> None:
        """Remember that `stage` has just run."""
        left = self._project.lake.versions()[writes]
        notes = self._notes() | {stage: self._state(reads, writes, left)}
        draft = self._path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(notes, indent=1, sort_keys=True), encoding="utf-8")
        os.replace(draft, self._path)

    def _state(self, reads: Sequence[str], writes: str, left: int) -> str:
        seen: list[object] = [{name: self._seen[name] for name in sorted(reads)}, writes, left, __version__]
        seen.append(self._project.config.model_dump(mode="json"))
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()

    def _notes(self) -> dict[str, str]:
        try:
            notes = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return notes if isinstance(notes, dict) else {}
