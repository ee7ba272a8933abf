"""What is read of a lake is what was asked for, however much else it holds."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from counted_lake import CountedLake
from small_lake import STEP, call_key, make

from qbawa import ids
from qbawa.erasure import forget
from qbawa.errors import InputError
from qbawa.project import Home
from qbawa.storage.frames import frame
from qbawa.storage.lake import BATCH_ROWS, Lake
from qbawa.storage.lineage import trace

pytestmark = pytest.mark.slow

OTHERS = 25_000
BATCH = 5_000


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A small lake, and beside it thousands of requests that have nothing to do with what is looked for."""
    home, lake = make(tmp_path_factory.mktemp("crowded"))
    names = [f"other_{k}" for k in range(OTHERS)]
    own_id = {
        "recordings": "recording_id", "feedback": "comment", "replay_matrix": "cell_id", "matches": "match_id",
        "verdicts": "verdict_id", "calls": "call_key", "qbawa": "pair_id", "quarantine": "raw",
    }  # fmt: skip
    for table, column in own_id.items():
        block = "others"
        rows = [{column: name, "block_id": block} for name in names]
        if table != "quarantine":
            rows = [row | {"request_id": name} for row, name in zip(rows, names, strict=True)]
        lake.replace(table, [block], frame(table, rows))
    return home


def test_batches_are_the_table_so_many_rows_at_a_time(crowded: Home) -> None:
    lake = Lake(crowded.lake)
    columns = ["request_id", "call_keys", "sample"]
    parts = list(lake.batches("replay_matrix", columns, rows=BATCH))
    assert len(parts) > OTHERS // BATCH and max(part.height for part in parts) == BATCH
    whole = lake.read("replay_matrix", columns)
    assert pl.concat(parts).sort("request_id", "call_keys").equals(whole.sort("request_id", "call_keys"))


def test_batches_of_a_file_that_lacks_a_newer_column_have_nulls_there(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.replace("datasets", ["d"], frame("datasets", [{"dataset": "d", "version": "v", "block_id": "d"}]))
    [file] = lake.files("datasets")
    pq.write_table(pq.read_table(file).drop_columns(["pruned_at"]), file)
    [part] = lake.batches("datasets", ["pruned_at", "version"])
    assert part.schema == {"pruned_at": pl.Datetime("us", "UTC"), "version": pl.String}
    assert part.rows() == [(None, "v")]


def test_a_trace_holds_no_more_rows_than_it_shows(crowded: Home) -> None:
    match = ids.match_id("r_2", STEP, "s_best", "s_good")
    pair = Lake(crowded.lake).read("qbawa", keep=pl.col("match_ids").list.contains(match))["pair_id"][0]
    starts = {
        "pair": pair,
        "match": match,
        "verdict": ids.verdict_id(match, "judy", "a"),
        "cell": ids.cell_id("r_2", STEP, "s_best"),
        "call": call_key("replay", 2, "s_best"),
        "request": "r_2",
    }
    for kind, id in starts.items():
        lake = CountedLake(crowded.lake)
        lineage = trace(lake, id)
        assert lineage.kind == kind and lineage.tables["recordings"].height == 1
        held = {table: most for table, most in lake.most.items() if most > lineage.tables[table].height}
        # Looked through for the pairs that name a match, a batch at a time; and each version by itself.
        allowed = {"qbawa": BATCH_ROWS, "datasets": 1, "replay_matrix": 3, "verdicts": 6, "matches": 3}
        assert all(most <= allowed.get(table, 0) for table, most in held.items()), (kind, held)
        assert lake.most.get("recordings", 0) <= 1, "not the whole traffic"
    lake = CountedLake(crowded.lake)
    with pytest.raises(InputError):
        trace(lake, "nothing")
    assert not any(lake.most.values())


@pytest.mark.slow
def test_forgetting_looks_through_the_lake_by_batches(crowded: Home, tmp_path: Path) -> None:
    home = Home(Path(shutil.copytree(crowded.root, tmp_path / "home")))
    lake = CountedLake(home.lake)
    report = forget(lake, home, "r_2")
    assert report.rows == {
        "recordings": 1, "feedback": 1, "replay_set": 1, "replay_matrix": 3, "matches": 3, "verdicts": 6, "calls": 9,
        "qbawa": 3, "datasets": 1,
    }  # fmt: skip
    assert max(lake.most.values()) < OTHERS, lake.most
    assert lake.read("recordings")["request_id"].n_unique() == OTHERS + 7
