"""The lake's promises: rerun without effect, several writers without loss, kill without trace, readers undisturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace as changed
from datetime import timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qbawa.errors import InputError
from qbawa.storage import lake as delta_module
from qbawa.storage.catalog import pinned_versions, publish
from qbawa.storage.frames import frame, schema_of
from qbawa.storage.lake import Lake
from qbawa.storage.tables import TABLES
from qbawa.storage.views import view_sql

HOSTILE = (
    "it's",
    'a"b',
    "a\\b",
    "\\'",
    "new\nline",
    "%41 %",
    "x\0y",
    "'; DELETE FROM verdicts; --",
    "NULL",
    "../../etc",
    "🙂\u202e",
    "",
)


def cell(request: str, strategy: str = "s", answer: str | None = "an answer", **more: object) -> dict[str, object]:
    row = {"cell_id": f"{request}/{strategy}", "request_id": request, "step": "x", "strategy_id": strategy, "sample": 0}
    return row | {"answer": answer, "status": "ok", "call_keys": ["k1", "k2"], "block_id": request} | more


def cells(*rows: Mapping[str, object]) -> pl.DataFrame:
    return frame("replay_matrix", rows)


def answers(lake: Lake) -> dict[tuple[str, str], str]:
    rows = lake.read("replay_matrix", ["request_id", "strategy_id", "answer"])
    assert rows.select("request_id", "strategy_id").is_unique().all()
    return {(request, strategy): answer for request, strategy, answer in rows.iter_rows()}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("write", ["replace", "merge"])
def test_writing_the_same_rows_again_makes_no_commit(lake: Lake, write: str) -> None:
    rows = cells(cell("r1", "s1"), cell("r1", "s2", answer=None, status="failed"), cell("r2", "s1", call_keys=[]))

    def again(rows: pl.DataFrame) -> bool:
        if write == "merge":
            return lake.merge("replay_matrix", rows)
        return lake.replace("replay_matrix", ["r1", "r2"], rows)

    assert again(rows)
    version = lake.versions()["replay_matrix"]
    assert not again(rows.reverse())
    assert lake.versions()["replay_matrix"] == version
    assert again(rows.with_columns(answer=pl.lit("another")))
    assert lake.versions()["replay_matrix"] == version + 1


def test_replacing_leaves_other_blocks_alone_and_empties_those_without_rows(lake: Lake) -> None:
    lake.replace("replay_matrix", ["r1", "r2", "r3"], cells(cell("r1"), cell("r2"), cell("r3")))
    assert lake.replace("replay_matrix", ["r1", "r2"], cells(cell("r1", answer="new")))
    assert answers(lake) == {("r1", "s"): "new", ("r3", "s"): "an answer"}
    assert lake.blocks("replay_matrix") == {"r1", "r3"}
    assert not lake.replace("replay_matrix", [], cells())


def test_replacing_refuses_rows_of_other_blocks(lake: Lake) -> None:
    with pytest.raises(InputError, match=r"\['r2'\].*not among those replaced"):
        lake.replace("replay_matrix", ["r1"], cells(cell("r1"), cell("r2")))
    assert lake.read("replay_matrix").is_empty()


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.text(max_size=5)), max_size=5),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_merging_keeps_the_newest_row_of_every_key(
    tmp_path_factory: pytest.TempPathFactory, portions: list[list[tuple[str, str, str]]]
) -> None:
    lake = Lake(tmp_path_factory.mktemp("merge"))
    expected: dict[tuple[str, str], str] = {}
    for portion in portions:
        lake.merge("replay_matrix", cells(*(cell(r, s, a) for r, s, a in portion)))
        expected |= {(r, s): a for r, s, a in portion}
        assert answers(lake) == expected


def test_a_row_whose_key_is_partly_null_is_the_same_row_when_merged_again(lake: Lake) -> None:
    for answer in ("first", "second"):
        lake.merge("replay_matrix", cells(cell("r1", answer=answer, sample=None)))
    assert lake.read("replay_matrix")["answer"].to_list() == ["second"]


def test_a_strange_column_is_refused_by_name(lake: Lake) -> None:
    rows = cells(cell("r1")).with_columns(mood=pl.lit("good"))
    for write in (lake.merge, lambda table, rows: lake.replace(table, ["r1"], rows)):
        with pytest.raises(InputError, match=r"'replay_matrix' has no column \['mood'\]\. Columns: cell_id, "):
            write("replay_matrix", rows)
    assert lake.versions()["replay_matrix"] == 0


def test_absent_columns_become_null_and_types_are_the_tables(lake: Lake) -> None:
    lake.merge("replay_matrix", cells(cell("r1")).select("cell_id", pl.col("sample").cast(pl.Int8), "block_id"))
    row = lake.read("replay_matrix")
    assert row.schema == schema_of("replay_matrix")
    assert row["answer"].to_list() == [None] and row["sample"].to_list() == [0]


@pytest.mark.parametrize(
    "ask", [lambda lake: lake.read("cells"), lambda lake: lake.merge("cells", cells(cell("r1"))), lambda _: schema_of("cells")]
)  # fmt: skip
def test_an_unknown_table_is_refused_and_the_tables_are_named(lake: Lake, ask: Callable[[Lake], object]) -> None:
    with pytest.raises(InputError, match=r"no table 'cells'\. Tables: recordings, .*champions"):
        ask(lake)


@pytest.mark.slow
@pytest.mark.parametrize("block", HOSTILE)
def test_any_text_can_name_a_block(lake: Lake, block: str) -> None:
    lake.replace("replay_matrix", ["other"], cells(cell("other")))
    lake.replace("replay_matrix", [block], cells(cell(block, answer="old")))
    lake.merge("replay_matrix", cells(cell(block, answer=block), cell(block, strategy=block)))
    assert answers(lake) == {("other", "s"): "an answer", (block, "s"): block, (block, block): "an answer"}
    assert lake.read("replay_matrix", ["answer"], blocks=[block]).height == 2
    assert lake.query("SELECT request_id FROM replay_matrix").n_unique() == 2
    lake.replace("replay_matrix", [block], cells())
    assert answers(lake) == {("other", "s"): "an answer"}


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["my lake", "it's", "50% off", "été 🙂", "a#b", "x*y{z}", 'a"b;c&d:e'])
def test_any_usual_folder_can_hold_a_lake(tmp_path: Path, folder: str) -> None:
    root = tmp_path / folder
    lake = Lake(root / "lake")
    lake.merge("replay_matrix", cells(cell("r1")))
    lake.merge("replay_matrix", cells(cell("r2")))
    publish(lake, root / "catalog.duckdb")
    lake.maintain()
    assert lake.read("replay_matrix").height == 2
    assert lake.query("SELECT count(*) FROM replay_matrix").item() == 2
    assert ask(root / "catalog.duckdb", "SELECT count(*) FROM replay_matrix") == [(2,)]
    assert [path.name for path in tmp_path.iterdir()] == [folder]


@pytest.mark.parametrize("folder", ["a[b]", "a\\b", "a|b", "a^b", "a?b", "50%41", "tab\tin it"])
def test_a_folder_that_delta_or_duckdb_cannot_use_is_refused_before_anything_is_written(
    tmp_path: Path, folder: str
) -> None:
    with pytest.raises(InputError, match="Move the home"):
        Lake(tmp_path / folder / "lake")
    assert list(tmp_path.iterdir()) == []


def test_a_condition_selects_rows(lake: Lake) -> None:
    lake.merge(
        "replay_matrix", cells(cell("it's", "s1"), cell("r2", "s1", cost_usd=2.0), cell("r2", "s2", answer=None))
    )
    assert lake.read("replay_matrix", ["strategy_id"], keep=pl.col("request_id") == "it's").rows() == [("s1",)]
    assert lake.read("replay_matrix", keep=(pl.col("cost_usd") > 1) & pl.col("answer").is_not_null()).height == 1
    assert lake.read("replay_matrix", keep=pl.col("request_id").is_in(["it's"])).height == 1
    assert lake.read("replay_matrix", keep=pl.col("answer").is_null(), blocks=["it's"]).is_empty()
    assert lake.delete("replay_matrix", "request_id = 'it''s'") == 1
    assert lake.blocks("replay_matrix") == {"r2"}


# ── several writers, and dead ones ───────────────────────────────────────────────────────────────────────────────────

WRITER = """
import sys
from pathlib import Path
from qbawa.storage.frames import frame
from qbawa.storage.lake import Lake

def cell(request, strategy, answer):
    row = {"cell_id": f"{request}/{strategy}", "request_id": request, "strategy_id": strategy, "sample": 0}
    return row | {"answer": answer, "block_id": request}

lake, writer, rounds = Lake(sys.argv[1]), sys.argv[2], int(sys.argv[3])
Path(sys.argv[4]).touch()
for round in range(rounds):
    rows = [cell(f"r{request}", f"{writer}-{round}", str(round)) for request in range(3)]
    rows += [cell("shared", "s", f"{writer} {round}"), cell("shared", writer, str(round))]
    lake.merge("replay_matrix", frame("replay_matrix", rows))
    print(round, flush=True)
"""


def start_writer(lake: Lake, name: str, rounds: int, folder: Path) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, lake.uri, name, str(rounds), str(folder / f"{name}.ready")]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_four_processes_that_write_at_once_lose_nothing(lake: Lake, tmp_path: Path) -> None:
    rounds, names = 4, ("w1", "w2", "w3", "w4")
    writers = [start_writer(lake, name, rounds, tmp_path) for name in names]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    found = answers(lake)
    own = {(f"r{request}", f"{name}-{n}"): str(n) for name in names for n in range(rounds) for request in range(3)}
    last = str(rounds - 1)
    assert {key: answer for key, answer in found.items() if key[0] != "shared"} == own
    assert {key: found["shared", key] for key in names} == dict.fromkeys(names, last)
    assert found["shared", "s"] in {f"{name} {last}" for name in names}


@pytest.mark.hostile
@pytest.mark.slow
def test_a_writer_killed_in_mid_commit_loses_and_doubles_nothing(lake: Lake, tmp_path: Path) -> None:
    rounds, acknowledged = 30, -1
    for delay_s in (0.0, 0.029):
        writer = start_writer(lake, "w", rounds, tmp_path)
        assert writer.stdout is not None
        for _ in range(3):
            acknowledged = max(acknowledged, int(writer.stdout.readline()))
        time.sleep(delay_s)
        os.kill(writer.pid, signal.SIGKILL)
        rest, _ = writer.communicate()
        acknowledged = max([acknowledged, *map(int, rest.split())])
        found = answers(lake)
        assert {(f"r{r}", f"w-{n}") for r in range(3) for n in range(acknowledged + 1)} <= set(found)
    assert acknowledged < rounds - 1
    finish = start_writer(lake, "w", rounds, tmp_path)
    finish.communicate(timeout=60)
    expected = {(f"r{r}", f"w-{n}"): str(n) for r in range(3) for n in range(rounds)}
    assert answers(lake) == expected | {("shared", "s"): f"w {rounds - 1}", ("shared", "w"): str(rounds - 1)}


# ── versions and upkeep ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_upkeep_keeps_every_row_and_merges_the_files(lake: Lake) -> None:
    for n in range(12):
        lake.merge("replay_matrix", cells(cell(f"r{n}")))
    lake.merge("replay_matrix", cells(cell("r0", answer="newest")))
    before, files = lake.read("replay_matrix").sort("cell_id"), len(lake.files("replay_matrix"))
    done = lake.maintain()
    assert set(done) == set(TABLES)
    assert done["replay_matrix"]["files_before"] == files > done["replay_matrix"]["files_after"] == 1
    assert lake.read("replay_matrix").sort("cell_id").equals(before)
    version = lake.versions()
    assert not lake.merge("replay_matrix", cells(cell("r0", answer="newest")))
    lake.maintain()
    assert lake.versions() == version, "nothing was left to do"
    assert lake.purge("replay_matrix") >= 12
    assert lake.read("replay_matrix").sort("cell_id").equals(before)
    folder = Path(lake.uri) / "replay_matrix"
    assert sorted(map(str, folder.glob("*.parquet"))) == sorted(lake.files("replay_matrix"))


@pytest.mark.parametrize(
    "clean", [lambda lake: lake.maintain(keep=timedelta(hours=24)), lambda lake: lake.purge("replay_matrix")]
)
def test_upkeep_deletes_what_killed_writers_left_and_nothing_that_may_still_be_written(
    lake: Lake, clean: Callable[[Lake], object]
) -> None:
    lake.merge("replay_matrix", cells(cell("r1")))
    folder = Path(lake.uri) / "replay_matrix"
    left, under_way = folder / "part-00000-left-c000.zstd.parquet", folder / "part-00000-now-c000.zstd.parquet"
    for path in (left, under_way):
        path.write_bytes(Path(lake.files("replay_matrix")[0]).read_bytes())
    long_ago = time.time() - 25 * 3600
    os.utime(left, (long_ago, long_ago))
    clean(lake)
    assert not left.exists() and under_way.exists()
    assert lake.read("replay_matrix").height == 1


def test_purging_leaves_no_word_of_a_replaced_row_in_files_or_log(lake: Lake) -> None:
    folder = Path(lake.uri) / "replay_matrix"

    def holding(word: bytes) -> list[Path]:
        return [path for path in folder.rglob("*") if path.is_file() and word in path.read_bytes()]

    lake.merge("replay_matrix", cells(cell("r1", answer="confidential")))
    lake.replace("replay_matrix", ["r1"], cells(cell("r1", answer="public")))
    assert len(holding(b"confidential")) == 2, "the Parquet file, and the statistics in the log"
    lake.purge("replay_matrix")
    assert holding(b"confidential") == []
    assert lake.read("replay_matrix")["answer"].to_list() == ["public"]


def test_a_reader_of_a_young_version_survives_upkeep(lake: Lake, tmp_path: Path) -> None:
    lake.merge("replay_matrix", cells(cell("r1"), cell("r2")))
    publish(lake, tmp_path / "catalog.duckdb")
    with duckdb.connect(str(tmp_path / "catalog.duckdb"), read_only=True) as reader:
        lake.replace("replay_matrix", ["r1", "r2"], cells(cell("r1", answer="new")))
        lake.maintain(keep=timedelta(hours=1))
        assert reader.execute("SELECT count(*) FROM replay_matrix").fetchall() == [(2,)]


@pytest.fixture
def older_lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A lake written before `latency_s` and `call_keys` were columns."""
    new = TABLES["replay_matrix"]
    columns = tuple(column for column in new.columns if column.name not in ("latency_s", "call_keys"))
    with monkeypatch.context() as before:
        before.setitem(delta_module.TABLES, "replay_matrix", changed(new, columns=columns))
        row = cell("old")
        del row["call_keys"]
        Lake(tmp_path / "lake").merge("replay_matrix", cells(row))
    return Lake(tmp_path / "lake")


def test_files_of_an_older_release_read_with_the_new_columns_empty(older_lake: Lake, tmp_path: Path) -> None:
    assert older_lake.read("replay_matrix").schema == schema_of("replay_matrix")
    assert older_lake.query("SELECT request_id, latency_s, call_keys FROM replay_matrix").rows() == [
        ("old", None, None)
    ]
    assert publish(older_lake, tmp_path / "catalog.duckdb")
    assert ask(tmp_path / "catalog.duckdb", "SELECT count(*), count(latency_s) FROM replay_matrix") == [(1, 0)]


def test_a_lake_of_an_older_release_is_written_to_like_any_other(older_lake: Lake, tmp_path: Path) -> None:
    assert older_lake.merge("replay_matrix", cells(cell("new", latency_s=2.0), cell("old", "s2")))
    assert older_lake.merge("replay_matrix", cells(cell("old", latency_s=3.0)))
    found = older_lake.query(
        "SELECT request_id, strategy_id, latency_s, call_keys FROM replay_matrix ORDER BY ALL"
    ).rows()
    assert found == [
        ("new", "s", 2.0, ["k1", "k2"]),
        ("old", "s", 3.0, ["k1", "k2"]),
        ("old", "s2", None, ["k1", "k2"]),
    ]
    older_lake.maintain()
    assert older_lake.read("replay_matrix").height == 3


# ── catalog ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def ask(catalog: Path, sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(catalog), read_only=True) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.slow
def test_every_view_is_there_from_the_start_empty_and_described(lake: Lake, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.duckdb"
    assert publish(lake, catalog)
    for name, table in TABLES.items():
        assert ask(catalog, f"SELECT count(*) FROM {name}") == [(0,)]
        [[comment]] = ask(catalog, f"SELECT comment FROM duckdb_views() WHERE view_name = '{name}'")
        assert comment == table.rows
        described = ask(catalog, f"SELECT column_name, comment FROM duckdb_columns() WHERE table_name = '{name}'")
        assert described == [(column.name, column.description) for column in table.columns]
        assert all(description for _, description in described)


def test_an_empty_view_has_the_types_of_a_full_one(lake: Lake) -> None:
    with duckdb.connect() as connection:
        for name in TABLES:
            connection.execute(view_sql(name, []))
            empty = connection.execute(f"DESCRIBE {name}").fetchall()
            lake.replace(name, ["b"], frame(name, [{"block_id": "b"}]))
            connection.execute(f"DROP VIEW {name}")
            connection.execute(view_sql(name, lake.files(name)))
            assert connection.execute(f"DESCRIBE {name}").fetchall() == empty


def test_the_catalog_is_published_only_when_the_lake_has_moved(lake: Lake, tmp_path: Path) -> None:
    catalog = tmp_path / "sub" / "catalog.duckdb"
    assert publish(lake, catalog)
    inode = catalog.stat().st_ino
    assert not publish(lake, catalog) and catalog.stat().st_ino == inode
    lake.merge("replay_matrix", cells(cell("r1")))
    assert publish(lake, catalog)
    assert pinned_versions(catalog) == lake.versions()
    assert ask(catalog, "SELECT request_id FROM replay_matrix") == [("r1",)]
    assert [path.name for path in catalog.parent.iterdir()] == ["catalog.duckdb"], "no draft is left"


def test_who_has_the_catalog_open_keeps_the_picture_while_it_is_swapped(lake: Lake, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.duckdb"
    lake.merge("replay_matrix", cells(cell("r1", answer="old")))
    publish(lake, catalog)
    with duckdb.connect(str(catalog), read_only=True) as reader:
        lake.replace("replay_matrix", ["r1", "r2"], cells(cell("r1", answer="new"), cell("r2")))
        assert publish(lake, catalog)
        assert reader.execute("SELECT answer FROM replay_matrix").fetchall() == [("old",)]
    assert ask(catalog, "SELECT count(*) FROM replay_matrix WHERE answer <> 'old'") == [(2,)]


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"not a database", b"\0" * 10_000])
def test_a_broken_catalog_is_simply_written_anew(lake: Lake, tmp_path: Path, content: bytes) -> None:
    catalog = tmp_path / "catalog.duckdb"
    catalog.write_bytes(content)
    assert pinned_versions(catalog) is None
    assert publish(lake, catalog)
    assert pinned_versions(catalog) == lake.versions()
