"""Before a run spends: what is wrong with its models. Afterwards: has a model failed as a whole, has a cap stopped it?"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from dagster import Failure

from qbawa.project import Project
from qbawa.replay import stage as replay_stage

CAP_TAG = "stopped_by"
"""Tag of a run that ended at a dollar cap, in the UI's list of runs."""


def say_what_is_wrong(
    context: Any, project: Project, *uses: Mapping[str, Sequence[str]], usd: float | None = None
) -> dict[str, Any]:
    """Log what is wrong with the models of `uses` (model → who calls it) and with the caps; the same as metadata.

    It stops nothing: the calls of such a model fail at once or cost nothing, and what others answer is kept.
    """
    from qbawa.engine.caps import cap_notes

    together: dict[str, list[str]] = {}
    for part in uses:
        for model, users in part.items():
            together.setdefault(model, []).extend(users)
    lines = []
    if together:
        from qbawa.engine.preflight import examine

        context.log.info(f"checking {len(together)} model{'s' * (len(together) > 1)} before they are asked")
        lines = [problem.line() for problem in asyncio.run(examine(together, project.config.models))]
    lines += cap_notes(project.config.budget, usd)
    for line in lines:
        context.log.warning(line)
    return {"problems": lines} if lines else {}


def fail_for_silent_models(context: Any, project: Project) -> None:
    """Raise Failure if a model answered none of the cells that this run asked it."""
    if silent := replay_stage.silent_models(project, context.run_id):
        raise Failure(silent, allow_retries=False)


def note_cap(context: Any, capped: bool) -> None:
    """Mark a run that a dollar cap stopped before all was done; it is no failure."""
    if capped:
        context.instance.add_run_tags(context.run_id, {CAP_TAG: "dollar cap"})
        context.log.warning("A dollar cap stopped the run before everything was done; the next run goes on there.")
