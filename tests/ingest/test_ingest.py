"""Segments in, rows out: every good line once, every bad line quarantined, whatever happens in between."""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import qbawa.ingest.journal_lines as lines_module
from qbawa.errors import InputError
from qbawa.ingest.batches import all_batches, load_batch
from qbawa.ingest.block_writer import BlockWriter, blocks_of, is_complete
from qbawa.ingest.journal_lines import REASONS, BadLine, read_line
from qbawa.ingest.line_reader import numbered_lines
from qbawa.ingest.stage import ingest_batch, pending_batches
from qbawa.storage.journal import JournalWriter
from qbawa.storage.lake import Lake


def step(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "v": 1, "kind": "step", "recording_id": f"s_{number}", "request_id": f"r_{number}", "parent_id": None,
        "pipeline": "p", "step": "answer", "inputs": {"question": "why?"}, "messages": None, "output": "because",
        "model": "m", "parameters": {"temperature": 0}, "input_tokens": 3, "output_tokens": 1, "cost_usd": 0.01,
        "started_at": "2026-11-20T10:00:00.000001+00:00", "latency_s": 0.5, "error": None, "tags": {"plan": "pro"},
        "user": "u", "llm_calls": 1,
    } | changes  # fmt: skip


def line(number: int = 0, **changes: Any) -> bytes:
    return json.dumps(step(number, **changes), ensure_ascii=False).encode()


BAD: dict[str, list[bytes]] = {
    "empty": [b"", b"  \t"],
    "nul": [b"\0" * 512, line()[:20] + b"\0" + line()[20:]],
    "not_utf8": [line(output="x").replace(b'"x"', b'"\xff\xfe"'), line(inputs={"a": "Z"}).replace(b'"Z"', b'"\xc3("')],
    "truncated": [line()[: len(line()) // 2], line()[:-1]],
    "malformed": [b"nonsense", line() + b"}", line(cost_usd=float("nan")), json.dumps(step(output="\ud800")).encode()],
    "too_deep": [line(output=None).replace(b'"output": null', b'"output": ' + b"[" * n + b"]" * n) for n in (201, 100_000)],
    "not_an_object": [b"[]", b'"text"', b"null", b"17"],
    "missing_field": [b'{"kind":"step"}', b'{"v":1}', b'{"v":1,"kind":"step"}', b'{"v":1,"kind":"feedback","score":1}'],
    "wrong_type": [
        line(recording_id=7), line(request_id=""), line(inputs=[1]), line(messages="hi"), line(messages=[1]),
        line(parameters="x"), line(error="boom"), line(tags=[]), line(input_tokens=-1), line(output_tokens=2**60),
        line(cost_usd="free"), line(latency_s=-1), line(started_at="yesterday"), line(started_at=1e300), line(v="1"),
        line(inputs={"n": "N"}).replace(b'"N"', b"9" * 5_000), line().replace(b'"latency_s": 0.5', b'"latency_s": 1e999'),
    ],
    "unknown_kind": [line(kind="hologram"), line(kind=3)],
    "future_version": [line(v=2), line(v=2, kind="hologram", inputs=7)],
}  # fmt: skip


def drop(journal: Path, *lines: bytes) -> Path:
    """A closed segment with these lines."""
    with JournalWriter(journal) as writer:
        for item in lines:
            writer.append(item)
        writer.sync()
        segment = writer.segment
    assert segment is not None
    return segment.with_suffix(".jsonl")


def ingest_all(lake: Lake, journal: Path) -> list[Any]:
    return [ingest_batch(lake, batch) for batch in pending_batches(lake, [journal])]


@pytest.mark.parametrize("reason", BAD)
def test_bad_lines_get_their_reason(reason: str) -> None:
    found = [read_line(item) for item in BAD[reason]]
    assert [bad.reason if isinstance(bad, BadLine) else bad for bad in found] == [reason] * len(found)


def test_every_reason_is_explained() -> None:
    assert set(BAD) | {"too_large", "duplicate", "unreadable_call"} == set(REASONS)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_line_makes_the_reader_raise(raw: bytes) -> None:
    read_line(raw)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), _json, max_size=4), _json)
def test_values_reach_the_row_unchanged(inputs: dict[str, Any], output: Any) -> None:
    raw = json.dumps(step(inputs=inputs, output=output)).encode("utf-8", "replace")
    if any("\ud800" <= c <= "\udfff" for c in json.dumps([inputs, output], ensure_ascii=False)):
        return
    item = read_line(raw)
    assert isinstance(item, lines_module.Step)
    assert json.loads(lines_module.text(item.inputs) or "null") == inputs
    text = lines_module.plain(item.output)
    assert text == output if isinstance(output, str | None) else json.loads(text or "") == output


def test_good_lines_come_in_and_bad_lines_are_quarantined_and_counts_agree(tmp_path: Path) -> None:
    bad = [(reason, raw) for reason, raws in BAD.items() for raw in raws]
    mixed: list[bytes] = []
    for number, (_, raw) in enumerate(bad):
        mixed += [line(number), raw]
    feedback = json.dumps({"v": 1, "kind": "feedback", "request_id": "r_0", "score": 1, "comment": "ok", "at": 1.7e9})
    mixed += [line(0), feedback.encode(), feedback.encode(), b'{"v":1,"kind":"request","request_id":"r_0"}']
    lake = Lake(tmp_path / "lake")
    segment = drop(tmp_path / "journal", *mixed)
    (report,) = ingest_all(lake, tmp_path / "journal")

    recordings, quarantine = lake.read("recordings"), lake.read("quarantine").sort("line")
    assert sorted(recordings["recording_id"]) == sorted(f"s_{number}" for number in range(len(bad)))
    expected = Counter(reason for reason, _ in bad) + Counter(duplicate=2)
    assert Counter(reason.split(":")[0] for reason in quarantine["reason"]) == expected == Counter(report.by_reason)
    assert (report.rows, report.feedback, report.quarantined) == (len(bad), 1, expected.total())
    assert report.lines == len(mixed) == report.rows + report.feedback + report.requests + report.quarantined
    assert set(quarantine["file"]) == {segment.name}
    assert quarantine["line"].to_list()[0] == 2 and "\0" not in "".join(quarantine["raw"])
    assert all(len(raw) <= 4 * 65536 for raw in quarantine["raw"])


def test_a_row_says_what_the_line_said(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    drop(
        tmp_path / "journal", line(3, messages=[{"role": "user", "content": "hé"}], error={"type": "E", "message": "x"})
    )
    ingest_all(lake, tmp_path / "journal")
    (row,) = lake.query("SELECT * FROM recordings").to_dicts()
    assert row["strategy_id"] == "recorded-answer" and row["output"] == "because" and row["cost_usd"] == 0.01
    assert json.loads(row["messages"]) == [{"role": "user", "content": "hé"}]
    assert json.loads(row["error"])["type"] == "E" and json.loads(row["tags"]) == {"plan": "pro"}
    assert row["recorded_at"].isoformat() == "2026-11-20T10:00:00.000001+00:00"


def test_tags_that_a_request_got_later_stand_on_its_steps(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    end = {"v": 1, "kind": "request", "request_id": "r_1", "tags": {"plan": "free", "consent": True}}
    drop(tmp_path / "journal", line(1, tags={"plan": "pro", "lang": "en"}), line(2), json.dumps(end).encode())
    ingest_all(lake, tmp_path / "journal")
    tags = dict(lake.read("recordings", ["request_id", "tags"]).iter_rows())
    assert json.loads(tags["r_1"]) == {"plan": "free", "lang": "en", "consent": True}
    assert json.loads(tags["r_2"]) == {"plan": "pro"}


def test_ingesting_again_changes_nothing(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    drop(tmp_path / "journal", line(1), b"broken", line(1), line(2))
    ingest_all(lake, tmp_path / "journal")
    before = lake.versions()
    (batch,) = all_batches([tmp_path / "journal"])
    again = ingest_batch(Lake(tmp_path / "lake"), load_batch(batch.name, [tmp_path / "journal"]))
    assert lake.versions() == before and not again.changed and (again.rows, again.quarantined) == (2, 2)
    assert pending_batches(lake, [tmp_path / "journal"]) == []


def test_late_segments_form_a_batch_of_their_own(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    drop(tmp_path / "journal", line(1))
    (first,) = ingest_all(lake, tmp_path / "journal")
    drop(tmp_path / "journal", line(2))
    (second,) = ingest_all(lake, tmp_path / "journal")
    assert first.batch != second.batch and lake.blocks("recordings") == {first.batch, second.batch}


def test_a_segment_dropped_twice_is_taken_once(tmp_path: Path) -> None:
    journal, lake = tmp_path / "journal", Lake(tmp_path / "lake")
    segment = drop(journal, line(1))
    ingest_all(lake, journal)
    shutil.copy(segment, journal / "again.jsonl")
    (tmp_path / "more").mkdir()
    shutil.copy(segment, tmp_path / "more" / segment.name)
    assert pending_batches(lake, [journal, tmp_path / "more"]) == []


def test_a_recording_of_an_earlier_batch_is_not_taken_again(tmp_path: Path) -> None:
    journal, lake = tmp_path / "journal", Lake(tmp_path / "lake")
    drop(journal, line(1), line(2))
    ingest_all(lake, journal)
    drop(journal, line(2, output="other"), line(3))
    (report,) = ingest_all(lake, journal)
    assert report.rows == 1 and report.by_reason == {"duplicate": 1}
    assert dict(lake.read("recordings", ["recording_id", "output"]).iter_rows())["s_2"] == "because"


def test_losing_the_manifests_doubles_nothing(tmp_path: Path) -> None:
    journal, lake = tmp_path / "journal", Lake(tmp_path / "lake")
    drop(journal, line(1))
    ingest_all(lake, journal)
    drop(journal, line(2))
    shutil.rmtree(journal / "batches")
    ingest_all(lake, journal)
    assert sorted(lake.read("recordings")["recording_id"]) == ["s_1", "s_2"]


def test_a_batch_whose_writing_was_cut_short_is_still_pending(tmp_path: Path) -> None:
    journal, lake = tmp_path / "journal", Lake(tmp_path / "lake")
    drop(journal, *(line(number) for number in range(20)))
    (batch,) = pending_batches(lake, [journal])
    writer = BlockWriter(lake, batch.name, "journal", block_bytes=2_000)
    for number, raw in numbered_lines(batch.segments[0].path):
        writer.add("segment", number, raw, read_line(raw))  # never closed, as after kill -9
    assert 0 < lake.read("recordings").height < 20
    assert not is_complete(lake, batch.name) and pending_batches(lake, [journal]) == [batch]
    ingest_batch(lake, batch)
    assert lake.read("recordings").height == 20 and blocks_of(lake, batch.name, "recordings") == [batch.name]


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 12), min_size=1, max_size=14), st.integers(1, 6_000))
def test_the_size_of_blocks_does_not_change_what_is_in_them(
    tmp_path_factory: Any, numbers: list[int], size: int
) -> None:
    raws = [line(n) if n % 4 else BAD["truncated"][0] for n in numbers]
    found = []
    for block_bytes in (size, 1 << 30):
        lake = Lake(tmp_path_factory.mktemp("lake"))
        writer = BlockWriter(lake, "b", "journal", block_bytes=block_bytes)
        for number, raw in enumerate(raws):
            writer.add("f", number, raw, read_line(raw))
        counts = writer.close()
        rows, bad = lake.read("recordings"), lake.read("quarantine")
        assert is_complete(lake, "b") and (rows.height, bad.height) == (counts.rows, counts.quarantined)
        found.append((sorted(rows["recording_id"]), bad.select("line", "reason").sort("line").rows()))
    assert found[0] == found[1]


def test_requests_that_merely_ended_in_a_segment_leave_nothing_pending(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    drop(tmp_path / "journal", b'{"v":1,"kind":"request","request_id":"r_0","tags":{}}')
    (report,) = ingest_all(lake, tmp_path / "journal")
    assert report.requests == 1 and pending_batches(lake, [tmp_path / "journal"]) == []


def test_a_batch_holds_no_more_than_its_bytes_unless_one_segment_does(tmp_path: Path) -> None:
    for number in range(5):
        drop(tmp_path / "journal", line(number), b"x" * (5_000 if number == 2 else 0))
    batches = pending_batches(Lake(tmp_path / "lake"), [tmp_path / "journal"], batch_bytes=2_000)
    assert sum(len(batch.segments) for batch in batches) == 5
    sizes = [[segment.bytes for segment in batch.segments] for batch in batches]
    assert all(sum(size) <= 2_000 or len(size) == 1 for size in sizes)


def test_the_segment_of_a_dead_writer_is_ingested_without_its_torn_line(tmp_path: Path) -> None:
    (tmp_path / "20260101T000000.000000Z-1-aa.open").write_bytes(line(1) + b"\n" + line(2)[:40])
    lake = Lake(tmp_path / "lake")
    (report,) = ingest_all(lake, tmp_path)
    assert (report.rows, report.quarantined) == (1, 0)


def test_a_line_beyond_the_limit_is_never_held_whole(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a" * 10 + b"\r\n" + b"b" * 500_000 + b"\n\n" + b"c" * 12 + b"\nend")
    found = list(numbered_lines(tmp_path / "f", limit=11))
    assert [(n, len(raw)) for n, raw in found] == [(1, 10), (2, 12), (3, 0), (4, 12), (5, 3)]


def test_a_line_beyond_the_limit_is_quarantined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "MAX_LINE_BYTES", 1_000)
    assert str(read_line(line(output="x" * 2_000))).startswith("too_large")


def test_an_unknown_batch_and_a_lost_segment_are_named(tmp_path: Path) -> None:
    journal, lake = tmp_path / "journal", Lake(tmp_path / "lake")
    segment = drop(journal, line(1))
    (batch,) = pending_batches(lake, [journal])
    with pytest.raises(InputError, match="no recording batch 'b_x'"):
        load_batch("b_x", [journal])
    segment.unlink()
    with pytest.raises(InputError, match=segment.name):
        ingest_batch(lake, batch)


def test_a_home_can_be_moved(tmp_path: Path) -> None:
    drop(tmp_path / "old", line(1))
    (batch,) = pending_batches(Lake(tmp_path / "lake"), [tmp_path / "old"])
    (tmp_path / "old").rename(tmp_path / "new")
    assert ingest_batch(Lake(tmp_path / "lake"), load_batch(batch.name, [tmp_path / "new"])).rows == 1


def test_what_the_recorder_writes_is_ingested_whole(tmp_path: Path, journal: Path) -> None:
    import qbawa

    @qbawa.step
    def outer(text: str) -> dict[str, Any]:
        return {"answer": inner(text), "odd": [float("inf"), {1, 2}, b"\xff", "\ud800"]}

    @qbawa.step
    def inner(text: str) -> str:
        return text.upper()

    with qbawa.request(user="u", tags={"plan": "pro"}) as request:
        outer("hé")
        request.feedback(score=0, comment="no")
    qbawa.flush()
    lake = Lake(tmp_path / "lake")
    for open_segment in journal.glob("*.open"):
        shutil.copy(open_segment, journal / f"{open_segment.stem}-copy.jsonl")
    reports = ingest_all(lake, journal)
    rows = lake.read("recordings").sort("step").to_dicts()
    assert sum(report.quarantined for report in reports) == 0
    assert [row["step"].rsplit(".")[-1] for row in rows] == ["inner", "outer"]
    assert rows[0]["parent_id"] == rows[1]["recording_id"] and rows[0]["output"] == "HÉ"
    assert lake.read("feedback").select("score", "comment").rows() == [(0.0, "no")]


_INGEST = """
import sys
from pathlib import Path
from qbawa.ingest.stage import pending_batches
from qbawa.ingest.stage import ingest_batch
from qbawa.ingest import block_writer as blocks
from qbawa.storage.lake import Lake
blocks.BlockWriter.__init__.__kwdefaults__["block_bytes"] = 4_000
folder = Path(sys.argv[1])
print("begun", flush=True)
for batch in pending_batches(Lake(folder / "lake"), [folder / "journal"]):
    ingest_batch(Lake(folder / "lake"), batch)
"""


@pytest.mark.hostile
@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.3])
def test_kill_9_at_any_moment_loses_nothing_and_doubles_nothing(tmp_path: Path, after_s: float) -> None:
    numbers = range(60)
    drop(tmp_path / "journal", *(line(number) for number in numbers), b"broken", line(0))
    victim = subprocess.Popen([sys.executable, "-c", _INGEST, str(tmp_path)], stdout=subprocess.PIPE)
    assert victim.stdout is not None and victim.stdout.readline() == b"begun\n"
    time.sleep(after_s)
    victim.kill()
    victim.communicate()
    lake = Lake(tmp_path / "lake")
    ingest_all(lake, tmp_path / "journal")
    assert sorted(lake.read("recordings")["recording_id"]) == sorted(f"s_{number}" for number in numbers)
    assert sorted(reason.split(":")[0] for reason in lake.read("quarantine")["reason"]) == ["duplicate", "malformed"]
