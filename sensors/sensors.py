"""Sensors on what people, applications and replays leave in the home."""

from datetime import UTC, datetime

from dagster import (
    DagsterRunStatus,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from qbawa.errors import UserError
from qbawa.ids import content_id
from qbawa.ingest import stage as ingest_stage
from qbawa.replay import stage as replay_stage
from qbawa.storage.occupancy import in_use
from qbawa.tournaments import stage as tournaments_stage
from qbawa_assets.jobs import flywheel_job, judge_anew, replay_sweep, take_new_recordings, tournament_sweep
from qbawa_assets.orphaned_runs import end_abandoned_runs
from qbawa_assets.partitions import recording_batches, unreported_batches
from qbawa_assets.staleness import judged_answers, newest_answers, unbudgeted_judges
from resources import ProjectResource

# Jobs that answer or judge; Dagster runs assets that a person materializes as the job `__ASSET_JOB`.
ANSWERING = (replay_sweep.name, flywheel_job.name, tournament_sweep.name, "__ASSET_JOB")
UNDER_WAY = [
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


@sensor(job=take_new_recordings, minimum_interval_seconds=15, default_status=DefaultSensorStatus.RUNNING)
def new_recordings(context: SensorEvaluationContext, project: ProjectResource) -> SensorResult | SkipReason:
    """Closed journal segments, late ones too, become batches; each new batch is taken in and may join the matrix."""
    try:
        with in_use(project.location.root, patience_s=0):
            opened = project.open()
            batches = set(ingest_stage.new_batches(opened, thorough=False))
    except UserError as error:
        return SkipReason(str(error))
    # Imported by hand: the lake holds it, but no partition says so yet. Names are compared where the lake has changed, and
    # only those that came since.
    held = ingest_stage.held_version(opened)
    if context.cursor != held:
        batches |= unreported_batches(context.instance, opened, context.cursor)
    if not batches:
        context.update_cursor(held)
        return SkipReason("Nothing new: every closed segment is in the lake.")
    # What a run could not take in is tried again every hour; the lake knows what is done, so twice does no harm.
    names = sorted(batches)
    key = f"{content_id('batches', *names)}-{datetime.now(UTC):%Y%m%d%H}"
    return SensorResult(
        run_requests=[RunRequest(run_key=key)],
        dynamic_partitions_requests=[recording_batches.build_add_request(names)],
    )


@sensor(job=judge_anew, minimum_interval_seconds=30, default_status=DefaultSensorStatus.RUNNING)
def new_human_verdicts(context: SensorEvaluationContext, project: ProjectResource) -> RunRequest | SkipReason:
    """Tables of verdicts in `human_verdicts/` of the home re-decide matches."""
    try:
        files = tournaments_stage.human_verdict_files(project.open())
    except UserError as error:
        return SkipReason(str(error))
    if not files:
        return SkipReason("No table of verdicts in human_verdicts/.")
    newest = max(path.stat().st_mtime_ns for path in files)
    return RunRequest(run_key=f"{len(files)}-{newest}")


@sensor(job=tournament_sweep, minimum_interval_seconds=30, default_status=DefaultSensorStatus.RUNNING)
def new_answers(context: SensorEvaluationContext, project: ProjectResource) -> RunRequest | SkipReason:
    """New answers cause new matches, once nobody is answering any more, and only where a budget bounds what judging costs."""
    try:
        opened = project.open()
        answers = newest_answers(opened)
        if answers == judged_answers(opened):
            return SkipReason("Tournaments have seen every answer." if answers else "No answers yet.")
        if not opened.config.judges:
            return SkipReason("New answers, and nobody to judge them: name judges in qbawa.yaml.")
        if paid := unbudgeted_judges(opened):
            return SkipReason(
                f"New answers, but judging them by {', '.join(paid)} costs money without a cap. Set budget.usd_per_run or "
                "budget.usd_per_day in qbawa.yaml, or run `qbawa run tournament_sweep` yourself."
            )
        if silent := replay_stage.silent_models(opened):
            return SkipReason(silent)
    except UserError as error:
        return SkipReason(str(error))
    for job in ANSWERING:
        if context.instance.get_runs(RunsFilter(job_name=job, statuses=UNDER_WAY), limit=1):
            return SkipReason(f"New answers; a run of {job} is still under way.")
    # A sweep that broke off is tried again every hour; one whose judge failed has been seen, and waits for a person.
    return RunRequest(run_key=f"{content_id('answers', answers)}-{datetime.now(UTC):%Y%m%d%H}")


@sensor(minimum_interval_seconds=30, default_status=DefaultSensorStatus.RUNNING)
def abandoned_runs(context: SensorEvaluationContext) -> SkipReason:
    """Runs whose process was killed end in failure, and make room for others."""
    ended = end_abandoned_runs(context.instance, launched_here=True)
    return SkipReason(f"Ended {', '.join(ended)}." if ended else "Every run that is under way has its process.")
