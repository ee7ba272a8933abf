"""Spans become the same rows whatever the order in which they come, in how many batches, and how often."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from otlp_traces import TRACE, export, json_body, model_call, one_trace, protobuf_body, span

from qbawa.importing import import_file
from qbawa.ingest.batches import load_batch
from qbawa.ingest.formats.otlp_wire import read_request
from qbawa.ingest.span_store import SpanStore
from qbawa.ingest.stage import ingest_batch, pending_batches
from qbawa.storage.journal import JournalWriter
from qbawa.storage.lake import Lake


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def drop(journal: Path, spans: list[dict[str, Any]], lines: list[bytes] | None = None) -> None:
    """A closed segment with these spans, as the endpoint writes it."""
    with JournalWriter(journal) as writer:
        for line in lines if lines is not None else read_request(protobuf_body(spans), "protobuf").lines:
            writer.append(line)


def ingest(lake: Lake, journal: Path) -> list[str]:
    batches = pending_batches(lake, [journal])
    for batch in batches:
        ingest_batch(lake, batch)
    return [batch.name for batch in batches]


def rows_of(lake: Lake) -> dict[str, dict[str, Any]]:
    """Rows without what says where they came from, by the span's number."""
    found = lake.read("recordings").drop("block_id", "source").rows(named=True)
    rows = {str(int(row["recording_id"].rpartition(".")[2], 16)): row for row in found}
    assert len(rows) == len(found), "a span has made two rows"
    return rows


def imported(tmp_path: Path, spans: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows of one import of all spans."""
    path, lake = tmp_path / "trace.jsonl", Lake(tmp_path / "imported")
    path.write_text(json.dumps(export(spans)))
    import_file(lake, path)
    return rows_of(lake)


def test_a_call_is_named_after_the_nearest_task_or_agent_and_keeps_all_its_ancestors(tmp_path: Path) -> None:
    rows = imported(tmp_path, one_trace())
    assert {number: row["step"] for number, row in rows.items()} == {
        "1": "POST /contracts",
        "2": "handle",
        "3": "extract.task",
        "4": "extract",
        "5": "invoke_agent reviewer",
        "6": "reviewer",
        "7": "execute_tool search",
        "8": "retry",
        "9": "reviewer",
    }
    assert rows["8"]["parent_id"] == rows["5"]["recording_id"] and rows["1"]["parent_id"] is None
    assert rows["7"]["output"] == "3 hits" and rows["2"]["tags"] == '{"customer":"c7"}'
    assert {row["request_id"] for row in rows.values()} == {TRACE}


@pytest.mark.parametrize("seed", range(5))
def test_any_order_and_any_parts_make_the_same_rows(lake: Lake, tmp_path: Path, seed: int) -> None:
    chance, spans = random.Random(seed), one_trace()
    whole = imported(tmp_path, spans)
    sent = spans + chance.sample(spans, 4)  # some come twice
    chance.shuffle(sent)
    names = []
    while sent:
        size = chance.randint(1, 6)
        part, sent = sent[:size], sent[size:]
        drop(tmp_path / "journal", part)
        names += ingest(lake, tmp_path / "journal")
    assert rows_of(lake) == whole
    assert lake.read("quarantine").is_empty()
    for name in chance.sample(names, min(2, len(names))):
        assert not ingest_batch(lake, load_batch(name, [tmp_path / "journal"])).changed
    assert rows_of(lake) == whole


def test_a_lake_that_is_lost_is_built_again_from_the_same_batches(lake: Lake, tmp_path: Path) -> None:
    spans, journal = one_trace(), tmp_path / "journal"
    for part in (spans[5:], spans[:2], spans[2:5]):
        drop(journal, part)
        ingest(lake, journal)
    again = Lake(tmp_path / "again")
    ingest(again, journal)
    assert rows_of(again) == rows_of(lake) == imported(tmp_path, spans)


def test_a_parent_that_never_comes_leaves_its_children_where_they_are(lake: Lake, tmp_path: Path) -> None:
    drop(tmp_path / "journal", [one for one in one_trace() if one["spanId"] not in (f"{3:016x}", f"{1:016x}")])
    ingest(lake, tmp_path / "journal")
    rows = rows_of(lake)
    assert rows["4"]["step"] == "chat" and rows["4"]["parent_id"] == f"{TRACE}.{3:016x}"


def test_a_fuller_report_of_a_span_takes_the_place_of_a_poorer_one(lake: Lake, tmp_path: Path) -> None:
    journal, full = tmp_path / "journal", model_call(4, None, "Why?", "Because.")
    poor = span(4, None, "chat gpt-x", {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-x"}, kind=3)
    drop(journal, [poor])
    (first,) = ingest(lake, journal)
    assert rows_of(lake)["4"]["output"] is None
    drop(journal, [full])
    ingest(lake, journal)
    assert rows_of(lake) == imported(tmp_path, [full])
    ingest_batch(lake, load_batch(first, [journal]))
    drop(journal, [poor, span(1, None, "late", {})])
    ingest(lake, journal)
    assert rows_of(lake) == imported(tmp_path, [full])


def test_spans_of_other_work_are_left_out_and_counted(lake: Lake, tmp_path: Path) -> None:
    drop(tmp_path / "journal", [one_trace()[-1], one_trace()[3]])
    (batch,) = pending_batches(lake, [tmp_path / "journal"])
    report = ingest_batch(lake, batch)
    assert (report.lines, report.rows, report.left_out, report.quarantined) == (2, 1, 1, 0)


def test_two_descriptions_of_one_call_count_once(tmp_path: Path) -> None:
    said = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-x", "gen_ai.response.id": "msg_1"}
    bare = span(11, 3, "anthropic.messages.create", said | {"gen_ai.usage.input_tokens": 11}, kind=3)
    inner = model_call(12, 4, "Extract!", "Three clauses.")
    rows = imported(tmp_path, [*one_trace(), bare, model_call(13, 3, "a", "b", gen_ai__response__id="msg_1"), inner])
    assert rows["11"]["input_tokens"] is None and rows["11"]["step"] == "anthropic.messages.create"
    assert rows["13"]["input_tokens"] == 11 and rows["13"]["step"] == "extract"
    assert rows["4"]["model"] is None and rows["12"]["step"] == "extract"


@pytest.mark.parametrize(
    "name, step",
    [
        ("Chat Completion with {request_data[model]!r}", "Chat Completion"),
        ("{request_data[model]!r}", "chat"),
        ("chat gpt-x", "chat"),
        ("draft the letter", "draft the letter"),
    ],
)
def test_what_is_left_of_a_template_is_no_name(tmp_path: Path, name: str, step: str) -> None:
    assert imported(tmp_path, [model_call(1, None, "a", "b") | {"name": name}])["1"]["step"] == step


def test_a_call_of_an_instrumentation_is_named_after_the_function_around_it(tmp_path: Path) -> None:
    server = span(1, None, "POST /", {}, kind=2)
    call = model_call(3, 2, "a", "b") | {"name": "ChatCompletion"}
    rows = imported(tmp_path, [server, span(2, 1, "summarise", {}), call])
    # The function's own row has another name: under one, two different things would be replayed.
    assert [rows[n]["step"] for n in "123"] == ["POST /", "summarise.span", "summarise"]


def test_tools_parameters_and_cost_survive(tmp_path: Path) -> None:
    tool = {"type": "function", "name": "search", "description": "finds", "parameters": {"type": "object"}}
    call = model_call(
        1, None, "a", "b", gen_ai__tool__definitions=json.dumps([tool]), gen_ai__usage__cost=0.002,
        gen_ai__request__stop_sequences=["END"], gen_ai__request__temperature=0.5,
    )  # fmt: skip
    row = imported(tmp_path, [call])["1"]
    assert json.loads(row["parameters"]) == {
        "stop": ["END"],
        "temperature": 0.5,
        "tools": [
            {
                "type": "function",
                "function": {"name": "search", "description": "finds", "parameters": {"type": "object"}},
            }
        ],
    }
    assert row["cost_usd"] == 0.002


def test_a_request_as_it_was_sent_says_more_than_its_flattened_attributes(tmp_path: Path) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}}
    request = {
        "model": "gpt-x",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, image]}],
        "tool_choice": "auto",
        "response_format": {"type": "json_object"},
    }
    attributes = {
        "openinference.span.kind": "LLM",
        "input.value": json.dumps(request),
        "input.mime_type": "application/json",
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.content": "What?",
        "llm.model_name": "gpt-x",
        "output.value": "A picture.",
    }
    row = imported(tmp_path, [span(1, None, "ChatCompletion", attributes)])["1"]
    assert json.loads(row["messages"]) == request["messages"]
    assert json.loads(row["parameters"]) == {"tool_choice": "auto", "response_format": {"type": "json_object"}}


def test_logfire_s_short_form_of_request_and_response_is_read(tmp_path: Path) -> None:
    request = {"model": "gpt-x", "messages": [{"role": "user", "content": "Why?"}], "seed": 3}
    answer = {"message": {"role": "assistant", "content": "So."}, "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
    attributes = {
        "logfire.span_type": "span", "gen_ai.request.model": "gpt-x", "request_data": json.dumps(request),
        "response_data": json.dumps(answer), "operation.cost": 0.5,
    }  # fmt: skip
    name = "Chat Completion with {request_data[model]!r}"
    call = span(2, 1, name, attributes)
    pending = span(3, 2, name, attributes | {"logfire.span_type": "pending_span"})
    rows = imported(tmp_path, [span(1, None, "answer the customer", {}), call, pending])
    assert set(rows) == {"1", "2"} and rows["2"]["step"] == "answer the customer"
    assert json.loads(rows["2"]["messages"]) == request["messages"] and rows["2"]["output"] == "So."
    assert (rows["2"]["input_tokens"], rows["2"]["output_tokens"], rows["2"]["cost_usd"]) == (5, 2, 0.5)
    assert json.loads(rows["2"]["parameters"]) == {"seed": 3}


def test_protobuf_and_json_say_the_same() -> None:
    spans = one_trace()
    by_json, by_protobuf = read_request(json_body(spans), "json"), read_request(protobuf_body(spans), "protobuf")
    assert [json.loads(line) for line in by_json.lines] == [json.loads(line) for line in by_protobuf.lines]
    assert by_json.refused == by_protobuf.refused == 0


def test_secrets_do_not_reach_the_disk() -> None:
    call = model_call(1, None, "my key is sk-proj-abcdefghijklmnop123456", "b", api_key="hunter2-hunter2")
    for received in (read_request(json_body([call]), "json"), read_request(protobuf_body([call]), "protobuf")):
        assert b"abcdefghijklmnop" not in received.lines[0] and b"hunter2" not in received.lines[0]
        assert json.loads(received.lines[0])["recording_id"] == f"{TRACE}.{1:016x}"


def test_half_a_surrogate_pair_costs_no_span() -> None:
    body = json_body([model_call(1, None, "cut here HALF", "b")]).replace(b"HALF", b"\\ud83d")
    (line,) = read_request(body, "json").lines
    assert "\ufffd" in json.loads(line)["attributes"]["gen_ai.input.messages"]


def test_a_forgotten_trace_leaves_no_byte_behind(lake: Lake, tmp_path: Path) -> None:
    drop(tmp_path / "journal", [span(1, None, "handle", {"customer": "Zebulon"})])
    ingest(lake, tmp_path / "journal")
    store = SpanStore(tmp_path / "journal" / "batches")
    assert TRACE.encode() in store.path.read_bytes()
    store.forget(TRACE)
    assert TRACE.encode() not in store.path.read_bytes()
    assert not store.others([TRACE], "another")


def test_lines_of_the_kind_span_that_are_none_are_quarantined(lake: Lake, tmp_path: Path) -> None:
    good = json.loads(read_request(json_body(one_trace()[3:4]), "json").lines[0])
    bad = [good | {"events": [{"name": "x", "attributes": 7}]}, good | {"attributes": []}, good | {"recording_id": "x"}]
    drop(tmp_path / "journal", [], [json.dumps(one).encode() for one in (*bad, good)])
    ingest(lake, tmp_path / "journal")
    assert list(rows_of(lake)) == ["4"]
    assert [reason.split(":")[0] for reason in lake.read("quarantine")["reason"]] == ["wrong_type"] * 3
