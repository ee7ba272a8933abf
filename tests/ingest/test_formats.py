"""Logs of others become the same rows that the recorder makes, once, with every unreadable record kept aside."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qbawa.errors import InputError
from qbawa.importing import FORMATS, detect, import_file
from qbawa.ingest.formats.records import records
from qbawa.ingest.formats.step_rows import BadRecordError, moment
from qbawa.storage.lake import Lake

FIXTURES = Path(__file__).parents[1] / "fixtures" / "imports"
FORMAT_OF = {
    "batch.jsonl": "batch",
    "claude_code.jsonl": "agent",
    "codex.jsonl": "agent",
    "inspect.json": "inspect",
    "langfuse_download.json": "langfuse",
    "langsmith.jsonl": "langsmith",
    "langsmith_posted.json": "langsmith",
    "litellm.jsonl": "litellm",
    "phoenix.json": "phoenix",
    "phoenix_frame.jsonl": "phoenix",
    "chat.jsonl": "chat",
    "journal.jsonl": "journal",
    "langfuse_api.json": "langfuse",
    "langfuse_blob.jsonl": "langfuse",
    "llmonpy.json": "llmonpy",
    "nvidia.jsonl": "nvidia",
    "openai.jsonl": "openai",
    "otlp_genai.jsonl": "otlp",
    "otlp_openinference.json": "otlp",
    "preferences.jsonl": "preferences",
    "alpaca_eval.json": "alpaca_eval",
    "promptfoo.json": "promptfoo",
    "mt_bench.jsonl": "mt_bench",
    "oasst.jsonl": "oasst",
    "sharegpt.json": "sharegpt",
}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def rows_of(lake: Lake, name: str, **options: Any) -> list[dict[str, Any]]:
    import_file(lake, FIXTURES / name, **options)
    rows = lake.read("recordings").sort("recorded_at", "recording_id").to_dicts()
    for row in rows:
        for column in ("inputs", "messages", "parameters", "error", "tags"):
            row[column] = json.loads(row[column]) if row[column] else None
    return rows


def by_step(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["step"]: row for row in rows}


def test_every_format_has_a_fixture_that_detects_itself() -> None:
    assert {path.name: detect(path) for path in FIXTURES.iterdir()} == FORMAT_OF
    assert set(FORMAT_OF.values()) == set(FORMATS)


@pytest.mark.parametrize("name", FORMAT_OF)
def test_importing_again_changes_nothing(lake: Lake, name: str) -> None:
    first = import_file(lake, FIXTURES / name)
    versions = lake.versions()
    assert first.changed and not import_file(Lake(lake.uri), FIXTURES / name).changed
    assert lake.versions() == versions


@pytest.mark.parametrize("name", FORMAT_OF)
def test_a_dry_run_counts_the_same_and_writes_nothing(lake: Lake, name: str) -> None:
    dry = import_file(lake, FIXTURES / name, dry_run=True)
    assert not dry.changed and all(lake.read(t).is_empty() for t in ("recordings", "feedback", "quarantine", "matches"))
    wet = import_file(lake, FIXTURES / name)
    assert (dry.rows, dry.feedback, dry.by_reason, dry.steps) == (wet.rows, wet.feedback, wet.by_reason, wet.steps)
    assert (wet.rows, wet.quarantined) == (lake.read("recordings").height, lake.read("quarantine").height)


def test_chat_logs_keep_question_answer_and_what_else_they_tell(lake: Lake) -> None:
    explain, *rest = rows_of(lake, "chat.jsonl")
    by_output = {row["output"]: row for row in [explain, *rest]}
    sky = by_output["Rayleigh scattering."]
    assert (
        sky["step"] == "explain" and sky["user"] == "u1" and sky["tags"] == {"plan": "pro"} and sky["latency_s"] == 0.8
    )
    assert sky["inputs"] == {"question": "Why is the sky blue?"} and sky["messages"][0]["role"] == "system"
    prime = by_output["101"]
    assert (prime["model"], prime["input_tokens"], prime["output_tokens"]) == ("small-1-2026", 14, 2)
    assert by_output["Hi!"]["messages"] == [{"role": "user", "content": "Say hi."}]
    assert by_output["An answer."]["messages"][0]["content"] == "not a list of objects but one question"
    assert any('"tool_calls"' in (row["output"] or "") for row in rest)
    assert [r.split(":")[0] for r in lake.read("quarantine").sort("line")["reason"]] == ["wrong_type", "truncated"]


def test_openai_pairs_of_both_apis_the_batch_api_and_failures(lake: Lake) -> None:
    rows = rows_of(lake, "openai.jsonl")
    assert [row["output"] for row in rows] == ["It rains.", "4", "Yes.", None]
    assert rows[0]["parameters"] == {"temperature": 0.2, "max_tokens": 50} and rows[0]["user"] == "u7"
    assert [m["role"] for m in rows[1]["messages"]] == ["system", "user"] and rows[1]["output_tokens"] == 1
    assert rows[2]["request_id"] == "job-1" and rows[2]["model"] == "gpt-x"
    assert rows[3]["error"]["type"] == "rate_limit_error" and "Rate limit" in rows[3]["error"]["message"]


def test_nvidia_workloads_are_steps(lake: Lake) -> None:
    rows = by_step(rows_of(lake, "nvidia.jsonl"))
    assert set(rows) == {"customer-service.route", "customer-service.reply"}
    route = rows["customer-service.route"]
    assert json.loads(route["output"])["tool_calls"][0]["function"]["name"] == "track"
    assert route["tags"] == {"client_id": "prod"} and "tools" in route["parameters"] and route["input_tokens"] == 40
    assert route["recorded_at"].isoformat() == "2026-03-01T09:00:00+00:00"


def test_genai_spans_keep_their_tree_messages_and_failures(lake: Lake) -> None:
    rows = rows_of(lake, "otlp_genai.jsonl")
    agent, call, failed, old = rows
    assert agent["step"] == "invoke_agent reviewer" and agent["parent_id"] is None and agent["model"] is None
    assert call["step"] == "reviewer" and call["parent_id"] == agent["recording_id"] and call["pipeline"] == "contracts"
    assert [m["role"] for m in call["messages"]] == ["system", "user", "assistant", "tool"]
    assert call["messages"][2]["tool_calls"][0]["function"] == {
        "name": "get_weather",
        "arguments": '{"location": "Paris"}',
    }
    assert call["messages"][3]["content"] == "rainy, 14 C" and call["output"] == "Rainy, 14 degrees."
    assert call["parameters"] == {"temperature": 0.1, "max_tokens": 200} and call["latency_s"] == 1.25
    assert (call["input_tokens"], call["output_tokens"]) == (97, 52)
    assert failed["error"] == {"type": "timeout", "message": "no answer in 1 s", "traceback": "Traceback ..."}
    assert failed["messages"] == [{"role": "user", "content": "Again?"}]
    assert old["messages"] == [{"role": "user", "content": "Old way?"}] and old["output"] == "Events."
    assert (old["input_tokens"], old["output_tokens"]) == (5, 6)
    assert "GET /files" not in {row["step"] for row in rows}


def test_openinference_spans_keep_variables_costs_and_tags(lake: Lake) -> None:
    rows = by_step(rows_of(lake, "otlp_openinference.json"))
    chain, call, tools = rows["RunnableSequence"], rows["ChatOpenAI"], rows["ChatTools"]
    assert chain["inputs"] == {"topic": "rain"} and chain["output"] == "A poem." and chain["model"] is None
    assert chain["tags"] == {"plan": "free", "beta": True, "session": "s-1"} and chain["user"] == "u-9"
    assert call["inputs"] == {"topic": "rain"} and call["messages"][1] == {"role": "user", "content": "About rain."}
    assert call["cost_usd"] == pytest.approx(0.00042) and call["parameters"] == {"temperature": 0.7}
    assert call["pipeline"] == "support" and call["output"] == "Drops." and call["parent_id"] == chain["recording_id"]
    assert json.loads(tools["output"])["tool_calls"][0]["function"]["name"] == "save"


def test_langfuse_traces_observations_and_scores(lake: Lake) -> None:
    rows = by_step(rows_of(lake, "langfuse_api.json"))
    assert (
        rows["support"]["tags"] == {"plan": "pro", "vip": True, "session_id": "s1"} and rows["support"]["user"] == "u1"
    )
    assert rows["draft"]["parent_id"] == "trace-1" and rows["draft"]["output"] == "Sorry!"
    assert (rows["draft"]["input_tokens"], rows["draft"]["cost_usd"]) == (20, 0.0003)
    assert rows["check"]["parent_id"] == "obs-1" and rows["check"]["error"]["message"] == "429 rate limited"
    feedback = lake.read("feedback").sort("comment").select("request_id", "score", "comment").rows()
    assert feedback == [("trace-1", 1.0, "helpful: nice"), ("trace-1", None, "tone = cold")]


def test_langfuse_files_hold_json_as_text(lake: Lake) -> None:
    (row,) = rows_of(lake, "langfuse_blob.jsonl")
    assert (
        row["messages"] == [{"role": "user", "content": "Spam?"}]
        and row["output"] == "no"
        and row["model"] == "small-1"
    )
    assert row["pipeline"] == "mail" and row["latency_s"] == 1.25 and row["tags"]["lang"] == "de" and row["tags"]["eu"]
    assert lake.read("feedback").select("score", "comment").rows() == [(0.0, "correct: was spam")]


def test_llmonpy_tournaments_are_flagged_and_ask_no_question(lake: Lake) -> None:
    import_file(lake, FIXTURES / "llmonpy.json")
    names = dict(lake.read("strategies", ["strategy_id", "name"]).iter_rows())
    assert set(names.values()) == {"llmonpy/m-1 temp=0.75", "llmonpy/m-2 temp=0.0", "llmonpy/m-2 temp=0.0 #2"}
    assert set(lake.read("replay_matrix")["answer"]) == {'{"name":"Alpha"}', '{"name":"Beta"}', '{"name":"Gamma"}'}
    verdicts = lake.read("verdicts").join(lake.read("matches"), on="match_id", suffix="_m")
    assert set(verdicts["judge_kind"]) == {"imported"} and set(verdicts["judge"]) == {"llmonpy: jury of 5"}
    towards = {}
    for row in verdicts.iter_rows(named=True):
        first, second = (row["strategy_a"], row["strategy_b"])[:: 1 if row["shown_first"] == "a" else -1]
        p_first = row["preference"] if row["shown_first"] == "a" else 1 - row["preference"]
        towards[names[first], names[second]] = round(p_first, 6)
    one, two, three = "llmonpy/m-1 temp=0.75", "llmonpy/m-2 temp=0.0", "llmonpy/m-2 temp=0.0 #2"
    # 1 of 5, 0 of 5 and 2 of 5 judges dissented; contestant one is who was shown first.
    assert towards == {(one, two): 0.8, (three, one): 0.0, (three, two): 0.4}
    assert lake.read("recordings").is_empty()


def test_the_step_can_be_named_by_hand(lake: Lake) -> None:
    assert {row["step"] for row in rows_of(lake, "openai.jsonl", step="draft")} == {"draft"}
    assert {row["strategy_id"] for row in rows_of(lake, "journal.jsonl", step="draft")} == {"recorded-draft"}


def test_a_log_that_has_grown_brings_only_what_is_new(lake: Lake, tmp_path: Path) -> None:
    line = '{"messages":[{"role":"user","content":"%d"}],"response":"x","timestamp":1772355600}\n'
    log = tmp_path / "log.jsonl"
    log.write_text("".join(line % number for number in range(5)))
    import_file(lake, log)
    log.write_text("".join(line % number for number in range(7)))
    report = import_file(lake, log)
    assert (report.rows, report.known, report.quarantined) == (2, 5, 0) and lake.read("recordings").height == 7


def test_packed_files_lists_and_lines_say_the_same(tmp_path: Path) -> None:
    found = []
    items = [json.loads(line) for line in (FIXTURES / "openai.jsonl").read_text().splitlines()]
    (tmp_path / "list.json").write_text(json.dumps(items, indent=2))
    (tmp_path / "marked.jsonl").write_bytes(b"\xef\xbb\xbf" + (FIXTURES / "openai.jsonl").read_bytes())
    with gzip.open(tmp_path / "lines.jsonl.gz", "wb") as file:
        file.write((FIXTURES / "openai.jsonl").read_bytes())
    for number, name in enumerate(("list.json", "marked.jsonl", "lines.jsonl.gz")):
        lake = Lake(tmp_path / f"lake{number}")
        report = import_file(lake, tmp_path / name)
        assert (report.format, report.quarantined) == ("openai", 1)
        found.append(lake.read("recordings").select("output", "model", "recorded_at", "messages").sort("recorded_at"))
    assert found[1].equals(found[2])
    assert found[0].drop("messages").equals(found[1].drop("messages"))


_scalars = st.integers(-(2**63), 2**63) | st.text() | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.dictionaries(st.text(max_size=4), _scalars, max_size=4)),
    st.sampled_from([None, 1]),
    st.integers(1, 64),
)
def test_a_list_is_read_element_by_element_whatever_the_pieces(
    tmp_path_factory: Any, items: list[dict[str, Any]], indent: int | None, piece: int
) -> None:
    items = json.loads(json.dumps(items).encode("utf-8", "replace"))
    path = tmp_path_factory.mktemp("list") / "l.json"
    path.write_text(json.dumps(items, indent=indent, ensure_ascii=False), encoding="utf-8", errors="replace")
    items = json.loads(path.read_text(encoding="utf-8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qbawa.ingest.formats.records._READ_CHARS", piece)
        found = [record.value for record in records(path)]
    assert found == items


def test_a_broken_list_keeps_what_came_before_the_break(lake: Lake, tmp_path: Path) -> None:
    good = '{"messages":[{"role":"user","content":"q"}],"response":"a"}'
    for name, rest, reason in (("cut", ',{"mess', "truncated"), ("bad", ",{oops},{}]", "malformed")):
        (tmp_path / name).write_text(f"[{good}{rest}")
        own = Lake(tmp_path / f"lake_{name}")
        report = import_file(own, tmp_path / name)
        assert report.rows == 1 and report.by_reason == {reason: 1}


def test_lines_that_begin_with_a_list_are_lines(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("[]\n" + (FIXTURES / "openai.jsonl").read_text())
    report = import_file(lake, tmp_path / "f")
    assert (report.rows, report.by_reason) == (4, {"not_an_object": 1, "missing_field": 1})
    for text, reason in (
        ('[{"messages":[],"response":"x"}] more', "malformed"),
        ('[{"messages":[],"response":"x"},', "truncated"),
    ):
        (tmp_path / "g").write_text(text)
        report = import_file(Lake(tmp_path / reason), tmp_path / "g")
        assert (report.rows, report.by_reason) == (1, {reason: 1})


def test_a_journal_file_is_imported_as_strictly_as_it_is_ingested(lake: Lake, tmp_path: Path) -> None:
    good = (FIXTURES / "journal.jsonl").read_bytes().splitlines()[0]
    bad = {
        b"": "empty",
        b"{": "truncated",
        b"[]": "not_an_object",
        b"\0": "nul",
        b"\xff": "not_utf8",
        good: "duplicate",
    }
    (tmp_path / "f").write_bytes(b"\n".join([*(list(bad)[:-1] * 5), good, *bad]) + b"\n")
    report = import_file(lake, tmp_path / "f")
    assert report.format == "journal" and report.rows == 1
    assert report.by_reason == {reason: 6 if reason != "duplicate" else 1 for reason in bad.values()}
    assert report.records == 1 + report.quarantined == 1 + lake.read("quarantine").height


@pytest.mark.parametrize("content", ["", "hello\nworld\n", '{"a": 1}\n{"b": 2}\n', "[1, 2]", "{"])
def test_files_of_no_known_format_are_refused(lake: Lake, tmp_path: Path, content: str) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(InputError, match="no known format"):
        import_file(lake, tmp_path / "file")
    with pytest.raises(InputError, match="no file"):
        import_file(lake, tmp_path / "absent")
    with pytest.raises(InputError, match="no format 'xml'.*journal"):
        import_file(lake, FIXTURES / "chat.jsonl", "xml")


_hostile = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted({
        "messages", "response", "request", "role", "content", "choices", "usage", "message", "timestamp", "workload_id",
        "id", "type", "name", "startTime", "input", "output", "traceId", "value", "observations", "scores", "data", "meta",
        "resourceSpans", "scopeSpans", "spans", "attributes", "key", "stringValue", "spanId", "gen_ai.system", "events",
        "post", "patch", "runs", "run_type", "inputs", "outputs", "context", "span_id", "trace_id", "custom_id", "result", "eval",
        "samples", "task", "trace", "sessionId", "uuid", "payload", "standard_logging_object", "call_type", "spend",
        "contestant_list", "contest_result_list", "output_id", "tourney_result_id", "step_output", "number_of_judges",
        "chosen", "rejected", "prompt", "question", "best_answer", "worse_answer", "instruction", "output_1", "output_2",
        "preference", "results", "vars", "provider", "question_id", "model_id", "turns", "text", "replies", "rank",
        "conversations", "from",
    })), inner, max_size=5),
    max_leaves=25,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(set(FORMATS) - {"journal"})), st.lists(_hostile, min_size=1, max_size=6))
def test_hostile_records_are_quarantined_not_raised(tmp_path_factory: Any, name: str, values: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    # The first line decides that the file holds lines rather than one list.
    (folder / "f.jsonl").write_text("".join(json.dumps(value) + "\n" for value in [{}, *values]), errors="replace")
    report = import_file(Lake(folder / "lake"), folder / "f.jsonl", name, dry_run=True, questions_only=True)
    assert report.records == len(values) + 1


def test_times_in_every_unit_are_the_same_moment() -> None:
    at = moment("2026-03-01T09:00:00Z")
    same = [1772355600, 1772355600_000, 1772355600_000_000, 1772355600_000_000_000, "1772355600000000000"]
    assert [moment(value) for value in same] == [at] * len(same)
    assert moment("2026-03-01T10:00:00+01:00") == at == moment("2026-03-01 09:00:00")
    for wrong in ("soon", None, True, [], 1e300, "9" * 400):
        with pytest.raises(BadRecordError):
            moment(wrong)


@pytest.mark.slow
def test_the_command_imports_a_folder_and_says_what_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qbawa.cli.import_ import command

    monkeypatch.setenv("QBAWA_HOME", str(tmp_path))
    (tmp_path / "qbawa.yaml").write_text("{}")
    shutil.copytree(FIXTURES, tmp_path / "logs")
    told = CliRunner().invoke(command, [str(tmp_path / "logs"), "--json"], catch_exceptions=False)
    reports = [json.loads(line) for line in told.stdout.splitlines()]
    assert {Path(report["file"]).name: report["format"] for report in reports} == FORMAT_OF
    assert sum(report["rows"] for report in reports) == Lake(tmp_path / "lake").read("recordings").height
    again = CliRunner().invoke(command, [str(tmp_path / "logs" / "chat.jsonl")], catch_exceptions=False)
    assert again.exit_code == 0 and "held all of it already" in again.stdout
    empty = CliRunner().invoke(command, [], catch_exceptions=False)
    assert "No new journal segments" in empty.stdout


def test_the_command_ingests_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qbawa.cli.import_ import command

    monkeypatch.setenv("QBAWA_HOME", str(tmp_path))
    (tmp_path / "qbawa.yaml").write_text("{}")
    (tmp_path / "journal").mkdir()
    shutil.copy(FIXTURES / "journal.jsonl", tmp_path / "journal" / "seg.jsonl")
    dry = CliRunner().invoke(command, ["--dry-run"], catch_exceptions=False)
    assert "1 segments (dry run" in dry.stdout and not (tmp_path / "journal" / "batches").exists()
    told = CliRunner().invoke(command, ["--json"], catch_exceptions=False)
    report = json.loads(told.stdout)
    again = CliRunner().invoke(command, [str(tmp_path / "journal" / "seg.jsonl")], catch_exceptions=False)
    assert "No new journal segments" in again.stdout
    assert (report["rows"], report["feedback"], report["requests"], report["quarantined"]) == (1, 1, 1, 1)
    assert isinstance(Lake(tmp_path / "lake").read("recordings"), pl.DataFrame)
