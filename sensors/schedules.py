"""Schedules by the clock (UTC)."""

from collections.abc import Iterator

from dagster import DefaultScheduleStatus, RunRequest, ScheduleEvaluationContext, schedule

from qbawa_assets.jobs import flywheel_job, maintain_lake
from resources import ProjectResource


# It spends money, so a person switches it on.
@schedule(job=flywheel_job, cron_schedule="0 2 * * *", default_status=DefaultScheduleStatus.STOPPED)
def nightly_replay(context: ScheduleEvaluationContext, project: ProjectResource) -> Iterator[RunRequest]:
    """New strategies and new requests are answered and judged, within `budget.nightly_usd` for both together."""
    usd = project.open().config.budget.nightly_usd
    yield RunRequest(
        run_config={"ops": {name: {"config": {"usd": usd}} for name in ("sweep_matrix", "sweep_brackets")}}
    )


@schedule(job=maintain_lake, cron_schedule="30 4 * * *", default_status=DefaultScheduleStatus.RUNNING)
def lake_maintenance(context: ScheduleEvaluationContext) -> Iterator[RunRequest]:
    """Small files are compacted, old ones deleted."""
    yield RunRequest()
