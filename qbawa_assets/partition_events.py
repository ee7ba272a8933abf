"""Many partition events at once.

Dagster's public `context.log_event` costs about 40 ms a partition on PostgreSQL; batches of 500 cost about 1 ms. The
batch arguments are internal to Dagster, whose version is pinned, and stand in this module alone.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dagster import AssetKey, AssetMaterialization, DagsterInstance
from dagster._core.definitions.partitions.utils import MultiPartitionKey, get_tags_from_multi_partition_key
from dagster._core.events import (
    AssetMaterializationPlannedData,
    DagsterEvent,
    DagsterEventBatchMetadata,
    DagsterEventType,
    StepMaterializationData,
    generate_event_batch_id,
)

from qbawa.engine.counted import Counted

BATCH = 500


class PartitionEvents:
    """Reports partitions of one asset on behalf of one run."""

    def __init__(
        self,
        instance: DagsterInstance,
        run_id: str,
        job_name: str,
        step_key: str,
        asset: str,
        log: Callable[[str], Any] = lambda message: None,
    ) -> None:
        self.instance = instance
        self.run_id = run_id
        self.job_name = job_name
        self.step_key = step_key
        self.asset = AssetKey(asset)
        self.log = log
        os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", str(BATCH))

    @classmethod
    def of(cls, context: Any, asset: str) -> "PartitionEvents":
        """Events of the run and step that an asset or op context belongs to."""
        step = context.get_step_execution_context().step
        return cls(context.instance, context.run_id, context.job_name, step.key, asset, context.log.info)

    def materialized(self, partitions: Iterable[tuple[str, Mapping[str, Any]]], of: str = "partitions") -> None:
        """These partitions, each with its metadata, hold data now; `of` says what they are, where it takes a while."""
        self._report(
            of,
            [
                self._event(
                    DagsterEventType.ASSET_MATERIALIZATION,
                    StepMaterializationData(
                        AssetMaterialization(self.asset, partition=key, metadata=metadata, tags=_dimensions(key)), []
                    ),
                )
                for key, metadata in partitions
            ],
        )

    def planned(self, partitions: Iterable[str]) -> None:
        """The run means to fill these partitions. One that it does not fill shows as failed if the run fails."""
        self._report(
            "partitions",
            [
                self._event(
                    DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
                    AssetMaterializationPlannedData(self.asset, partition=key),
                )
                for key in partitions
            ],
        )

    def _event(self, kind: DagsterEventType, data: Any) -> DagsterEvent:
        return DagsterEvent(
            event_type_value=kind.value,
            job_name=self.job_name,
            step_handle=None,
            node_handle=None,
            step_kind_value=None,
            logging_tags={},
            event_specific_data=data,
            message=None,
            pid=os.getpid(),
            step_key=self.step_key,
        )

    def _report(self, of: str, events: Sequence[DagsterEvent]) -> None:
        reporting = Counted(self.log, "reporting", len(events), f"{of} to Dagster")
        for start in range(0, len(events), BATCH):
            part = events[start : start + BATCH]
            batch = generate_event_batch_id()
            for index, event in enumerate(part):
                self.instance.report_dagster_event(
                    event,
                    self.run_id,
                    logging.DEBUG,
                    batch_metadata=DagsterEventBatchMetadata(batch, is_end=index == len(part) - 1),
                )
            reporting.advance(len(part))


def _dimensions(partition: str) -> Mapping[str, str] | None:
    return get_tags_from_multi_partition_key(partition) if isinstance(partition, MultiPartitionKey) else None
