"""Runs a job on the Dagster instance without the UI: `python -m qbawa_assets.run_job flywheel [--config JSON]`.

The run is an ordinary run of the instance, seen in the UI like any other.
"""

import argparse
import json
import sys

from dagster import DagsterInstance

from qbawa.storage.faults import explain
from qbawa_assets.definitions import definitions
from qbawa_assets.model_checks import CAP_TAG
from qbawa_assets.orphaned_runs import end_abandoned_runs, host_tags

CAPPED = 3
"""What is missing costs more than the user allows; the next run goes on there."""


def main() -> int:
    """Exit code: 0 if the run succeeded, 1 if it did not, CAPPED if all that kept it from its end is a dollar cap."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job")
    parser.add_argument("--config", default="{}", help="run configuration as JSON")
    arguments = parser.parse_args()
    with DagsterInstance.get() as instance:
        keep_connections(instance)
        job = definitions.resolve_job_def(arguments.job)
        config = json.loads(arguments.config) | {"loggers": {"console": {}}}
        end_abandoned_runs(instance, launched_here=False)
        result = job.execute_in_process(
            instance=instance, run_config=config, tags=dict(host_tags()), raise_on_error=False
        )
        if not result.success:
            return 1
        run = instance.get_run_by_id(result.run_id)
        return CAPPED if run is not None and CAP_TAG in run.tags else 0


def keep_connections(instance: DagsterInstance) -> None:
    """Let the instance keep its connections to PostgreSQL: by default Dagster opens one for each of its hundreds of queries.

    What it does for its webserver; a run's queries may take as long as they take.
    """
    instance.optimize_for_webserver(statement_timeout=0, pool_recycle=3600, max_overflow=20)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception as error:
        # A full disk, say, which keeps PostgreSQL from taking in even that the run has failed.
        said = explain(error)
        if said is None:
            raise
        print(f"qbawa: {said}", file=sys.stderr)
        sys.exit(2)
