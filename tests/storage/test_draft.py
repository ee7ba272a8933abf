"""A draft of the lake shows what a lake would show after the same writes, and touches nothing."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbawa.storage.frames import frame
from qbawa.storage.lake import DraftLake, Lake

KEY = ["block_id", "cell_id"]

rows = st.lists(
    st.fixed_dictionaries(
        {
            "block_id": st.sampled_from(["a", "b", "c"]),
            "request_id": st.just("r"),
            "strategy_id": st.just("s"),
            "cell_id": st.sampled_from(["1", "2"]),
            "sample": st.just(0),
            "answer": st.sampled_from([None, "x", "it's"]),
        }
    ),
    max_size=4,
    unique_by=lambda row: (row["block_id"], row["cell_id"]),
).map(lambda found: frame("replay_matrix", found))
writes = st.lists(st.tuples(st.sampled_from(["merge", "replace"]), rows), max_size=4)


def write(lake: Lake, how: str, cells: pl.DataFrame) -> bool:
    if how == "merge":
        return lake.merge("replay_matrix", cells)
    return lake.replace("replay_matrix", ["a", *cells["block_id"]], cells)


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(before=writes, after=writes)
def test_a_draft_shows_what_a_lake_shows_after_the_same_writes(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[tuple[str, pl.DataFrame]],
    after: list[tuple[str, pl.DataFrame]],
) -> None:
    folder = tmp_path_factory.mktemp("lake")
    lake = Lake(folder)
    for how, cells in before:
        write(lake, how, cells)
    held, draft = files(folder), DraftLake(lake)
    changed = [write(draft, how, cells) for how, cells in after]
    drafted, blocks = draft.read("replay_matrix").sort(KEY), draft.blocks("replay_matrix")
    of_a = draft.read("replay_matrix", ["cell_id"], keep=pl.col("answer") == "x", blocks=["a"])
    assert files(folder) == held
    assert changed == [write(lake, how, cells) for how, cells in after]
    assert drafted.equals(lake.read("replay_matrix").sort(KEY)) and blocks == lake.blocks("replay_matrix")
    assert of_a.sort("cell_id").equals(
        lake.read("replay_matrix", ["cell_id"], keep=pl.col("answer") == "x", blocks=["a"]).sort("cell_id")
    )


def test_a_draft_of_no_lake_makes_none_and_has_no_files(tmp_path: Path) -> None:
    draft = DraftLake(Lake(tmp_path / "lake"))
    assert draft.read("verdicts").is_empty() and draft.blocks("verdicts") == set()
    assert list(tmp_path.iterdir()) == []
    for ask in (lambda: draft.files("verdicts"), draft.versions, lambda: draft.delete("verdicts", "true")):
        with pytest.raises(NotImplementedError, match="lies in memory"):
            ask()
