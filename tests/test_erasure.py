"""Forgetting a request."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from small_lake import STEP, TOPICS, build, make

from qbawa.erasure import forget
from qbawa.errors import BusyError, InputError
from qbawa.ingest.stage import ingest_batch, pending_batches
from qbawa.project import Home
from qbawa.storage.frames import frame, schema_of
from qbawa.storage.journal import JournalWriter, closed_segments, read_lines
from qbawa.storage.lake import Lake
from qbawa.storage.tables import TABLES

pytestmark = pytest.mark.slow

GONE = "r_3"


@pytest.fixture
def filled(tmp_path: Path) -> tuple[Home, Lake]:
    return make(tmp_path)


def parquet_texts(lake: Lake) -> str:
    """Everything in every Parquet file under the lake, live or dead."""
    found = []
    for path in Path(lake.uri).rglob("*.parquet"):
        found += [str(row) for row in pl.read_parquet(path, glob=False).rows()]
    return "\n".join(found)


def test_no_parquet_file_of_the_lake_holds_a_byte_of_a_forgotten_request(filled: tuple[Home, Lake]) -> None:
    home, lake = filled
    before = parquet_texts(lake)
    assert TOPICS[3] in before and f"'{GONE}'" in before
    forget(lake, home, GONE, rebuild=lambda steps: build(lake))
    after = parquet_texts(lake)
    assert TOPICS[3] not in after
    assert f"'{GONE}'" not in after
    assert TOPICS[2] in after


def test_forgetting_removes_the_request_from_every_table_and_nothing_else(filled: tuple[Home, Lake]) -> None:
    home, lake = filled
    tables = [name for name in TABLES if "request_id" in schema_of(name)]
    kept = {name: lake.read(name, keep=pl.col("request_id") != GONE).height for name in tables}
    report = forget(lake, home, GONE)
    for name in tables:
        assert lake.read(name, keep=pl.col("request_id") == GONE).is_empty(), name
        assert lake.read(name).height == kept[name], name
    assert report.rows["calls"] == 3 + 6
    assert report.stale_steps == [STEP]


def test_the_exported_dataset_that_still_holds_it_is_named_again_and_again(filled: tuple[Home, Lake]) -> None:
    home, lake = filled
    path = lake.read("datasets")["path"][0]
    assert forget(lake, home, GONE).datasets == [path]
    assert forget(lake, home, GONE).datasets == [path]


def test_an_unknown_request_is_an_error(filled: tuple[Home, Lake]) -> None:
    home, lake = filled
    with pytest.raises(InputError, match="r_nobody"):
        forget(lake, home, "r_nobody")


def test_a_call_that_another_request_shares_word_for_word_stays_under_its_name(filled: tuple[Home, Lake]) -> None:
    home, lake = filled
    shared = lake.read("replay_matrix", blocks=[GONE])["call_keys"][0][0]
    twin = frame(
        "replay_matrix",
        [
            {
                "cell_id": "twin",
                "request_id": "r_twin",
                "step": STEP,
                "strategy_id": "s_best",
                "sample": 0,
                "answer": lake.read("calls", keep=pl.col("call_key") == shared)["response_text"][0],
                "status": "ok",
                "call_keys": [shared],
                "block_id": "r_twin",
            }
        ],
    )
    asked = lake.read("recordings", keep=pl.col("request_id") == GONE).with_columns(
        request_id=pl.lit("r_twin"), recording_id=pl.lit("rec_twin"), block_id=pl.lit("b_2")
    )
    lake.replace("replay_matrix", ["r_twin"], twin)
    lake.replace("recordings", ["b_2"], asked)
    report = forget(lake, home, GONE)
    assert report.reassigned_calls == 1
    assert lake.read("calls", keep=pl.col("call_key") == shared)["request_id"].to_list() == ["r_twin"]


def test_a_few_shot_strategy_that_quotes_the_request_is_retired_and_its_calls_go(filled: tuple[Home, Lake]) -> None:
    home, lake = filled
    template = json.dumps({"examples": [{"topic": TOPICS[3], "answer": "…"}]})
    row = (
        lake.read("strategies")
        .head(1)
        .with_columns(strategy_id=pl.lit("s_shots"), template=pl.lit(template), origin=pl.lit("few_shot"))
    )
    lake.merge("strategies", row)
    call = (
        lake.read("calls")
        .head(1)
        .with_columns(
            call_key=pl.lit("quoting"), request_id=pl.lit("r_5"), messages=pl.lit(template), block_id=pl.lit("seg_9")
        )
    )
    lake.replace("calls", ["seg_9"], call)
    report = forget(lake, home, GONE)
    assert report.strategies == ["s_shots"]
    assert lake.read("calls", blocks=["seg_9"]).is_empty()
    assert TOPICS[3] not in parquet_texts(lake)


def test_a_system_prompt_that_everyone_has_is_not_mistaken_for_the_requests_own(filled: tuple[Home, Lake]) -> None:
    home, lake = filled
    prompt = {"role": "system", "content": "You are a patient teacher of everything under the sun."}
    everyone = lake.read("recordings").with_columns(
        messages=pl.col("messages").map_elements(lambda m: json.dumps([prompt, *json.loads(m)]), return_dtype=pl.String)
    )
    lake.replace("recordings", ["b_1"], everyone)
    calls = lake.read("calls").with_columns(pl.lit(json.dumps([prompt])).alias("messages"), block_id=pl.lit("seg_1"))
    lake.replace("calls", ["seg_1", "seg_2"], calls)
    assert forget(lake, home, GONE).rows["calls"] == 9


def step_line(request: str, text: str) -> bytes:
    line = {
        "v": 1,
        "kind": "step",
        "recording_id": f"j_{request}",
        "request_id": request,
        "step": STEP,
        "started_at": "2026-11-01T00:00:00Z",
        "inputs": {"topic": text},
        "output": text,
    }
    return json.dumps(line).encode()


def test_ingesting_the_journal_again_does_not_bring_it_back(tmp_path: Path) -> None:
    home = Home(tmp_path)
    lake = Lake(home.lake)
    with JournalWriter(home.journal) as writer:
        for request in ("r_1", "r_30", "r_3"):
            writer.append(step_line(request, f"the text of {request} which nobody else has"))
        writer.append(b'{"torn": "r_3')
    for batch in pending_batches(lake, [home.journal]):
        ingest_batch(lake, batch)
    assert lake.read("recordings").height == 3
    report = forget(lake, home, "r_3")
    assert report.journal_lines == 2
    assert pending_batches(lake, [home.journal]) == []
    assert lake.read("recordings")["request_id"].sort().to_list() == ["r_1", "r_30"]
    assert lake.read("quarantine").is_empty()
    lines = [line for segment in closed_segments(home.journal) for line in read_lines(segment)]
    assert [json.loads(line)["request_id"] for line in lines] == ["r_1", "r_30"]
    fresh = Lake(tmp_path / "other")
    for batch in pending_batches(fresh, [home.journal]):
        ingest_batch(fresh, batch)
    assert fresh.read("recordings")["request_id"].sort().to_list() == ["r_1", "r_30"]


def test_a_segment_that_is_still_being_written_is_not_touched(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with JournalWriter(home.journal) as writer:
        writer.append(step_line("r_3", "text"))
        writer.sync()
        with pytest.raises(BusyError, match="r_3"):
            forget(Lake(home.lake), home, "r_3")


def test_journalled_calls_that_have_not_landed_are_forgotten_too(tmp_path: Path) -> None:
    home, lake = make(tmp_path)
    line = {
        "kind": "call",
        "call_key": "late",
        "purpose": "replay",
        "model": "m",
        "request_id": GONE,
        "messages": [],
        "params": {},
        "response_text": "late answer",
        "sample": 0,
        "called_at": "2026-11-01T00:00:00+00:00",
    }
    with JournalWriter(home.calls) as writer:
        writer.append(json.dumps(line).encode())
        writer.append(json.dumps(line | {"call_key": "other", "request_id": "r_1"}).encode())
    forget(lake, home, GONE)
    assert lake.read("calls", keep=pl.col("call_key").is_in(["late", "other"]))["call_key"].to_list() == ["other"]
    assert not any(
        b"late answer" in p.read_bytes() and b'"late"' in p.read_bytes() for p in home.calls.rglob("*.jsonl")
    )
