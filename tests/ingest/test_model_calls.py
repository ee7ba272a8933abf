"""A line that holds a call as its client sent it: the row says what was asked and answered, in canonical form."""

import json
from pathlib import Path
from typing import Any

import pytest

from qbawa.importing import import_file
from qbawa.ingest.block_writer import BlockWriter
from qbawa.ingest.journal_lines import read_line
from qbawa.ingest.model_calls import understood
from qbawa.storage.lake import Lake

REQUEST = {
    "model": "c", "max_tokens": 9, "system": "Be brief.",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Look."}]}],
    "tools": [{"name": "look", "input_schema": {"type": "object"}}],
}  # fmt: skip
RESPONSE = {
    "type": "message", "role": "assistant", "model": "c-2026", "stop_reason": "tool_use",
    "usage": {"input_tokens": 9, "output_tokens": 3},
    "content": [{"type": "thinking", "thinking": "Hmm."}, {"type": "tool_use", "id": "t", "name": "look", "input": {"n": 1}}],
}  # fmt: skip
ANSWER = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"n": 1}}}],
}


def line(number: int = 0, **changes: Any) -> bytes:
    row = {
        "v": 1, "kind": "step", "recording_id": f"s_{number}", "request_id": f"r_{number}", "step": "llm", "inputs": {},
        "messages": None, "output": None, "parameters": None, "started_at": "2026-11-20T10:00:00+00:00",
        "call": {"api": "anthropic.messages", "request": REQUEST, "response": RESPONSE},
    } | changes  # fmt: skip
    return json.dumps(row).encode()


def rows_of(tmp_path: Path, *lines: bytes) -> tuple[list[dict[str, Any]], list[str], BlockWriter]:
    lake = Lake(tmp_path / "lake")
    writer = BlockWriter(lake, "batch", "journal")
    for number, raw in enumerate(lines, 1):
        for item in understood(read_line(raw)):
            writer.add("segment", number, raw, item)
    writer.close()
    rows = lake.read("recordings").sort("recording_id").to_dicts()
    for row in rows:
        for column in ("messages", "parameters", "request"):
            row[column] = json.loads(row[column]) if row[column] else None
    return rows, lake.read("quarantine").sort("line")["reason"].to_list(), writer


def test_a_call_of_another_api_becomes_messages_parameters_and_answer(tmp_path: Path) -> None:
    (row,), bad, _ = rows_of(tmp_path, line())
    assert not bad and row["api"] == "anthropic.messages" and row["request"] == REQUEST
    assert row["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Look."}]},
    ]
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    assert row["parameters"] == {"max_tokens": 9, "tools": [tool]}
    assert json.loads(row["output"]) == ANSWER and row["reasoning"] == "Hmm."
    assert (row["model"], row["input_tokens"], row["output_tokens"]) == ("c-2026", 9, 3)


def test_what_the_line_says_itself_wins(tmp_path: Path) -> None:
    (row,), bad, _ = rows_of(tmp_path, line(step="draft", output="what the step returned", input_tokens=77))
    assert not bad and row["output"] == "what the step returned" and row["input_tokens"] == 77
    assert row["output_tokens"] == 3 and row["messages"][0]["role"] == "system"


def test_a_chat_completion_needs_no_request_beside_its_messages(tmp_path: Path) -> None:
    asked = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
    call = {"api": "openai.chat", "request": asked, "response": {"choices": [{"message": {"content": "Ho"}}]}}
    (row,), bad, _ = rows_of(tmp_path, line(call=call))
    assert not bad and (row["api"], row["request"], row["output"]) == ("openai.chat", None, "Ho")
    assert row["model"] == "m" and row["parameters"] == {"temperature": 0}


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({"api": "anthropic.messages", "request": {"messages": 7}, "response": RESPONSE}, "needs messages"),
        ({"api": "anthropic.messages", "request": REQUEST, "response": {"oops": 1}}, "needs content"),
        ({"api": "cohere.chat", "request": {"message": "Hi"}, "response": None}, "no API 'cohere.chat'"),
        ({"request": REQUEST}, "needs api"),
        ("broken", "needs api"),
    ],
)
def test_a_call_that_cannot_be_read_keeps_its_row_and_is_counted(tmp_path: Path, call: Any, reason: str) -> None:
    (row, other), bad, writer = rows_of(tmp_path, line(call=call, latency_s=0.5), line(1))
    assert row["latency_s"] == 0.5 and other["messages"]
    (found,) = bad
    assert found.startswith("unreadable_call: ") and reason in found
    assert writer.counts.by_reason == {"unreadable_call": 1} and writer.counts.rows == 2
    if isinstance(call, dict) and "api" in call:
        assert (row["api"], row["request"]) == (call["api"], call["request"])


def test_a_failed_call_has_its_question_and_no_answer(tmp_path: Path) -> None:
    call = {"api": "anthropic.messages", "request": REQUEST, "response": None}
    error = {"type": "RateLimitError", "message": "429", "traceback": ""}
    (row,), bad, _ = rows_of(tmp_path, line(call=call, error=error))
    assert not bad and row["messages"] and row["output"] is None and row["model"] == "c" and "429" in row["error"]


def test_messages_that_call_tools_are_canonical_also_in_older_lines(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"n": 1}'}}
    old = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}
    asked = [{"role": "user", "content": "Look."}]
    ours = {"role": "assistant", "tool_calls": []}
    rows, bad, _ = rows_of(
        tmp_path, line(0, call=None, messages=asked, output=old), line(1, call=None, output=old),
        line(2, call=None, messages=asked, output=ours),
    )  # fmt: skip
    assert not bad and json.loads(rows[0]["output"]) == ANSWER
    # What a step without a call returned is its own affair, and so is what only looks like a message.
    assert json.loads(rows[1]["output"]) == old and json.loads(rows[2]["output"]) == ours


def test_a_pair_of_any_api_in_a_log_is_read_as_its_api_says(tmp_path: Path) -> None:
    pairs = [
        {"id": "a", "request": REQUEST, "response": RESPONSE},
        {"id": "b", "request": {"model": "g", "contents": "Look.", "config": {"temperature": 0}},
         "response": {"candidates": [{"content": {"parts": [{"text": "Ho"}]}}]}},
        {"id": "c", "request": {"model": "m", "input": "Look.", "instructions": "Be brief."},
         "response": {"object": "response", "output": [{"type": "message", "content": [{"type": "output_text", "text": "Ho"}]}]}},
    ]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    lake = Lake(tmp_path / "lake")
    report = import_file(lake, tmp_path / "log.jsonl")
    rows = {row["recording_id"]: row for row in lake.read("recordings").to_dicts()}
    assert (report.format, report.rows, report.quarantined) == ("openai", 3, 0)
    assert [rows[id]["api"] for id in "abc"] == ["anthropic.messages", "google.generate_content", "openai.responses"]
    assert json.loads(rows["a"]["output"]) == ANSWER and rows["a"]["reasoning"] == "Hmm."
    assert json.loads(rows["a"]["request"]) == REQUEST
    assert rows["b"]["output"] == rows["c"]["output"] == "Ho" and json.loads(rows["b"]["parameters"]) == {
        "temperature": 0
    }
    assert [message["role"] for message in json.loads(rows["c"]["messages"])] == ["system", "user"]


def test_a_model_call_outside_any_step_has_its_question_as_input():
    request = {
        "model": "m",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}],
    }
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    row = {
        "v": 1,
        "kind": "step",
        "recording_id": "a",
        "request_id": "r",
        "step": "llm",
        "started_at": 1.0,
        "inputs": {},
    }
    for more in (
        {"messages": messages},
        {"call": {"api": "anthropic.messages", "request": request, "response": None}},
    ):
        [step] = understood(read_line(json.dumps({**row, **more}).encode()))
        assert json.loads(bytes(step.inputs)) == {"question": "Why?"}
    [own] = understood(read_line(json.dumps({**row, "messages": messages, "inputs": {"text": "x"}}).encode()))
    assert json.loads(bytes(own.inputs)) == {"text": "x"}
    [none] = understood(read_line(json.dumps(row).encode()))
    assert json.loads(bytes(none.inputs)) == {}
