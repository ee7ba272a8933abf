"""Whether tournaments have seen every answer, and whether judging new ones by itself stays within a budget."""

import os

from qbawa.project import Project


def newest_answers(project: Project) -> str:
    """What there is to judge: how many answers, and when the last was given. Changes with every new answer; '' for none."""
    told = project.lake.read("replay_matrix", ["answered_at"], where="status = 'ok' AND sample = 0")["answered_at"]
    return f"{len(told):,} answers, the last of {told.dt.to_string('%F %T%.6f').max()!s} UTC" if len(told) else ""


def judged_answers(project: Project) -> str:
    """`newest_answers` as it was when the last tournament over all requests began; '' where none was played.

    A note, not a store: without it tournaments go through once more and ask for nothing that they know.
    """
    path = project.home.root / "judged_answers"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def note_judged(project: Project, answers: str) -> None:
    """Remember that tournaments have been played over these `newest_answers`."""
    draft = project.home.root / f"judged_answers.{os.getpid()}"
    draft.write_text(answers, encoding="utf-8")
    os.replace(draft, project.home.root / "judged_answers")


def unbudgeted_judges(project: Project) -> list[str]:
    """Judges whose verdicts cost money that no dollar cap of qbawa.yaml bounds."""
    config = project.config
    if config.budget.usd_per_run is not None or config.budget.usd_per_day is not None:
        return []
    steps = project.lake.read("replay_matrix", ["step"], where="status = 'ok'")["step"].unique().sort()
    paid = {name for step in steps for name, judge in config.jury(step).items() if not config.model(judge.model).free}
    return sorted(paid)
