"""What the section `dagster` of qbawa.yaml says of all assets and schedules, read once, when the code location is loaded."""

import logging
from collections.abc import Sequence
from datetime import timedelta
from functools import cache

from dagster import AssetsDefinition, AssetSpec, FreshnessPolicy, map_asset_specs
from dagster._utils.schedules import is_valid_cron_string

from qbawa.config import DagsterConfig, ScheduleName
from qbawa.config_file import load_config
from qbawa.errors import UserError
from qbawa.project import Home


def described(assets: Sequence[AssetsDefinition]) -> Sequence[AssetsDefinition]:
    """The assets with what qbawa.yaml says of them. A file that cannot be read says nothing here: each run says what is wrong."""
    settings = settings_at_load()
    fresh = None if settings.fresh_days is None else FreshnessPolicy.time_window(timedelta(days=settings.fresh_days))

    def describe(spec: AssetSpec) -> AssetSpec:
        of_parts = spec.partitions_def is not None  # their newest part says nothing of the others
        return spec.replace_attributes(
            owners=list(settings.owners), tags=settings.tags, freshness_policy=None if of_parts else fresh
        )

    return map_asset_specs(describe, assets)


def cron(schedule: ScheduleName, otherwise: str) -> str:
    """When a schedule ticks. One that cannot be read as a time says so, and ticks as it would without."""
    said = settings_at_load().schedules.get(schedule, otherwise)
    if is_valid_cron_string(said):
        return said
    logging.getLogger("qbawa.dagster").warning("dagster.schedules.%s: '%s' is no time as in crontab(5)", schedule, said)
    return otherwise


@cache
def settings_at_load() -> DagsterConfig:
    """The section as it is now. A file that cannot be read says nothing here: each run says what is wrong with it."""
    path = Home.find().config
    try:
        return load_config(path).dagster if path.exists() else DagsterConfig()
    except UserError as error:
        logging.getLogger("qbawa.dagster").warning("%s", error)
        return DagsterConfig()
