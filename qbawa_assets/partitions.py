"""Names of the dynamic partitions. Their keys follow the lake; the sensors and jobs keep them in step."""

from dagster import DynamicPartitionsDefinition, MultiPartitionKey, MultiPartitionsDefinition

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
