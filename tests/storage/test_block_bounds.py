"""Rows of a block are found in the files that hold it, and no other file is opened."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qbawa.storage.block_bounds import FileBounds
from qbawa.storage.frames import BLOCK, frame
from qbawa.storage.lake import Lake

NAMES = st.text(st.sampled_from("a/0é\U0010ffff\x00'z"), max_size=3) | st.text("é", min_size=60, max_size=70)


def noted(block: str) -> pl.DataFrame:
    return frame("feedback", [{"request_id": block, "comment": block, "block_id": block}])


@given(st.lists(st.lists(NAMES, min_size=1, max_size=3, unique=True), min_size=1, max_size=4), st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_block_of_any_name_is_found_among_many_files(
    tmp_path_factory: object, names: list[list[str]], data: st.DataObject
) -> None:
    lake = Lake(tmp_path_factory.mktemp("lake"))  # type: ignore[attr-defined]
    for several in names:
        lake.replace("feedback", several, pl.concat(noted(name) for name in several))
    there = {name for several in names for name in several}
    wanted = data.draw(st.lists(st.sampled_from(sorted(there)) | NAMES, max_size=3))
    assert set(lake.read("feedback", blocks=wanted)[BLOCK]) == there & set(wanted)
    assert lake.blocks("feedback") == there
    for name in wanted:
        assert lake.blocks("feedback", name) == {
            block for block in there if block == name or block.startswith(f"{name}/")
        }


def test_files_that_cannot_hold_a_block_are_not_opened(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for name in ("b_1", "b_2", "b_3"):
        lake.replace("feedback", [name], noted(name))
    for path in (tmp_path / "feedback").glob("*.parquet"):
        if pl.read_parquet(path)[BLOCK][0] != "b_2":
            path.unlink()
    again = Lake(tmp_path)
    assert again.read("feedback", blocks=["b_2"])["comment"].to_list() == ["b_2"]
    assert again.read("feedback", blocks=["b_4"]).is_empty() and again.blocks("feedback", "b_2") == {"b_2"}
    assert again.replace("feedback", ["b_4"], noted("b_4")) and not again.replace("feedback", ["b_2"], noted("b_2"))


def test_bounds_that_nobody_knows_exclude_nothing() -> None:
    assert FileBounds("f", None, None).may_hold(["b"]) and FileBounds("f", None, None).may_hold_between("b", "c")
    assert not FileBounds("f", None, "a").may_hold(["b"]) and not FileBounds("f", "c", None).may_hold(["b"])
    assert FileBounds("f", "b", "b").may_hold(["a", "b"]) and not FileBounds("f", "b", "b").may_hold(["a", "c"])
