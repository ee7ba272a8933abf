"""What the UI is told of every asset, whatever a home holds."""

from __future__ import annotations

import pytest
from dagster import AssetsDefinition, TableColumnLineage, TableSchema

from qbawa.storage.tables import TABLES
from qbawa_assets.definitions import ASSETS, definitions


@pytest.mark.parametrize("asset", ASSETS, ids=lambda asset: asset.key.to_user_string())
def test_every_asset_has_columns_with_descriptions_and_a_lineage_that_exists(asset: AssetsDefinition) -> None:
    metadata = asset.metadata_by_key[asset.key]
    schema, lineage = metadata["dagster/column_schema"], metadata["dagster/column_lineage"]
    assert isinstance(schema, TableSchema) and isinstance(lineage, TableColumnLineage)
    assert all(column.description for column in schema.columns)
    columns = {column.name for column in schema.columns}
    assert set(lineage.deps_by_column) <= columns
    tables = {each.key: str(each.metadata_by_key[each.key]["dagster/table_name"]) for each in ASSETS}
    for made_of in lineage.deps_by_column.values():
        for dep in made_of:
            assert dep.column_name in {column.name for column in TABLES[tables[dep.asset_key]].columns}, dep


def test_every_asset_is_made_by_something_that_its_page_names() -> None:
    repository = definitions.get_repository_def()
    automated = {
        key
        for sensor in repository.sensor_defs
        for job in (target.job_name for target in sensor.targets)
        if repository.has_job(job)
        for key in repository.get_job(job).asset_layer.selected_asset_keys
    }
    automated |= {
        key
        for schedule in repository.schedule_defs
        for key in repository.get_job(schedule.job_name).asset_layer.selected_asset_keys
    }
    assert {asset.key for asset in ASSETS} == automated
