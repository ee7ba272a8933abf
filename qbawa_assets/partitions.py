"""Names of the dynamic partitions. Their keys follow the lake; the sensors and jobs keep them in step."""

from dagster import DagsterInstance, DynamicPartitionsDefinition, MultiPartitionKey, MultiPartitionsDefinition

from qbawa.ingest import stage as ingest_stage
from qbawa.project import Project

recording_batches = DynamicPartitionsDefinition(name="recording_batch")
requests = DynamicPartitionsDefinition(name="request")
strategies = DynamicPartitionsDefinition(name="strategy")
cells = MultiPartitionsDefinition({"request": requests, "strategy": strategies})


def cell_key(request_id: str, strategy_id: str) -> MultiPartitionKey:
    """Partition key of one cell of the replay matrix."""
    return MultiPartitionKey({"request": request_id, "strategy": strategy_id})


def dimensions(key: str) -> tuple[str, str]:
    """Request and strategy of a cell's partition key."""
    both = key.keys_by_dimension if isinstance(key, MultiPartitionKey) else None
    if both is None:
        request_id, strategy_id = key.split("|")
        return request_id, strategy_id
    return both["request"], both["strategy"]


_reported: dict[tuple[str, str], set[str]] = {}
"""By home and lake: names that were partitions when this process last looked. 100,000 take 0.2 s to ask for."""


def unreported_batches(instance: DagsterInstance, project: Project) -> set[str]:
    """Batches and imports that the lake holds whole and that are no partition of `recordings` yet.

    A partition that somebody deletes while this process runs is missed here; the job that takes batches in notices it.
    """
    name = str(recording_batches.name)
    known = _reported.setdefault((str(project.home.root), project.lake.uri), set())
    new = ingest_stage.held_batches(project) - known
    if len(new) > 100:
        known |= set(instance.get_dynamic_partitions(name))
    else:
        known |= {batch for batch in new if instance.has_dynamic_partition(name, batch)}
    return new - known
