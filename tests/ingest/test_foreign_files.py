"""Real files that other systems wrote: nothing is lost that one may expect of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from imported_rows import FOREIGN, imported

from qbawa.importing import table_kind

pytestmark = pytest.mark.skipif(
    not FOREIGN.is_dir(), reason="needs the folder ../shared/data/foreign beside the checkout"
)
DOWNLOADS = sorted(FOREIGN.glob("langfuse_*.json")) if FOREIGN.is_dir() else []
# Their instrumentation wrote something else where the question should be.
LOST_QUESTIONS = {"claude-agent": 3}


@pytest.mark.parametrize("path", DOWNLOADS, ids=lambda path: path.stem.removeprefix("langfuse_"))
def test_a_langfuse_download_loses_no_generation(tmp_path: Path, path: Path) -> None:
    found = imported(tmp_path, path)
    observations = json.loads(path.read_text())["observations"]
    assert found.report.format == "langfuse" and found.report.rows == len(observations) + 1
    generations = [o for o in observations if o["type"] == "GENERATION"]
    rows = [found.row(generation["id"]) for generation in generations]
    lost = next((number for kind, number in LOST_QUESTIONS.items() if kind in path.name), 0)
    assert sum(not row["messages"] for row in rows) == lost == found.report.quarantined
    assert all(row["output"] is not None for row in rows)
    for row, generation in zip(rows, generations, strict=True):
        assert row["model"] == generation["model"] and row["input_tokens"] == generation["usageDetails"]["input"]
        assert row["output_tokens"] == generation["usageDetails"]["output"]
        assert all(message["role"] in ("system", "user", "assistant", "tool") for message in row["messages"] or [])
        assert not isinstance(row["output"], list)
        if isinstance(row["output"], dict):
            assert row["output"]["tool_calls"] and row["output"].keys() <= {"role", "content", "tool_calls"}
    parents = {o["id"]: o["parentObservationId"] for o in observations}
    trace = json.loads(path.read_text())["trace"]["id"]
    assert {row["recording_id"]: row["parent_id"] for row in found.rows} == {
        trace: None,
        **{id: parent or trace for id, parent in parents.items()},
    }


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("crewai-2025-07-11", {"crewai-index-trace"}),
        ("langgraph-python-2025-08-22", {"agent"}),
        ("openai-agents-2025-09-30", {"Hello world"}),
        ("pydantic-ai-tools-2025-06-06", {"qa_agent"}),
    ],
)
def test_generations_are_named_after_what_a_person_named(tmp_path: Path, name: str, steps: set[str]) -> None:
    found = imported(tmp_path, FOREIGN / f"langfuse_{name}.json")
    assert {row["step"] for row in found.calls()} == steps


def test_tools_and_requests_of_langfuse_downloads_are_kept(tmp_path: Path) -> None:
    tools = {}
    for path in DOWNLOADS:
        found = imported(tmp_path / path.stem, path)
        tools[path.stem.split("_")[1].rsplit("-", 3)[0]] = {
            tool["function"]["name"] for row in found.calls() for tool in (row["parameters"] or {}).get("tools", [])
        }
    assert tools["langgraph-python"] == {"Web-Search"} and tools["vercel-aisdk"] == {"getWeather"}
    assert tools["openai-agents"] == tools["microsoft-agent"] == {"get_weather"}
    assert tools["agno"] == {"duckduckgo_search", "duckduckgo_news"}


@pytest.mark.parametrize(
    ("name", "format", "rows", "answers"),
    [
        ("batch_out.jsonl", "batch", 1, ["Hello."]),
        ("litellm_slp.jsonl", "litellm", 3, ["Paris is the answer.", None, "Paris is the answer. "]),
        ("litellm_spend.jsonl", "litellm", 2, ["hello", None]),
        ("inspect_log.json", "inspect", 6, ["Yes", "No", "No"]),
        ("ls_langsmith_py_wrap_openai_.json", "langsmith", 1, ["Howdy! How can I assist you today?"]),
        ("ls_langsmith_py_wrap_openai_stream.json", "langsmith", 1, ["Howdy! How can I assist you today?"]),
    ],
)
def test_logs_of_calls_keep_their_answers(
    tmp_path: Path, name: str, format: str, rows: int, answers: list[Any]
) -> None:
    found = imported(tmp_path, FOREIGN / name)
    assert (found.report.format, found.report.rows, found.report.quarantined) == (format, rows, 0)
    assert [row["output"] for row in found.rows if row["model"]] == answers
    assert all(row["input_tokens"] for row in found.rows if row["model"] and format not in ("litellm",))


def test_a_failure_in_litellms_payload_is_an_error_row(tmp_path: Path) -> None:
    found = imported(tmp_path, FOREIGN / "litellm_slp.jsonl")
    (failed,) = [row for row in found.rows if row["error"]]
    assert failed["error"]["type"] == "BadRequestError" and "boom" in failed["error"]["message"]
    assert failed["messages"] == [{"role": "user", "content": "FAIL"}] and failed["latency_s"] == pytest.approx(
        0.739, abs=0.01
    )


def test_a_coding_agents_session_is_three_questions_and_two_tools(tmp_path: Path) -> None:
    found = imported(tmp_path, FOREIGN / "claude_code_session.jsonl")
    assert [row["step"] for row in found.rows] == ["claude-code", "Write", "claude-code", "Bash", "claude-code"]
    assert [len(row["messages"]) for row in found.calls()] == [1, 3, 6] and found.report.quarantined == 0


def test_reasoning_models_of_langsmith_keep_their_tokens(tmp_path: Path) -> None:
    (row,) = imported(tmp_path, FOREIGN / "ls_langsmith_js_wrap_openai_reasoning.json").rows
    assert (row["model"], row["input_tokens"], row["output_tokens"]) == ("o1-mini-2024-09-12", 43, 1901)
    assert row["output"].startswith("Certainly! Below is a Bash script") and row["latency_s"] == pytest.approx(10.439)


def test_answers_of_arena_hard_are_the_texts_in_their_objects(tmp_path: Path) -> None:
    found = imported(tmp_path, FOREIGN / "arena_hard_answers.jsonl")
    assert len(found.rows) == 25 and all(
        isinstance(row["output"], str) and len(row["output"]) > 20 for row in found.rows
    )


@pytest.mark.parametrize("name", ["mtbench_answers.jsonl", "sharegpt.json", "oasst_trees.jsonl"])
def test_json_that_is_no_log_is_never_called_a_csv(name: str) -> None:
    try:
        table_kind(FOREIGN / name, {})
    except Exception as error:
        assert "CSV" not in str(error)
