"""What runs have seen already: whether a stage has anything to do, and whether tournaments know every answer.

Kept as notes in the home. They are no store: without them everything is just done once more.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence

import polars as pl

from qbawa import __version__
from qbawa.project import Project
from qbawa.tournaments import stage as tournaments_stage

# Names of notes in the home.
_STAGES, _JUDGED = "stages.json", "judged_answers"


class Unchanged:
    """Remembers what each stage last saw and left behind: tables' versions, qbawa.yaml, the code. Make one before it begins.

    What others write while it runs counts as not seen, so the next run does it once more rather than never.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._seen = project.lake.versions()

    def since(self, stage: str, reads: Sequence[str], *writes: str) -> bool:
        """True where `stage` ran last on exactly what is there now, and its tables are as it left them."""
        return self._notes().get(stage) == self._state(reads, writes, self._seen)

    def note(self, stage: str, reads: Sequence[str], *writes: str) -> None:
        """Remember that `stage` has just run."""
        self._put(stage, self._state(reads, writes, self._project.lake.versions()))

    def note_as_seen(self, stage: str, reads: Sequence[str], *writes: str) -> None:
        """Remember that `stage` has nothing to do on what was there when this was made."""
        self._put(stage, self._state(reads, writes, self._seen))

    def _put(self, stage: str, state: str) -> None:
        self._project.notes.put(_STAGES, json.dumps(self._notes() | {stage: state}, indent=1, sort_keys=True))

    def _state(self, reads: Sequence[str], writes: Sequence[str], left: Mapping[str, int]) -> str:
        seen: list[object] = [{name: self._seen[name] for name in sorted(reads)}]
        seen += [{name: left[name] for name in writes}, __version__]
        seen.append(self._project.config.model_dump(mode="json"))
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()

    def _notes(self) -> dict[str, str]:
        try:
            notes = json.loads(self._project.notes.get(_STAGES))
        except ValueError:
            return {}
        return notes if isinstance(notes, dict) else {}


def newest_answers(project: Project) -> str:
    """What there is to judge: how many answers, and when the last was given. Changes with every new answer; '' for none."""
    answered = (pl.col("status") == "ok") & (pl.col("sample") == 0)
    times = project.lake.read("replay_matrix", ["answered_at"], keep=answered)["answered_at"]
    return f"{len(times):,} answers, the last of {times.dt.to_string('%F %T%.6f').max()!s} UTC" if len(times) else ""


def judged_answers(project: Project) -> str:
    """`newest_answers` as it was when the last tournament over all requests began; '' where none was played.

    A note, not a store: without it tournaments go through once more and ask for nothing that they know.
    """
    return project.notes.get(_JUDGED)


def note_judged(project: Project, answers: str) -> None:
    """Remember that tournaments have been played over these `newest_answers`."""
    project.notes.put(_JUDGED, answers)


_PLAY = "play"
_PLAY_READS, _PLAY_WRITES = ("replay_matrix", "strategies", "recordings", "replay_set"), ("verdicts", "matches")


def nothing_to_play(project: Project) -> bool:
    """Whether tournaments over all steps were played to their end on exactly what is there now."""
    return Unchanged(project).since(_PLAY, _PLAY_READS, *_PLAY_WRITES)


def note_played_out(project: Project) -> bool:
    """Whether no match is open, of those that qbawa.yaml's budget allows; where none is, remember it.

    Tournaments are looked at once more for that: the last verdicts have moved what all others count for.
    """
    now = Unchanged(project)
    played_out = tournaments_stage.is_played_out(project)
    if played_out:
        now.note_as_seen(_PLAY, _PLAY_READS, *_PLAY_WRITES)
    return played_out


def unbudgeted_judges(project: Project) -> list[str]:
    """Judges whose verdicts cost money that no dollar cap of qbawa.yaml bounds."""
    config = project.config
    if config.budget.usd_per_run is not None or config.budget.usd_per_day is not None:
        return []
    steps = project.lake.read("replay_matrix", ["step"], keep=pl.col("status") == "ok")["step"].unique().sort()
    paid = {name for step in steps for name, judge in config.jury(step).items() if not config.model(judge.model).free}
    return sorted(paid)
