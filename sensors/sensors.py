"""Sensors on what people, applications and replays leave in the home."""

from datetime import UTC, datetime

import polars as pl
from dagster import (
    AssetSelection,
    AutomationConditionSensorDefinition,
    DefaultSensorStatus,
    RunFailureSensorContext,
    RunRequest,
    RunsFilter,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    run_failure_sensor,
    sensor,
)

from qbawa.errors import UserError
from qbawa.ids import content_id
from qbawa.ingest import stage as ingest_stage
from qbawa.replay import stage as replay_stage
from qbawa.storage.occupancy import in_use
from qbawa.tournaments import stage as tournaments_stage
from qbawa_assets.asset_jobs import (
    after_judging,
    ingest_recordings,
    play_brackets,
    prepare_replay,
    replay_cells,
    replay_requests,
    replay_strategies,
)
from qbawa_assets.datasets import qbawa, qbawa_datasets
from qbawa_assets.improvement import champions
from qbawa_assets.jobs import flywheel_job, judge_anew, replay_sweep, take_new_recordings, tournament_sweep
from qbawa_assets.orphaned_runs import end_abandoned_runs
from qbawa_assets.partitions import recording_batches, unreported_batches
from qbawa_assets.staleness import judged_answers, newest_answers, unbudgeted_judges
from qbawa_assets.tournaments import judge_reliability, ratings
from resources import ProjectResource
from sensors.failure_hook import describe_failed_run, tell
from sensors.under_way import UNDER_WAY

# Jobs that answer or judge; Dagster runs assets that a person materializes as the job `__ASSET_JOB`.
ANSWERING = (
    *(replay_sweep.name, flywheel_job.name, tournament_sweep.name, "__ASSET_JOB"),
    *(job.name for job in (replay_requests, replay_strategies, replay_cells, play_brackets)),
)

# A sensor names the jobs of the assets too that its own job makes: so the page of an asset shows what makes it by itself.


@sensor(
    jobs=[take_new_recordings, ingest_recordings, prepare_replay],
    minimum_interval_seconds=15,
    default_status=DefaultSensorStatus.RUNNING,
)
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
        run_requests=[RunRequest(run_key=key, job_name=take_new_recordings.name)],
        dynamic_partitions_requests=[recording_batches.build_add_request(names)],
    )


@sensor(jobs=[judge_anew, after_judging], minimum_interval_seconds=30, default_status=DefaultSensorStatus.RUNNING)
def new_human_verdicts(context: SensorEvaluationContext, project: ProjectResource) -> RunRequest | SkipReason:
    """Tables of verdicts in `human_verdicts/` of the home re-decide matches."""
    try:
        files = tournaments_stage.human_verdict_files(project.open())
    except UserError as error:
        return SkipReason(str(error))
    if not files:
        return SkipReason("No table of verdicts in human_verdicts/.")
    newest = max(path.stat().st_mtime_ns for path in files)
    return RunRequest(run_key=f"{len(files)}-{newest}", job_name=judge_anew.name)


@sensor(jobs=[tournament_sweep, play_brackets], minimum_interval_seconds=30, default_status=DefaultSensorStatus.RUNNING)
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
    if job := _answering(context):
        return SkipReason(f"New answers; a run of {job} is still under way.")
    # A sweep that broke off is tried again every hour; one whose judge failed has been seen, and waits for a person.
    key = f"{content_id('answers', answers)}-{datetime.now(UTC):%Y%m%d%H}"
    return RunRequest(run_key=key, job_name=tournament_sweep.name)


# It spends money, so a person switches it on.
@sensor(
    jobs=[replay_sweep, replay_cells, replay_requests, replay_strategies],
    minimum_interval_seconds=300,
    default_status=DefaultSensorStatus.STOPPED,
)
def missing_cells(context: SensorEvaluationContext, project: ProjectResource) -> RunRequest | SkipReason:
    """Cells of new strategies and new requests are answered as they come, each run within `budget.nightly_usd`."""
    try:
        opened = project.open()
        missing = replay_stage.wanted_cells(opened.lake).filter(pl.col("state") == "missing")["cell_id"]
    except UserError as error:
        return SkipReason(str(error))
    if missing.is_empty():
        return SkipReason("No cell is missing.")
    if job := _answering(context):
        return SkipReason(f"{len(missing):,} cells are missing; a run of {job} is still under way.")
    # What a cap left is tried again the next day, which has a new one; what a run could not answer too.
    key = f"{content_id('cells', *missing.sort())}-{datetime.now(UTC):%Y%m%d}"
    config = {"ops": {"sweep_matrix": {"config": {"states": ["missing"], "usd": opened.config.budget.nightly_usd}}}}
    return RunRequest(run_key=key, run_config=config, job_name=replay_sweep.name)


def _answering(context: SensorEvaluationContext) -> str | None:
    """The job of a run that answers or judges at this moment."""
    runs = (context.instance.get_runs(RunsFilter(job_name=job, statuses=UNDER_WAY), limit=1) for job in ANSWERING)
    return next((found[0].job_name for found in runs if found), None)


@run_failure_sensor(minimum_interval_seconds=30, default_status=DefaultSensorStatus.RUNNING)
def failed_runs(context: RunFailureSensorContext, project: ProjectResource) -> None:
    """Whoever `dagster.on_failure` of qbawa.yaml names is told of a run that failed, once."""
    opened = project.open()
    hook = opened.config.dagster.on_failure
    if not hook.webhook and not hook.command:
        return
    about = describe_failed_run(
        context.dagster_run, context.failure_event.message or "", context.get_step_failure_events()
    )
    tell(hook, about, opened.home.root)


@sensor(minimum_interval_seconds=30, default_status=DefaultSensorStatus.RUNNING)
def abandoned_runs(context: SensorEvaluationContext) -> SkipReason:
    """Runs whose process was killed end in failure, and make room for others."""
    ended = end_abandoned_runs(context.instance, launched_here=True)
    return SkipReason(f"Ended {', '.join(ended)}." if ended else "Every run that is under way has its process.")


inputs_changed = AutomationConditionSensorDefinition(
    "inputs_changed",
    target=AssetSelection.assets(ratings, judge_reliability, qbawa, qbawa_datasets, champions),
    default_status=DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="What follows from verdicts is made again when they change; it asks no model.",
)
