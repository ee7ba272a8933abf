"""Jobs: exactly the missing cells, exactly the open matches, and the whole flywheel once.

They are made of ops, since one run of an asset job cannot hold assets of different partitions; every op reports what
it made as materialisations of the assets, so the UI shows the same picture whichever way something was made.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from dagster import (
    AssetMaterialization,
    Config,
    Failure,
    In,
    MaterializeResult,
    Nothing,
    OpDefinition,
    OpExecutionContext,
    Out,
    job,
    op,
)

from qbawa import flywheel
from qbawa.brackets.run import play
from qbawa.project import Project
from qbawa.replay.cells import choose_cells, wanted_cells
from qbawa.replay.run import replay
from qbawa_assets.cells import report_cells
from qbawa_assets.events import PartitionEvents
from qbawa_assets.partitions import cell_key, recording_batches, requests, strategies
from resources import ProjectResource

AFTER = {"after": In(Nothing)}


class ReplaySweep(Config):  # type: ignore[misc]
    """Which cells to take."""

    requests: str = "*"
    """Glob over request ids."""
    strategies: str = "*"
    """Glob over ids or names of strategies."""
    states: list[str] = ["missing", "failed"]
    older_than_days: float | None = None
    """Also answered cells that are older than this."""
    usd: float | None = None
    """Dollar cap of this run, besides those in qbawa.yaml."""


class TournamentSweep(Config):  # type: ignore[misc]
    steps: list[str] = []
    """Default: all."""
    verdict_budget: int | None = None
    """Verdicts a step at most; default: qbawa.yaml's."""
    usd: float | None = None
    """Dollar cap of this run, besides those in qbawa.yaml."""
