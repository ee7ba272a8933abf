"""What an asset was made of, as tags of its materialisation: by them Dagster tells what is in step from what is not.

Runs of assets get these tags by themselves. What an op reports would count as out of step as soon as anything before it is
made again, changed or not. The names of the tags are internal to Dagster, whose version is pinned, and stand here alone.
"""

from collections.abc import Collection, Mapping

from dagster import AssetKey, DagsterInstance, DataVersion
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    DEFAULT_DATA_VERSION,
    NULL_EVENT_POINTER,
    extract_data_version_from_entry,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)


def provenance_tags(
    instance: DagsterInstance, made_of: Collection[AssetKey], version: DataVersion | None, run_id: str
) -> Mapping[str, str]:
    """Tags of something with this data version that is made of these assets as they are now."""
    if version is None:
        return {}
    tags = {CODE_VERSION_TAG: run_id, DATA_VERSION_TAG: version.value, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}
    for key in made_of:
        record = instance.get_latest_data_version_record(key)
        found = extract_data_version_from_entry(record.event_log_entry) if record else None
        tags[get_input_data_version_tag(key)] = (found or DEFAULT_DATA_VERSION).value
        tags[get_input_event_pointer_tag(key)] = str(record.storage_id) if record else NULL_EVENT_POINTER
    return tags
