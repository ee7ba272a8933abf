"""Logs of calls: batches, LiteLLM's payloads and spend logs, evaluations of inspect_ai, sessions of coding agents."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from imported_rows import FIXTURES, calls_of, imported

from qbawa.errors import InputError
from qbawa.importing import detect, import_file, table_kind
from qbawa.storage.lake import Lake


def test_batches_of_three_providers_with_their_failures(tmp_path: Path) -> None:
    found = imported(tmp_path, FIXTURES / "batch.jsonl")
    rows = {row["request_id"]: row for row in found.rows}
    assert [rows[f"row-{n}"]["output"] for n in (1, 4, 6)] == ["Bonjour.", "Salut.", "Allô."]
    assert [rows[f"row-{n}"]["error"]["type"] for n in (2, 3, 5)] == [
        "invalid_request_error", "batch_expired", "overloaded_error",
    ]  # fmt: skip
    assert [rows[f"row-{n}"]["api"] for n in (1, 4, 6)] == [
        "openai.chat",
        "anthropic.messages",
        "google.generate_content",
    ]
    assert (rows["row-4"]["input_tokens"], rows["row-4"]["model"]) == (11, "claude-x")


def test_litellm_payloads_keep_cost_times_parameters_and_failures(tmp_path: Path) -> None:
    found = imported(tmp_path, FIXTURES / "litellm.jsonl")
    first, failed, stream = (found.row(f"call-{n}") for n in (1, 2, 3))
    assert first["step"] == "plan" and first["request_id"] == "trace-1" and first["latency_s"] == 1.5
    assert calls_of(first["output"]) == [("look", {"city": "Rome"})] and first["cost_usd"] == 0.0002
    assert first["parameters"]["temperature"] == 0 and first["parameters"]["tools"][0]["function"]["name"] == "look"
    assert (
        first["tags"] == {"eu": True, "session": "trace-1", "provider": "openai", "key": "web"}
        and first["user"] == "u1"
    )
    assert failed["error"] == {"type": "RateLimitError", "message": "slow down", "traceback": "tb"}
    assert (failed["output"], failed["input_tokens"], failed["cost_usd"]) == (None, None, None)
    # A stream without usage was not free, and did not count zero tokens.
    assert (stream["output"], stream["input_tokens"], stream["output_tokens"], stream["cost_usd"]) == (
        "Sunny.",
        None,
        None,
        None,
    )


def test_spend_logs_hold_bodies_as_text(tmp_path: Path) -> None:
    row = imported(tmp_path, FIXTURES / "litellm.jsonl").row("spend-1")
    assert row["api"] == "anthropic.messages" and row["request"]["system"] == "Be brief." and row["output"] == "Ho"
    assert [m["role"] for m in row["messages"]] == ["system", "user"] and row["parameters"] == {"max_tokens": 9}
    assert (row["cost_usd"], row["latency_s"], row["user"], row["tags"]["session"]) == (0.003, 1.5, "u7", "s9")


def test_an_evaluation_is_a_request_a_sample_with_its_calls_tools_and_scores(tmp_path: Path) -> None:
    found = imported(tmp_path, FIXTURES / "inspect.json")
    sample, first, second, tool = (
        found.row("sample-1"), found.row("ev-1"), found.row("ev-2"), next(r for r in found.rows if r["step"] == "look"),
    )  # fmt: skip
    assert sample["step"] == "weather.sample" and sample["inputs"]["target"] == "sunny" and sample["output"] == "Sunny."
    assert first["step"] == second["step"] == "weather" and {first["parent_id"], tool["parent_id"]} == {"sample-1"}
    assert first["messages"][0] == {"role": "system", "content": "Be brief."}, "put back from the attachments"
    assert first["parameters"]["tools"][0]["function"]["name"] == "look" and first["parameters"]["stop"] == ["END"]
    assert calls_of(first["output"]) == [("look", {"city": "Rome"})] and first["input_tokens"] == 109
    assert [m["role"] for m in second["messages"]] == ["system", "user", "assistant", "tool"]
    assert (second["output"], second["reasoning"], tool["output"]) == ("Sunny.", "It is.", "sunny")
    assert found.row("sample-2.0")["output"] == "No." and found.row("sample-3")["error"]["message"] == "ValueError('x')"
    scores = found.lake.read("feedback").sort("request_id", "comment").select("request_id", "score", "comment").rows()
    assert scores == [
        ("sample-1", 0.25, "length"),
        ("sample-1", 1.0, "match = C: found"),
        ("sample-2", 0.0, "match = I"),
    ]


def zipped(path: Path, log: dict[str, Any], *, zstandard: bool) -> None:
    """The log as `.eval` holds it: a header, and a file for each sample."""
    header = {key: value for key, value in log.items() if key != "samples"}
    files = {"header.json": header, **{f"samples/{s['id']}_epoch_1.json": s for s in log["samples"]}}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in files.items():
            if not zstandard:
                archive.writestr(name, json.dumps(value))
                continue
            # Written stored, then said to be packed by method 93, since Python packs so from 3.14 on.
            data = json.dumps(value).encode()
            packed = pyarrow.Codec("zstd").compress(data, asbytes=True)
            info = zipfile.ZipInfo(name)
            archive.writestr(info, packed)
            info.compress_type, info.file_size = 93, len(data)


@pytest.mark.parametrize("zstandard", [False, True], ids=["deflate", "zstandard"])
def test_the_zip_form_says_what_the_json_form_says(tmp_path: Path, zstandard: bool) -> None:
    log = json.loads((FIXTURES / "inspect.json").read_text())
    zipped(tmp_path / "log.eval", log, zstandard=zstandard)
    there, here = imported(tmp_path / "a", tmp_path / "log.eval"), imported(tmp_path / "b", FIXTURES / "inspect.json")
    assert there.report.format == "inspect" and there.report.quarantined == 0
    for row in (*there.rows, *here.rows):
        del row["source"], row["block_id"]
    assert there.rows == here.rows


def test_a_zip_of_anything_else_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    (tmp_path / "torn.eval").write_bytes(b"PK\x03\x04" + b"x" * 40)
    with pytest.raises(InputError, match=r"holds no header\.json"):
        detect(tmp_path / "photos.zip")
    with pytest.raises(InputError, match="no readable zip"):
        detect(tmp_path / "torn.eval")


def test_a_session_of_claude_code_is_questions_with_all_that_came_before(tmp_path: Path) -> None:
    found = imported(tmp_path, FIXTURES / "claude_code.jsonl")
    first, second, third = (found.row(id) for id in ("a1", "a4", "a5"))
    # One answer stands in three lines.
    assert first["output"]["content"] == "Reading." and calls_of(first["output"]) == [("Read", {"file": "x.py"})]
    assert first["reasoning"] == "Look first." and (first["input_tokens"], first["output_tokens"]) == (94, 7)
    assert [m["role"] for m in second["messages"]] == ["user", "assistant", "tool"] and second["output"] == "Done."
    assert second["messages"][2]["content"] == "pass" and second["request_id"] == first["request_id"] == "S.u1"
    assert third["request_id"] == "S.u3" and len(third["messages"]) == 5
    side, read, push = found.row("s2"), found.row("t1"), found.row("t2")
    assert side["step"] == "claude-code.subagent" and side["messages"] == [{"role": "user", "content": "Search."}]
    assert (read["step"], read["output"], read["parent_id"], read["latency_s"]) == ("Read", "pass", "a1", 4.0)
    assert push["error"]["message"] == "denied" and push["output"] is None
    assert "system prompt" in first["tags"]["qbawa.incomplete"]


def test_a_rollout_of_codex_is_questions_with_all_that_came_before(tmp_path: Path) -> None:
    found = imported(tmp_path, FIXTURES / "codex.jsonl")
    first, second, tool = found.row("sess-1.0"), found.row("sess-1.1"), found.row("sess-1.k1")
    assert [m["role"] for m in first["messages"]] == ["system", "user", "user"] and first["model"] == "gpt-x-codex"
    assert calls_of(first["output"]) == [("shell", {"command": ["ls"]})] and first["reasoning"] == "Look first."
    assert (first["input_tokens"], first["output_tokens"]) == (50, 5) and tool["output"] == "x.py"
    assert [m["role"] for m in second["messages"]][-2:] == ["assistant", "tool"] and second["output"] == "Done."
    assert first["request_id"] == second["request_id"] == tool["request_id"]


def test_an_import_without_answers_is_an_error_that_says_what_was_found(tmp_path: Path) -> None:
    lines = [{"messages": [{"role": "user", "content": f"q{n}"}], "completion_text": "a"} for n in range(1_250)]
    lines[7]["response"] = "the one"
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lake = Lake(tmp_path / "lake")
    for dry_run in (True, False):
        with pytest.raises(
            InputError, match=r"no answer in 1,249 of its 1,250 model calls.*keys messages, completion_text"
        ):
            import_file(lake, tmp_path / "log.jsonl", dry_run=dry_run)
    assert lake.read("recordings").is_empty()
    assert import_file(lake, tmp_path / "log.jsonl", questions_only=True).rows == 1_250


def test_what_was_written_before_the_error_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qbawa.importing.BLOCK_BYTES", 2_000)
    lines = [{"messages": [{"role": "user", "content": f"q{n}"}]} for n in range(20)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lake = Lake(tmp_path / "lake")
    with pytest.raises(InputError, match="no answer in 20 of its 20"):
        import_file(lake, tmp_path / "log.jsonl")
    assert lake.read("recordings").is_empty() and lake.read("quarantine").is_empty()


def test_calls_that_failed_need_no_answer(tmp_path: Path) -> None:
    lines = [{"messages": [{"role": "user", "content": f"q{n}"}], "error": "boom"} for n in range(5)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert import_file(Lake(tmp_path / "lake"), tmp_path / "log.jsonl").rows == 5


def test_objects_as_content_are_the_text_in_them(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": {"answer": "a"}}]
    (tmp_path / "log.jsonl").write_text(json.dumps({"messages": talk}) + "\n")
    (row,) = imported(tmp_path, tmp_path / "log.jsonl").rows
    assert row["output"] == "a" and row["messages"] == talk[:1]


@pytest.mark.parametrize("text", ['{"a": {"b": 1},\n "c": [2]}', '{"a": 1', "[1, 2]", '[{"a": 1}, {"a": '])
def test_json_that_cannot_be_read_is_not_called_a_csv(tmp_path: Path, text: str) -> None:
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(InputError) as refused:
        table_kind(tmp_path / "file.json", {})
    assert "CSV" not in str(refused.value) and "JSON" in str(refused.value)
