"""Traces of Langfuse, LangSmith and Phoenix: generations as recordings with their tree, whatever their content's form."""

import json
from pathlib import Path

import polars as pl
import pytest
from imported_rows import FIXTURES, calls_of, imported

from qbawa.ingest.formats.step_names import Node, step_names

TOOL = {
    "name": "look",
    "description": "Looks.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def test_a_langfuse_download_keeps_generations_of_every_provider(tmp_path: Path) -> None:
    found = imported(tmp_path, FIXTURES / "langfuse_download.json")
    genai, google, responses = found.row("o2"), found.row("o4"), found.row("o5")
    assert calls_of(genai["output"]) == [("look", {"city": "Rome"})] and genai["reasoning"] == "Hmm."
    assert genai["parameters"]["tools"] == [{"type": "function", "function": TOOL}]
    assert (genai["input_tokens"], genai["output_tokens"], genai["cost_usd"]) == (9, 3, 0.001)
    # The instructions stand at the agent above.
    assert [message["role"] for message in genai["messages"]] == ["system", "user"]
    assert (google["api"], google["output"], google["input_tokens"]) == ("google.generate_content", "Sunny.", 6)
    assert google["request"]["contents"] and google["parameters"] == {"temperature": 0} and google["cost_usd"] is None
    assert responses["api"] == "openai.responses" and responses["output"] == "Sunny."
    assert [m["role"] for m in responses["messages"]] == ["system", "user", "assistant", "tool"]
    assert responses["request"]["instructions"] == "Be brief." and responses["parameters"]["temperature"] == 0.5
    blocks, vercel = found.row("o6"), found.row("o7")
    assert [m["role"] for m in blocks["messages"]] == ["system", "user", "assistant", "tool"]
    assert blocks["output"] == "Sunny." and calls_of(vercel["output"]) == [("look", {"city": "Oslo"})]
    assert [m["role"] for m in vercel["messages"]] == ["system", "user", "assistant", "tool"]


def test_a_langfuse_download_keeps_its_tree_its_names_and_what_people_said(tmp_path: Path) -> None:
    found = imported(tmp_path, FIXTURES / "langfuse_download.json")
    names = {row["recording_id"]: row["step"] for row in found.rows}
    assert names == {
        "D": "support", "o1": "weather agent.agent", "o2": "weather agent", "o3": "look", "o4": "weather agent",
        "o5": "weather agent", "o6": "draft", "o7": "weather agent", "o8": "odd",
    }  # fmt: skip
    assert found.row("o2")["parent_id"] == "o1" and found.row("o1")["parent_id"] == "D"
    assert {row["request_id"] for row in found.rows} == {"D"} and found.row("o2")["user"] == "u1"
    said = found.lake.read("feedback").sort("given_at").select("request_id", "score", "comment").rows()
    assert said == [("D", 0.5, "correctness: half"), ("D", None, "output = Sunny, 20 degrees.")]


def test_content_that_nobody_knows_is_kept_and_counted(tmp_path: Path) -> None:
    found = imported(tmp_path, FIXTURES / "langfuse_download.json")
    odd = found.row("o8")
    assert odd["output"] == {"unknown": {"shape": 2}} and odd["inputs"] == {"strange": 1}
    assert found.report.by_reason == {"unreadable_call": 1} and found.report.quarantined == 1
    (reason,) = found.lake.read("quarantine")["reason"]
    assert "observation 'odd' (o8): output is an object with the keys unknown; input" in reason


def test_langsmith_runs_of_langchain_and_of_a_wrapped_client(tmp_path: Path) -> None:
    found = imported(tmp_path, FIXTURES / "langsmith.jsonl")
    graph, planner, chain = found.row("r3"), found.row("r2"), found.row("r1")
    assert graph["step"] == "planner" and planner["step"] == "planner.chain" and chain["step"] == "LangGraph"
    assert graph["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather?"}]
    assert calls_of(graph["output"]) == [("look", {"city": "Rome"})]
    assert graph["parameters"]["temperature"] == 0.0 and graph["parameters"]["tools"][0]["function"]["name"] == "look"
    assert (graph["model"], graph["input_tokens"], graph["cost_usd"]) == ("small-1-2026", 9, 0.0001)
    wrapped, failed = found.row("r5"), found.row("r4")
    assert wrapped["step"] == "answer" and wrapped["api"] == "anthropic.messages" and wrapped["output"] == "Sunny."
    assert (wrapped["input_tokens"], wrapped["output_tokens"]) == (5, 2) and wrapped["parent_id"] == "r1"
    assert failed["error"]["type"] == "ValueError" and failed["output"] is None
    assert (
        chain["user"] == "u1"
        and chain["pipeline"] == "bot"
        and chain["tags"] == {"user_id": "u1", "plan": "pro", "eu": True}
    )
    assert found.lake.read("feedback").select("request_id", "score", "comment").rows() == [("r1", 1.0, "helpful")]


def test_what_a_langsmith_client_posts_and_patches_is_one_run(tmp_path: Path) -> None:
    (row,) = imported(tmp_path, FIXTURES / "langsmith_posted.json").rows
    assert (row["recording_id"], row["step"], row["output"], row["latency_s"]) == ("p1", "draft", "Ho", 1.0)
    assert row["messages"] == [{"role": "user", "content": "Hi"}] and row["input_tokens"] == 9


def test_phoenix_spans_nested_flat_and_with_whole_bodies(tmp_path: Path) -> None:
    found = imported(tmp_path, FIXTURES / "phoenix.json")
    flat, whole, tool = found.row("T.s2"), found.row("T.s3"), found.row("T.s4")
    assert flat["step"] == "support" and found.row("T.s1")["step"] == "support.agent"
    assert calls_of(flat["output"]) == [("look", {"city": "Rome"})] and flat["parameters"]["temperature"] == 0
    assert flat["parameters"]["tools"] == [{"type": "function", "function": TOOL}] and flat["input_tokens"] == 9
    assert whole["api"] == "anthropic.messages" and whole["request"]["system"] == "Be brief."
    assert [m["role"] for m in whole["messages"]] == ["system", "user"] and whole["output"] == "Sunny."
    assert tool["error"]["message"] == "no city" and tool["inputs"] == {"city": "Rome"}
    (row,) = imported(tmp_path / "frame", FIXTURES / "phoenix_frame.jsonl").rows
    assert row["messages"] == [{"role": "user", "content": "Hi"}] and row["output"] == "Ho" and row["input_tokens"] == 4


def test_rows_of_a_parquet_export_are_records(tmp_path: Path) -> None:
    runs = [json.loads(line) for line in (FIXTURES / "langsmith.jsonl").read_text().splitlines()]
    table = pl.DataFrame([
        {key: json.dumps(value) if isinstance(value, dict | list) else value for key, value in run.items() if key != "total_cost"}
        for run in runs
    ], infer_schema_length=None)  # fmt: skip
    table.write_parquet(tmp_path / "runs.parquet")
    there, here = (
        imported(tmp_path / "a", tmp_path / "runs.parquet"),
        imported(tmp_path / "b", FIXTURES / "langsmith.jsonl"),
    )
    assert there.report.format == "langsmith" and there.report.quarantined == 0
    same = ("recording_id", "step", "messages", "output", "model", "parent_id", "input_tokens")
    assert [[row[c] for c in same] for row in there.rows] == [[row[c] for c in same] for row in here.rows]


@pytest.mark.parametrize(
    ("call", "above", "expected"),
    [
        ("ChatOpenAI", ["agent"], "agent"),
        ("ChatOpenAI", ["RunnableSequence", "summarise"], "summarise"),
        ("chat gpt-4o", ["qa_agent run", "request"], "qa_agent"),
        ("response", ["Hello world", "Agent workflow"], "Hello world"),
        ("openai.chat", ["invoke_agent planner"], "planner"),
        ("litellm-acompletion", ["invoke_agent 171105b7-59dd-49c0-9677-0b95395aa46a", "trip"], "trip"),
        ("draft the letter", ["agent"], "draft the letter"),
        ("ai.generateText.doGenerate", ["ai.generateText"], "ai.generateText.doGenerate"),
        ("ChatOpenAI", [], "ChatOpenAI"),
    ],
)
def test_a_call_is_named_after_what_a_person_would_name(call: str, above: list[str], expected: str) -> None:
    nodes = [Node(f"a{n}", f"a{n + 1}", name, "span") for n, name in enumerate(above)]
    names = step_names([Node("call", "a0", call, "call", "gpt-4o"), *nodes])
    assert names["call"] == expected
    # Nothing else of the trace has that name, or two different things would be replayed as one.
    assert expected not in [name for id, name in names.items() if id != "call"]


def test_parents_in_a_circle_end() -> None:
    names = step_names(
        [Node("a", "b", "ChatOpenAI", "call"), Node("b", "a", "LangGraph", "span"), Node("c", "c", "llm", "call")]
    )
    assert names == {"a": "ChatOpenAI", "b": "LangGraph", "c": "llm"}
