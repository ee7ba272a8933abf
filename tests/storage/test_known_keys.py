"""What a table may hold is known without reading its files again, and nothing is ever missed, whatever becomes of that."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from qbawa.storage import block_names, known_keys, lake
from qbawa.storage.frames import BLOCK, frame
from qbawa.storage.known_keys import KnownKeys
from qbawa.storage.lake import Lake

TABLE = "recordings"


@pytest.fixture(autouse=True)
def saved_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_keys, "_UNSAVED_FILES", 1)
    monkeypatch.setattr(block_names, "_UNSAVED_FILES", 1)


def rows(block: str, numbers: Sequence[int]) -> pl.DataFrame:
    return frame(TABLE, [{"recording_id": f"s_{n}", "step": "x", "block_id": block} for n in numbers])


def asked(numbers: Sequence[int]) -> pl.DataFrame:
    return pl.DataFrame({"recording_id": [f"s_{n}" for n in numbers]}, schema={"recording_id": pl.String})


def found(held: Lake, numbers: Sequence[int]) -> set[str]:
    return set(held.may_hold(TABLE, asked(numbers))["recording_id"])


def ids(held: Lake) -> set[str]:
    return set(held.read(TABLE, ["recording_id"])["recording_id"])


@pytest.fixture
def lake_of_three(tmp_path: Path) -> Lake:
    made = Lake(tmp_path / "lake")
    for number in range(3):
        made.replace(TABLE, [f"b{number}"], rows(f"b{number}", range(number * 10, number * 10 + 10)))
        found(made, [0])
    return made


def test_only_new_files_are_read_by_this_process_and_by_the_next_one(tmp_path: Path) -> None:
    held = {f"/t/part-{n}.parquet": asked(range(n * 10, n * 10 + 10)) for n in range(5)}
    read: list[str] = []

    def look(files: Sequence[str]) -> pl.DataFrame:
        read.extend(files)
        return pl.concat(held[file] for file in files)

    files = list(held)
    mine = KnownKeys(tmp_path / "known", ["recording_id"])
    assert mine.among(asked([5, 35, 99]), files[:3], look)["recording_id"].to_list() == ["s_5"] and read == files[:3]
    assert set(mine.among(asked([5, 35, 99]), files[:4], look)["recording_id"]) == {"s_5", "s_35"}
    assert read == files[:4]
    # A file that is gone takes nothing with it: what is found is looked for in the table.
    next_one = KnownKeys(tmp_path / "known", ["recording_id"])
    assert set(next_one.among(asked([5, 35, 45]), files[1:], look)["recording_id"]) == {"s_5", "s_35", "s_45"}
    assert read == files


def test_of_several_columns_all_count_and_nothing_is_a_value_like_any_other(tmp_path: Path) -> None:
    at = datetime(2026, 11, 1, tzinfo=UTC)
    opinions = [("r1", at, 1.0, "good"), ("r1", at, None, None), ("r2", at, 0.0, None)]
    key = ["request_id", "given_at", "score", "comment"]
    held = Lake(tmp_path / "lake")
    held.replace(
        "feedback", ["b"], frame("feedback", [dict(zip(key, o, strict=True)) | {"block_id": "b"} for o in opinions])
    )
    strangers = [("r1", at, 1.0, None), ("r1", at + timedelta(microseconds=1), 1.0, "good"), ("r3", at, None, None)]
    for again in (held, Lake(tmp_path / "lake")):
        wanted = frame(
            "feedback", [dict(zip(key, o, strict=True)) for o in (*opinions, *strangers, ("r2", at, -0.0, None))]
        )
        assert set(again.may_hold("feedback", wanted.select(key)).rows()) == set(opinions)


@pytest.mark.hostile
@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_to_a_table_nothing_that_it_holds_is_missed(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    monkeypatch.setattr(lake, "MOST_FILES", 5)
    monkeypatch.setattr(known_keys, "_FILES_AT_ONCE", 2)
    lakes = [Lake(tmp_path / "lake"), Lake(tmp_path / "lake")]
    folder = tmp_path / "lake" / "_known" / TABLE
    for _ in range(40):
        held, block = draw.choice(lakes), f"b{draw.randrange(12)}"
        match draw.choice(["write"] * 6 + ["ask"] * 6 + ["join", "purge", "delete", "lose", "start"]):
            case "write":
                held.replace(TABLE, [block], rows(block, draw.sample(range(200), draw.randrange(30))))
            case "ask":
                wanted = draw.sample(range(300), 100)
                present = ids(held)
                assert {f"s_{n}" for n in wanted} & present <= found(held, wanted)
                assert not found(held, range(200, 300))
                assert held.blocks(TABLE) == set(held.read(TABLE, [BLOCK])[BLOCK])
            case "join":
                held.maintain(keep=timedelta(0))
            case "purge":
                held.purge(TABLE)
            case "delete":
                held.delete(TABLE, f"block_id = '{block}'")
            case "lose":
                if there := sorted(path for path in folder.rglob("*") if path.is_file()):
                    path = draw.choice(there)
                    draw.choice([path.unlink, lambda path=path: path.write_bytes(path.read_bytes()[:-9])])()
            case "start":
                lakes[draw.randrange(2)] = Lake(tmp_path / "lake")
    for held in (*lakes, Lake(tmp_path / "lake")):
        assert ids(held) <= found(held, range(200)) and held.blocks(TABLE) == set(held.read(TABLE, [BLOCK])[BLOCK])


def cut_run(keys: Path) -> None:
    path = max(keys.glob("*.arrow"), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:100])


def other_hashes(keys: Path) -> None:
    """As another version of Polars would have left it: equal keys had other hashes then."""
    content = json.loads((keys / "known.json").read_text()) | {"made_by": "another one"}
    (keys / "known.json").write_text(json.dumps(content))
    for path in keys.glob("*.arrow"):
        path.write_bytes(bytes(len(path.read_bytes())))


@pytest.mark.parametrize(
    "spoil",
    [
        cut_run,
        other_hashes,
        lambda keys: [path.unlink() for path in keys.glob("*.arrow")],
        lambda keys: (keys / "known.json").write_text("[1"),
        lambda keys: (keys / "known.json").write_text("[]"),
        lambda keys: (keys / "known.json").unlink(),
        lambda keys: (keys.parent / "blocks.json").write_text("{"),
    ],
    ids=["cut", "another Polars", "no runs", "broken", "strange", "none", "names"],
)
def test_what_is_known_may_be_spoiled_or_lost_and_is_made_again(
    lake_of_three: Lake, spoil: Callable[[Path], object]
) -> None:
    lake_of_three.blocks(TABLE)
    keys = Path(lake_of_three.uri, "_known", TABLE, "recording_id")
    spoil(keys)
    again = Lake(lake_of_three.uri)
    assert found(again, range(40)) == {f"s_{n}" for n in range(30)} and again.blocks(TABLE) == {"b0", "b1", "b2"}
    again.replace(TABLE, ["b3"], rows("b3", range(30, 40)))
    assert found(again, range(40)) == {f"s_{n}" for n in range(40)}
    # And written down once more.
    healed = json.loads((keys / "known.json").read_text())
    assert len(healed["files"]) == 4
    assert {path.name for path in keys.glob("*.arrow")} == {run["file"] for run in healed["runs"]}
    assert again.blocks(TABLE) and len(json.loads((keys.parent / "blocks.json").read_text())) == 4


def test_a_folder_that_cannot_be_written_ends_nothing(lake_of_three: Lake) -> None:
    shutil.rmtree(Path(lake_of_three.uri, "_known"))
    Path(lake_of_three.uri, "_known").write_text("in the way")
    again = Lake(lake_of_three.uri)
    assert found(again, range(40)) == {f"s_{n}" for n in range(30)} and again.blocks(TABLE) == {"b0", "b1", "b2"}


def test_purging_a_table_leaves_no_hash_of_what_went(lake_of_three: Lake) -> None:
    lake_of_three.delete(TABLE, "block_id = 'b1'")
    assert "s_15" in found(lake_of_three, [15])  # as the file says it did
    lake_of_three.purge(TABLE)
    assert not Path(lake_of_three.uri, "_known", TABLE).exists()
    assert found(lake_of_three, range(30)) == {f"s_{n}" for n in (*range(10), *range(20, 30))}


def test_threads_and_lakes_that_learn_at_once_miss_nothing(lake_of_three: Lake) -> None:
    others = [Lake(lake_of_three.uri) for _ in range(3)]

    def work(number: int) -> set[str]:
        mine = [lake_of_three, *others][number % 4]
        block = f"w{number}"
        mine.replace(TABLE, [block], rows(block, range(100 + number * 5, 105 + number * 5)))
        return {f"s_{100 + number * 5}"} - found(mine, range(300))

    with ThreadPoolExecutor(4) as pool:
        assert set().union(*pool.map(work, range(24))) == set()
    assert found(Lake(lake_of_three.uri), range(300)) == ids(lake_of_three)


_LEARNER = """
import sys
from qbawa.storage import block_names, known_keys
from qbawa.storage.lake import Lake
import polars as pl
known_keys._UNSAVED_FILES = block_names._UNSAVED_FILES = 1
lake, start = Lake(sys.argv[1]), int(sys.argv[2])
print("begun", flush=True)
for n in range(start, start + 1000):
    ids = [f"s_{n}_{k}" for k in range(20)]
    lake.replace("recordings", [f"b{n}"], pl.DataFrame({"recording_id": ids, "block_id": f"b{n}"}))
    assert lake.may_hold("recordings", pl.DataFrame({"recording_id": ids})).height == 20
    lake.blocks("recordings")
"""


@pytest.mark.hostile
@pytest.mark.slow  # processes that import Delta and Polars, killed
def test_killed_at_any_moment_it_misses_nothing_afterwards(tmp_path: Path) -> None:
    uri, draw = str(tmp_path / "lake"), random.Random(0)
    for number in range(3):
        learners = [
            subprocess.Popen(
                [sys.executable, "-c", _LEARNER, uri, str(number * 10_000 + k * 1_000)], stdout=subprocess.PIPE
            )
            for k in range(2)
        ]
        for learner in learners:
            assert learner.stdout is not None and learner.stdout.readline() == b"begun\n"
        time.sleep(draw.uniform(0.3, 0.8))
        for learner in learners:
            learner.kill()
            learner.communicate()
        held = Lake(uri)
        there = held.read(TABLE, ["recording_id"])
        assert there.height and held.may_hold(TABLE, there).height == there.height
        assert held.blocks(TABLE) == set(held.read(TABLE, [BLOCK])[BLOCK])
        assert held.may_hold(TABLE, pl.DataFrame({"recording_id": ["s_x"]})).is_empty()
