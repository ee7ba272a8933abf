"""Requests and steps of any name show in Dagster as what they are; plain names keep the keys that they always had."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dagster import AssetMaterialization
from dagster_home import DagsterHome, configure, dagster_home, record
from hypothesis import example, given
from hypothesis import strategies as st

from qbawa_assets.partition_keys import name_of, partition_key
from qbawa_assets.partitions import add_partitions, cell_key, dimensions, requests
from qbawa_assets.partitions import strategies as strategy_partitions

ODD = ["acme|42", "|", "%%acme%7C42", "two\x00parts"]
PLAIN = ["plain", "../up", "a...b", "a,b [1]", "'quoted' \"twice\"", "100%7C", "%%", "ein ö\\n, два", "<b>"]
RECORDED = [*ODD, "plain", "a...b", PLAIN[-2]]
STEP = "a/../b|c.d 'e' \"f\""


@given(st.text(max_size=20), st.text(alphabet="%7C|025\0", max_size=12))
@example("acme|42", "%%acme%7C42")
@example("%%%25%25acme%7C42", "%%acme%7C42")
def test_every_name_has_a_key_of_its_own_that_says_the_name(one: str, other: str) -> None:
    for name in (one, other):
        key = partition_key(name)
        assert name_of(key) == name and not set("|\0") & set(key)
        assert dimensions(str(cell_key(name, "s_1"))) == dimensions(cell_key(name, "s_1")) == (name, "s_1")
    assert (partition_key(one) == partition_key(other)) == (one == other)


@pytest.mark.parametrize("name", PLAIN)
def test_a_name_that_dagster_can_take_is_its_own_key(name: str) -> None:
    assert partition_key(name) == name


@pytest.fixture(scope="module")
def world() -> Iterator[DagsterHome]:
    """A home with odd and plain requests of an odd step, where an older qbawa has made partitions; turned once."""
    with dagster_home() as here:
        way = {"step": STEP, "name": "way | 1", "prompt": "{{ topic }}", "models": ["offline/lead", "offline/title"]}
        configure(here.home, strategies=[way], judges={"j": {"model": "offline/judge"}})
        record(here.home, RECORDED, step=STEP)
        here.instance.add_dynamic_partitions("request", ["acme|42", "plain"])
        here.instance.report_runless_asset_event(AssetMaterialization("replay_matrix", partition="acme|42|s_old"))
        here.instance.report_runless_asset_event(AssetMaterialization("tournament_brackets", partition="acme|42"))
        assert here.run("flywheel").success
        yield here


def cells(world: DagsterHome) -> set[tuple[str, str]]:
    return set(world.rows("SELECT request_id, strategy_id FROM replay_matrix WHERE status = 'ok'"))


@pytest.mark.slow
def test_every_cell_of_every_name_counts_as_materialised(world: DagsterHome) -> None:
    shown = world.statuses()
    assert {request for request, _ in cells(world)} == set(RECORDED)
    assert {dimensions(key) for key in shown["materialized"]} == cells(world) and not shown["failed"]
    brackets = world.statuses("tournament_brackets", requests)
    assert {name_of(key) for key in brackets["materialized"]} == set(RECORDED)


@pytest.mark.slow
def test_plain_names_keep_their_partitions_and_a_key_that_no_cell_can_have_is_gone(world: DagsterHome) -> None:
    keys = set(world.instance.get_dynamic_partitions("request"))
    assert keys == set(map(partition_key, RECORDED)) >= {"plain", "a...b"} and "acme|42" not in keys


@pytest.mark.slow
def test_a_cell_and_a_bracket_of_an_odd_name_are_materialised_alone(world: DagsterHome) -> None:
    cell = next(cell for cell in sorted(cells(world)) if cell[0] == "acme|42" and "|" in cell[1])
    key = str(cell_key(*cell))
    assert world.materialize("replay_matrix", key).success
    assert world.materialize("tournament_brackets", partition_key("acme|42")).success
    assert {dimensions(shown) for shown in world.statuses()["materialized"]} == cells(world)


@pytest.mark.slow
def test_partitions_are_added_in_the_order_given(world: DagsterHome) -> None:
    before = world.instance.get_dynamic_partitions("strategy")
    add_partitions(world.instance, strategy_partitions, ["z|1", "a"])
    assert world.instance.get_dynamic_partitions("strategy") == [*before, "%%z%7C1", "a"]
