"""What the daemon does by itself: the stages after judging follow their inputs, a crashed run is started again."""

from __future__ import annotations

import os

import pytest
from dagster import (
    AssetKey,
    AssetMaterialization,
    DagsterInstance,
    evaluate_automation_conditions,
)

from qbawa_assets.definitions import definitions
from qbawa_assets.settings import cron, settings_at_load

AFTER_JUDGING = {"ratings", "judge_reliability", "qbawa", "qbawa_datasets", "champions"}


def report(instance: DagsterInstance, asset: str, partition: str | None = None) -> None:
    instance.report_runless_asset_event(AssetMaterialization(asset, partition=partition))


def test_new_matches_make_everything_after_judging_in_one_tick_and_once() -> None:
    instance = DagsterInstance.ephemeral()
    instance.add_dynamic_partitions("request", ["r1", "r2"])
    first = evaluate_automation_conditions(definitions, instance)
    assert first.total_requested == 0, "nothing is made in an empty home"
    report(instance, "tournament_brackets", "r1")
    second = evaluate_automation_conditions(definitions, instance, cursor=first.cursor)
    requested = {key for key in AFTER_JUDGING if second.get_num_requested(AssetKey(key))}
    assert requested == AFTER_JUDGING and second.total_requested == len(AFTER_JUDGING)
    third = evaluate_automation_conditions(definitions, instance, cursor=second.cursor)
    assert third.total_requested == 0


def test_what_a_run_has_already_made_is_not_made_again() -> None:
    instance = DagsterInstance.ephemeral()
    instance.add_dynamic_partitions("request", ["r1"])
    first = evaluate_automation_conditions(definitions, instance)
    report(instance, "tournament_brackets", "r1")
    for asset in ("human_verdicts", "ratings", "judge_reliability", "qbawa", "qbawa_datasets", "champions"):
        report(instance, asset)
    assert evaluate_automation_conditions(definitions, instance, cursor=first.cursor).total_requested == 0


def test_settings_that_cannot_be_read_leave_the_location_loadable(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QBAWA_HOME", str(tmp_path))
    file = os.path.join(str(tmp_path), "qbawa.yaml")
    for content, expected in (
        ("dagster: {schedules: {nightly_replay: '5 4 * * *'}}", "5 4 * * *"),
        ("dagster: {schedules: {nightly_replay: '99 99 * * *'}}", "0 2 * * *"),
        ("dagster: {owners: [nobody]}", "0 2 * * *"),
        ("dagster: [", "0 2 * * *"),
    ):
        with open(file, "w") as writing:
            writing.write(content)
        settings_at_load.cache_clear()
        try:
            assert cron("nightly_replay", "0 2 * * *") == expected
        finally:
            settings_at_load.cache_clear()
