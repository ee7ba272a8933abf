"""Runs whose process was killed: Dagster shows them as started for ever, and they keep their place in the pool."""

import socket
from collections.abc import Mapping

import psutil
from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

HOST_TAG = "qbawa/host"


def host_tags() -> Mapping[str, str]:
    """Tags of a run that this process executes itself: where to look for it, and that no daemon can start it again."""
    return {HOST_TAG: socket.gethostname(), "dagster/max_retries": "0"}


def end_abandoned_runs(instance: DagsterInstance, *, launched_here: bool) -> list[str]:
    """Report as failed the runs of this machine that say they are under way while their process is gone; their ids.

    `launched_here` also takes those without a host tag, which the UI or daemon of this machine has launched.
    """
    ended = []
    here = socket.gethostname()
    for run in instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING])):
        if run.tags.get(HOST_TAG, here if launched_here else None) == here and not _is_alive(instance, run):
            instance.report_run_failed(
                run, "The process of this run was killed. What it had answered is kept; start it again for the rest."
            )
            ended.append(run.run_id)
    return ended


def _is_alive(instance: DagsterInstance, run: DagsterRun) -> bool:
    records = instance.get_records_for_run(run.run_id, of_type=DagsterEventType.RUN_START, limit=1).records
    event = records[0].event_log_entry if records else None
    if event is None or event.dagster_event is None or event.dagster_event.pid is None:
        return True  # no process is known
    try:
        process = psutil.Process(event.dagster_event.pid)
        # A process that began after the run did has only inherited the number.
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < event.timestamp + 1
    except psutil.NoSuchProcess:
        return False
