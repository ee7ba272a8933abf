"""Schedules by the clock (UTC). Those that spend money are switched on by a person."""

from collections.abc import Iterator
from typing import Literal

from dagster import (
    DefaultScheduleStatus,
    DynamicPartitionsDefinition,
    RunRequest,
    RunsFilter,
    ScheduleEvaluationContext,
    SkipReason,
    schedule,
)

from qbawa.errors import UserError
from qbawa.replay import stage as replay_stage
from qbawa_assets.asset_jobs import replay_requests, replay_strategies
from qbawa_assets.jobs import flywheel_job, maintain_lake
from qbawa_assets.partition_keys import partition_key
from qbawa_assets.partitions import requests, strategies
from qbawa_assets.settings import cron
from resources import ProjectResource
from sensors.under_way import UNDER_WAY

OFF = DefaultScheduleStatus.STOPPED
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@schedule(job=flywheel_job, cron_schedule=cron("nightly_replay", "0 2 * * *"), default_status=OFF)
def nightly_replay(context: ScheduleEvaluationContext, project: ProjectResource) -> Iterator[RunRequest]:
    """New strategies and new requests are answered and judged, within `budget.nightly_usd` for both together."""
    usd = project.open().config.budget.nightly_usd
    yield RunRequest(
        run_config={"ops": {name: {"config": {"usd": usd}} for name in ("sweep_matrix", "sweep_brackets")}}
    )


@schedule(
    job=replay_requests,
    cron_schedule=cron("replay_new_requests", "0 1 * * *"),
    default_status=OFF,
)
def replay_new_requests(context: ScheduleEvaluationContext, project: ProjectResource) -> RunRequest | SkipReason:
    """Requests that joined the replay set after a strategy are answered by all strategies, within `budget.nightly_usd`."""
    return _backfill(context, project, "request", requests)


@schedule(
    job=replay_strategies,
    cron_schedule=cron("replay_new_strategies", "30 1 * * *"),
    default_status=OFF,
)
def replay_new_strategies(context: ScheduleEvaluationContext, project: ProjectResource) -> RunRequest | SkipReason:
    """Strategies that came after a request answer all requests, within `budget.nightly_usd`."""
    return _backfill(context, project, "strategy", strategies)


@schedule(
    job=maintain_lake,
    cron_schedule=cron("lake_maintenance", "30 4 * * *"),
    default_status=DefaultScheduleStatus.RUNNING,
)
def lake_maintenance(context: ScheduleEvaluationContext) -> Iterator[RunRequest]:
    """Small files are compacted, old ones deleted."""
    yield RunRequest()


def _backfill(
    context: ScheduleEvaluationContext,
    resource: ProjectResource,
    cause: Literal["request", "strategy"],
    partitions: DynamicPartitionsDefinition,
) -> RunRequest | SkipReason:
    """One run over the partitions that have cells to answer, since one run can be held to one cap."""
    job = {"request": replay_requests.name, "strategy": replay_strategies.name}[cause]
    try:
        project = resource.open()
        cells = replay_stage.cells_that_new_ones_cause(project.lake)
    except UserError as error:
        return SkipReason(str(error))
    names = set(cells.filter(cells["cause"] == cause)[f"{cause}_id"])
    keys = {partition_key(name) for name in names}
    known = [key for key in context.instance.get_dynamic_partitions(str(partitions.name)) if key in keys]
    if not known:
        return SkipReason(f"Nothing to answer for a new {cause}.")
    if context.instance.get_runs(RunsFilter(job_name=job, statuses=UNDER_WAY), limit=1):
        return SkipReason("The run of an earlier tick is still under way.")
    config = {"usd": project.config.budget.nightly_usd, "only": sorted(names)}
    return RunRequest(
        run_config={"ops": {f"replay_by_{cause}": {"config": config}}},
        tags={RANGE_START: known[0], RANGE_END: known[-1]},
    )
