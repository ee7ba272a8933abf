"""Forgetting a request."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from small_lake import STEP, TOPICS, build, make

from qbawa.erasure import forget
from qbawa.erasure.plan import make_plan
from qbawa.errors import BusyError, InputError
from qbawa.ingest.stage import ingest_batch, pending_batches
from qbawa.project import Home
from qbawa.storage.frames import frame, schema_of
from qbawa.storage.journal import JournalWriter, closed_segments, read_lines
from qbawa.storage.lake import Lake
from qbawa.storage.occupancy import UNFINISHED, in_use
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


def test_exported_versions_that_hold_it_go_and_are_named(filled: tuple[Home, Lake]) -> None:
    home, lake = filled
    path = lake.read("datasets")["path"][0]
    draft = home.exports / "d" / ".staging-killed"
    draft.mkdir()
    (draft / "train.jsonl").write_text(TOPICS[3])
    report = forget(lake, home, GONE)
    assert report.datasets == [path] and report.copies == []
    assert list((home.exports / "d").iterdir()) == []
    assert lake.read("datasets").is_empty()


def test_a_version_that_another_home_exported_is_named_and_left(filled: tuple[Home, Lake], tmp_path: Path) -> None:
    home, lake = filled
    elsewhere = tmp_path / "other" / "d" / "v"
    shutil.copytree(lake.read("datasets")["path"][0], elsewhere)
    lake.merge("datasets", lake.read("datasets").with_columns(version=pl.lit("v"), path=pl.lit(str(elsewhere))))
    assert forget(lake, home, GONE).copies == [str(elsewhere)]
    assert (elsewhere / "lineage.parquet").exists()


def test_the_config_and_notes_that_mention_it_are_named_with_their_line(filled: tuple[Home, Lake]) -> None:
    home, lake = filled
    home.config.write_text("replay_set:\n  pin: [r_30, r_3]\n")
    (home.root / "notes.md").write_text(f"r_30 is fine\nr_31 too\n{TOPICS[3]}\n")
    assert forget(lake, home, GONE).files == [f"{home.root / 'notes.md'}:3", f"{home.config}:2"]


def test_a_typo_leaves_old_versions_alone(filled: tuple[Home, Lake]) -> None:
    home, lake = filled
    before = lake.versions()
    with pytest.raises(InputError, match="Nothing holds"):
        forget(lake, home, "r_nobody")
    assert lake.versions() == before and not (home.root / UNFINISHED).exists()


def test_people_s_tables_lose_the_rows_of_the_request_alone(filled: tuple[Home, Lake]) -> None:
    home, lake = filled
    people = home.root / "human_verdicts"
    people.mkdir()
    table = pl.DataFrame({"request_id": ["r_3", "r_30"], "verdict": ["a", "b, or so"]})
    table.write_csv(people / "answer.anna.csv")
    table.write_ndjson(people / "answer.bob.jsonl")
    table.write_parquet(people / "answer.eve.parquet")
    (people / "answer.list.json").write_text(json.dumps(table.to_dicts()))
    written = (people / "answer.anna.csv").stat().st_mtime_ns
    assert forget(lake, home, GONE).verdict_rows == 4
    left = table.filter(pl.col("request_id") == "r_30")
    assert pl.read_csv(people / "answer.anna.csv").equals(left)
    assert pl.read_ndjson(people / "answer.bob.jsonl").equals(left)
    assert pl.read_parquet(people / "answer.eve.parquet").equals(left)
    assert json.loads((people / "answer.list.json").read_text()) == left.to_dicts()
    # No new verdicts, so nothing for the sensor.
    assert (people / "answer.anna.csv").stat().st_mtime_ns == written


def test_it_refuses_while_somebody_writes_and_keeps_others_out_until_it_is_finished(filled: tuple[Home, Lake]) -> None:
    home, lake = filled
    with in_use(home.root), pytest.raises(BusyError, match="writing"):
        forget(lake, home, GONE)

    def killed(plan: Path, resumed: bool) -> dict[str, int]:
        assert not resumed
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forget(lake, home, GONE, elsewhere=killed)
    with pytest.raises(BusyError, match="--resume"), in_use(home.root):
        pass
    with pytest.raises(InputError, match=GONE):
        forget(lake, home, "r_4")
    seen = []
    forget(lake, home, GONE, elsewhere=lambda plan, resumed: seen.append(resumed) or {})  # type: ignore[func-returns-value]
    assert seen == [True]
    with in_use(home.root):
        assert TOPICS[3] not in parquet_texts(lake)


def test_drafts_of_killed_writers_go_from_the_lake(filled: tuple[Home, Lake]) -> None:
    home, lake = filled
    table = Path(lake.uri) / "replay_matrix"
    drafts = [table / "part-orphan.parquet", table / "_delta_log" / "_commit_1.json.tmp", table / "part.parquet#1"]
    for draft in drafts:
        draft.write_text(TOPICS[3])
    forget(lake, home, GONE)
    assert not any(draft.exists() for draft in drafts)
    assert Lake(lake.uri).read("replay_matrix").height == 7 * 3


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


def test_what_the_model_thought_and_what_was_sent_identify_the_request_too(filled: tuple[Home, Lake]) -> None:
    _, lake = filled
    own = pl.col("request_id") == GONE
    rows = lake.read("recordings").with_columns(
        reasoning=pl.when(own).then(pl.lit("She asks about her divorce in Leipzig.")).otherwise("reasoning"),
        request=pl.when(own)
        .then(pl.lit(json.dumps({"input": "the flat in the Karl-Heine-Strasse"})))
        .otherwise("request"),
    )
    lake.replace("recordings", rows["block_id"].unique().to_list(), rows)
    said = " ".join(make_plan(lake, Home(Path(lake.uri).parent), GONE).pieces)
    assert "about her divorce" in said and "Karl-Heine" in said
