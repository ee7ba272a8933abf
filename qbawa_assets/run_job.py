"""Runs a job on the Dagster instance without the UI: `python -m qbawa_assets.run_job flywheel [--config JSON]`.

The run is an ordinary run of the instance, seen in the UI like any other.
"""

import argparse
import gc
import json
import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef

from qbawa.cli.launch.dagster import POSTGRES_PIPE, POSTGRES_URL
from qbawa.engine.caps import cap_notes
from qbawa.engine.spending import spent_today_usd
from qbawa.errors import UserError
from qbawa.project import Project
from qbawa.storage.faults import explain

PAYING = ("flywheel", "replay_sweep", "tournament_sweep")
CAPPED = 3
"""What is missing costs more than the user allows; the next run goes on there."""


def main() -> int:
    """Exit code: 0 if the run succeeded, 1 if it did not, CAPPED if all that kept it from its end is a dollar cap.

    Raises UserError for a home in which no run can begin.
    """
    # All that is imported from here on is no garbage.
    gc.disable()
    from qbawa_assets.definitions import definitions
    from qbawa_assets.model_checks import CAP_TAG
    from qbawa_assets.orphaned_runs import end_abandoned_runs, host_tags
    from resources import ProjectResource

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job")
    parser.add_argument("--config", default="{}", help="run configuration as JSON")
    arguments = parser.parse_args()
    config = json.loads(arguments.config)
    say_which_caps_apply(ProjectResource().open(), arguments.job, config.get("ops", {}))
    with open_instance() as instance:
        job = definitions.resolve_job_def(arguments.job)
        end_abandoned_runs(instance, launched_here=False)
        gc.freeze()
        gc.enable()
        logged = config | {"loggers": {"console": {}}}
        result = job.execute_in_process(
            instance=instance, run_config=logged, tags=dict(host_tags()), raise_on_error=False
        )
        if not result.success:
            return 1
        run = instance.get_run_by_id(result.run_id)
        return CAPPED if run is not None and CAP_TAG in run.tags else 0


def say_which_caps_apply(project: Project, job: str, ops: Mapping[str, Any]) -> None:
    """Print where caps of qbawa.yaml stop the run before its own dollar cap does."""
    if job not in PAYING:
        return
    budget = project.config.budget
    own = [asked["config"]["usd"] for asked in ops.values() if "usd" in asked["config"]]
    spent = spent_today_usd(project.lake) if budget.usd_per_day is not None else 0.0
    for note in cap_notes(budget, own[0] if own else None, spent):
        print(note, file=sys.stderr)


def open_instance() -> DagsterInstance:
    """The instance of DAGSTER_HOME, as cheap as a single run can have it, once PostgreSQL runs."""
    await_postgres()
    home = os.environ["DAGSTER_HOME"]
    logs = {"module": "qbawa_assets.compute_logs", "class": "TerminalLogs", "config": {"base_dir": home}}
    instance = DagsterInstance.from_ref(InstanceRef.from_dir(home, overrides={"compute_logs": logs}))
    keep_connections(instance)
    return instance


def await_postgres() -> None:
    """Wait until whoever started this process has started PostgreSQL too, and says where; see `run_job` of the launcher."""
    if (pipe := os.environ.pop(POSTGRES_PIPE, None)) is None:
        return
    with os.fdopen(int(pipe)) as told:
        url = told.read()
    if not url:
        sys.exit(2)  # it could not, and has said why
    os.environ[POSTGRES_URL] = url


def keep_connections(instance: DagsterInstance) -> None:
    """Let the instance keep its connections to PostgreSQL: by default Dagster opens one for each of its hundreds of queries.

    What it does for its webserver; a run's queries may take as long as they take.
    """
    instance.optimize_for_webserver(statement_timeout=0, pool_recycle=3600, max_overflow=20)
    # One connection, and so one process of PostgreSQL, for both. Dagster has no setting for it, and its version is pinned.
    runs, events = instance.run_storage, instance.event_log_storage
    if hasattr(runs, "_engine") and hasattr(events, "_engine"):
        events._engine.dispose()
        events._engine = runs._engine


def run_to_exit_code() -> int:
    """`main`, with what stands in a run's way said in one sentence."""
    try:
        return main()
    except Exception as error:
        # A full disk, say, which keeps PostgreSQL from taking in even that the run has failed.
        said = error if isinstance(error, UserError) else explain(error)
        if said is None:
            traceback.print_exc()
            return 1
        print(f"qbawa: {said}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    code = run_to_exit_code()
    # All is stored and closed. To take Dagster and Polars down object by object lasts 0.7 s.
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
