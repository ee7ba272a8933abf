"""Names of the dynamic partitions. Their keys follow the lake; the sensors and jobs keep them in step."""

from collections.abc import Iterable

from dagster import (
    DagsterInstance,
    DynamicPartitionsDefinition,
    MultiPartitionKey,
    MultiPartitionsDefinition,
)

from qbawa.ingest import stage as ingest_stage
from qbawa.project import Project
from qbawa_assets.partition_keys import name_of, partition_key

recording_batches = DynamicPartitionsDefinition(name="recording_batch")
requests = DynamicPartitionsDefinition(name="request")
strategies = DynamicPartitionsDefinition(name="strategy")
cells = MultiPartitionsDefinition({"request": requests, "strategy": strategies})


def cell_key(request_id: str, strategy_id: str) -> MultiPartitionKey:
    """Partition key of one cell of the replay matrix."""
    return MultiPartitionKey({"request": partition_key(request_id), "strategy": partition_key(strategy_id)})


def dimensions(key: str) -> tuple[str, str]:
    """Request and strategy of a cell's partition key."""
    both = key.keys_by_dimension if isinstance(key, MultiPartitionKey) else None
    if both is None:
        request, strategy = key.split("|")
        return name_of(request), name_of(strategy)
    return name_of(both["request"]), name_of(both["strategy"])


def add_partitions(instance: DagsterInstance, of: DynamicPartitionsDefinition, names: Iterable[str]) -> None:
    """Make these requests or strategies partitions. A key that an older qbawa gave, and that no cell can have, goes."""
    name, keys = str(of.name), {each: partition_key(each) for each in names}
    wrong = {each for each, key in keys.items() if each != key and "\0" not in each}
    for each in wrong & set(instance.get_dynamic_partitions(name)) if wrong else ():
        if "|" in each:
            instance.delete_dynamic_partition(name, each)
    instance.add_dynamic_partitions(name, list(keys.values()))


_reported: dict[tuple[str, str], set[str]] = {}
"""By home and lake: names that were partitions when this process last looked. 100,000 take 0.2 s to ask for."""


def unreported_batches(instance: DagsterInstance, project: Project, since: str | None = None) -> set[str]:
    """Batches and imports that the lake holds whole and that are no partition of `recordings` yet.

    `since`, a version of the lake (`ingest_stage.held_version`) at which there were none, spares looking at all that
    came before.
    A partition that somebody deletes while this process runs is missed here; the job that takes batches in notices it.
    """
    name = str(recording_batches.name)
    known = _reported.setdefault((str(project.home.root), project.lake.uri), set())
    new = ingest_stage.held_batches(project, since) - known
    if len(new) > 100:
        known |= set(instance.get_dynamic_partitions(name))
    else:
        known |= {batch for batch in new if instance.has_dynamic_partition(name, batch)}
    return new - known
