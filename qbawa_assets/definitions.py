"""The composition root: everything that Dagster loads."""

from dagster import Definitions, in_process_executor

from qbawa_assets import asset_jobs, jobs
from qbawa_assets.console_logger import console
from qbawa_assets.datasets import qbawa, qbawa_datasets
from qbawa_assets.improvement import champions
from qbawa_assets.recordings import recordings, replay_set
from qbawa_assets.replay import replay_matrix, strategies
from qbawa_assets.settings import described
from qbawa_assets.sweeps import replay_by_request, replay_by_strategy
from qbawa_assets.tournaments import human_verdicts, judge_reliability, ratings, tournament_brackets
from resources import ProjectResource
from sensors.schedules import lake_maintenance, nightly_replay, replay_new_requests, replay_new_strategies
from sensors.sensors import (
    abandoned_runs,
    failed_runs,
    inputs_changed,
    missing_cells,
    new_answers,
    new_human_verdicts,
    new_recordings,
)

ASSETS = [
    recordings,
    replay_set,
    strategies,
    replay_matrix,
    replay_by_request,
    replay_by_strategy,
    tournament_brackets,
    human_verdicts,
    ratings,
    judge_reliability,
    qbawa,
    qbawa_datasets,
    champions,
]
JOBS = [
    jobs.flywheel_job,
    jobs.replay_sweep,
    jobs.tournament_sweep,
    jobs.take_new_recordings,
    jobs.judge_anew,
    jobs.maintain_lake,
]

ASSET_JOBS = [
    asset_jobs.ingest_recordings,
    asset_jobs.prepare_replay,
    asset_jobs.replay_requests,
    asset_jobs.replay_strategies,
    asset_jobs.replay_cells,
    asset_jobs.play_brackets,
    asset_jobs.after_judging,
]

definitions = Definitions(
    assets=described(ASSETS),
    jobs=[*JOBS, *ASSET_JOBS],
    sensors=[
        new_recordings,
        missing_cells,
        new_answers,
        new_human_verdicts,
        inputs_changed,
        failed_runs,
        abandoned_runs,
    ],
    schedules=[nightly_replay, replay_new_requests, replay_new_strategies, lake_maintenance],
    resources={"project": ProjectResource()},
    loggers={"console": console},
    # The stages of a run follow one another; a process for each would only import everything again.
    executor=in_process_executor,
)
