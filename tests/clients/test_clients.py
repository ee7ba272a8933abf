"""Each client of the table in docs/recording.md, the real library in an environment of its own: all that it did is recorded.

An app of a dozen lines asks a server on loopback, which keeps what it receives and answers by what it was asked. So every
body that the server got must stand in the journal, once, with the answer that the server gave.
"""

import functools
import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environments
import pytest
from model_apis_server import INPUT_TOKENS, OUTPUT_TOKENS, Received, Reply, by_question, model_server, question
from recording import rows

from qbawa.ingest.journal_lines import Step, read_line
from qbawa.ingest.model_calls import understood
from qbawa.storage.journal import adopt_orphans

pytestmark = pytest.mark.clients
HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
UNRECEIVED = {"langchain": "own "}
"""Beginnings of questions that no server gets: of models that an app has itself."""


@dataclass(frozen=True)
class Recorded:
    """A row of the journal, and how it is taken in."""

    row: dict[str, Any]
    step: Step

    @property
    def asked(self) -> str:
        """The text of the last thing that somebody said who is not the model."""
        body = {"messages": json.loads(bytes(self.step.messages))}
        return question("openai.chat", body)

    @property
    def output(self) -> Any:
        return json.loads(bytes(self.step.output))


@dataclass(frozen=True)
class Run:
    """What the server saw of an app, and what the app left behind."""

    received: list[Received]
    calls: list[Recorded]
    rows: list[dict[str, Any]]


@functools.cache
def run_of(client: str) -> Run:
    python = environments.python_of(client)
    with tempfile.TemporaryDirectory() as home, model_server() as server:
        journal = Path(home) / "journal"
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env = {**kept, "PYTHONPATH": str(ROOT), "HOME": home, "XDG_DATA_HOME": home, "XDG_CACHE_HOME": home}
        env |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "DSPY_CACHEDIR": home}
        command = [python, HERE / "apps" / f"{client}_app.py", server.url, journal]
        done = subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        adopt_orphans(journal)
        found = rows(journal)
        received = list(server.received)
    for refused in ("busy",):  # once; the client asked again by itself
        first = next((one for one in received if refused in question(one.api, one.body)), None)
        if first is not None:
            received.remove(first)
    calls = []
    for row in found:
        if row["model"]:
            read = list(understood(read_line(json.dumps(row).encode())))
            assert len(read) == 1, read  # and not a reason why the body could not be read
            calls.append(Recorded(row, read[0]))
    return Run(received, calls, found)


def each(*clients: str) -> list[Any]:
    """Parameters of which one worker gets all of a client, so that its app runs once."""
    return [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in clients]


@pytest.fixture(params=each(*environments.CLIENTS))
def client(request):
    return request.param


def sent(body: dict[str, Any]) -> dict[str, Any]:
    """A body without what only says how the answer is to travel."""
    return {key: value for key, value in body.items() if key not in ("stream", "stream_options")}


def recorded_body(row: dict[str, Any]) -> dict[str, Any]:
    """The body that a row says was sent."""
    if "call" not in row:
        return {"model": row["model"], "messages": row["messages"], **(row["parameters"] or {})}
    beside = {"betas"} | ({"model"} if row["call"]["api"] == "google.generate_content" else set())
    return {key: value for key, value in row["call"]["request"].items() if key not in beside}


def matched(client: str) -> list[tuple[Received, Recorded]]:
    """Each request that was received with its recording. Fails where one is missing or there twice."""
    run = run_of(client)
    left = [call for call in run.calls if not call.asked.startswith(UNRECEIVED.get(client, "\0"))]
    pairs = []
    for received in run.received:
        asked = question(received.api, received.body)
        same = [call for call in left if recorded_body(call.row) == sent(received.body)]
        if not same and client == "litellm":  # which translates: what the app asked is recorded, not what became of it
            same = [call for call in left if call.asked == asked]
        assert same, f"{received.api} {asked!r} was received and not recorded: {received.body}"
        left.remove(same[0])
        pairs.append((received, same[0]))
    assert left == [], f"recorded more often than received: {[call.asked for call in left]}"
    return pairs


def said(reply: Reply) -> Any:
    """A reply as the canonical answer."""
    if not reply.tools:
        return reply.text
    calls = [{"type": "function", "function": {"name": name, "arguments": given}} for name, given in reply.tools]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def test_every_call_is_recorded_once_with_the_body_that_was_sent(client):
    assert len(matched(client)) >= 10


def test_answers_and_tool_calls_are_those_that_were_given(client):
    seen = Counter()
    for received, call in matched(client):
        reply = by_question(received.api, received.body)
        if reply.status != 200 or reply.breaks or "left" in call.asked or not call.row["step"].endswith("llm"):
            continue
        assert call.output == said(reply), call.asked
        seen["tools" if reply.tools else "text"] += 1
    assert seen["text"] and (seen["tools"] or client in ("dspy",)), seen


def test_models_usage_and_latency_are_recorded(client):
    for received, call in matched(client):
        reply = by_question(received.api, received.body)
        path = received.path.rpartition("/")[2].partition(":")[0]
        assert call.step.model == received.body.get("model", path)
        assert 0 < call.row["latency_s"] < 60
        counted = reply.status == 200 and not reply.breaks and "left" not in call.asked
        # Unknown is null, never 0: of a stream whose provider does not count.
        expected = (INPUT_TOKENS, OUTPUT_TOKENS) if reply.counted else (None, None)
        if counted:
            assert (call.step.input_tokens, call.step.output_tokens) == expected, call.asked
        else:
            assert call.step.output_tokens is None


def test_failures_are_recorded_with_their_reason(client):
    failed = [call for _, call in matched(client) if "fail" in call.asked]
    assert failed
    for call in failed:
        assert "refused" in call.row["error"]["message"].lower() and call.output is None
    assert all(call.row["error"] is None for _, call in matched(client) if not re.search("fail|break", call.asked))


def test_calls_stand_in_the_step_that_made_them(client):
    run = run_of(client)
    names = {row["recording_id"]: row["step"] for row in run.rows}
    within = Counter()
    for call in run.calls:
        if "in a step" in call.asked:
            assert not call.row["step"].endswith("llm") and call.row["inputs"], call.asked
            within["merged"] += 1
        elif re.search("agent|crew|twice", call.asked):
            assert call.row["step"] in ("agent.llm", "crew.llm", "ask_twice.llm"), call.asked
            assert names[call.row["parent_id"]] == call.row["step"].removesuffix(".llm")
            within["below"] += 1
        else:
            assert call.row["parent_id"] is None
    assert within["merged"]


@pytest.mark.parametrize("client", each("openai", "anthropic", "google_genai"), indirect=True)
def test_a_stream_that_is_left_or_breaks_is_recorded_as_far_as_it_was_heard(client):
    pairs = matched(client)
    broken = [call for _, call in pairs if "break" in call.asked]
    left = [call for _, call in pairs if "left" in call.asked]
    assert broken and left
    for call in broken:
        assert call.row["error"]["type"].endswith(("RemoteProtocolError", "ClientPayloadError"))
        assert f"echo {call.asked}".startswith(call.output) and 5 < len(call.output) < len(f"echo {call.asked}")
    for call in left:
        assert call.output == "echo " and call.row["error"] is None


@pytest.mark.parametrize("client", each("openai", "anthropic"), indirect=True)
def test_a_call_that_the_client_repeats_by_itself_is_one_call(client):
    assert [call.row["error"] for call in run_of(client).calls if call.asked == "busy"] == [None]


@pytest.mark.xdist_group("anthropic")
def test_betas_travel_beside_the_body_and_are_recorded():
    betas = [call.row["call"]["request"].get("betas") for call in run_of("anthropic").calls if call.asked == "beta"]
    assert betas == [["one-2025-01-01", "two-2025-01-01"]]


@pytest.mark.xdist_group("google_genai")
def test_a_model_that_stands_in_the_url_is_recorded():
    assert all(call.row["call"]["request"]["model"] == "gemini-x" for call in run_of("google_genai").calls)


@pytest.mark.parametrize("client", each("openai", "anthropic", "google_genai"), indirect=True)
def test_thoughts_are_no_part_of_the_answer(client):
    thinking = [call for call in run_of(client).calls if "think" in call.asked]
    assert thinking and all("let me see" in call.step.reasoning for call in thinking)


@pytest.mark.xdist_group("litellm")
def test_litellm_knows_what_its_calls_cost():
    calls = [call for call in run_of("litellm").calls if call.row["error"] is None and call.step.input_tokens]
    priced = [call for call in calls if call.asked != "beside"]
    assert len(priced) > 10 and all(call.row["cost_usd"] > 0 for call in priced)


@pytest.mark.xdist_group("litellm")
def test_images_within_litellm_calls_are_whole():
    [call] = [call for call in run_of("litellm").calls if call.asked == "see"]
    assert call.row["messages"][0]["content"][1]["image_url"]["url"].endswith("aGkh" * 5_000)


@pytest.mark.xdist_group("langchain")
def test_a_model_of_ones_own_within_langchain_is_recorded():
    own = {call.asked: call for call in run_of("langchain").calls if call.asked.startswith("own ")}
    assert own.keys() == {
        *("own in a step", "own tools", "own stream", "own fail", "own async", "own async stream"),
        *(f"own batch {n}" for n in range(3)),
    }
    assert own["own in a step"].row["messages"][0] == {"role": "system", "content": "Be brief."}
    assert own["own in a step"].row["parameters"] == {"temperature": 0.5}
    assert own["own tools"].output == said(Reply(tools=(("look", {"city": "Rome"}),)))
    assert own["own tools"].row["parameters"]["tools"][0]["function"]["name"] == "look"
    assert (own["own tools"].step.input_tokens, own["own stream"].step.input_tokens) == (INPUT_TOKENS, None)
    assert own["own stream"].output == "echo own stream"
    assert own["own fail"].row["error"]["message"] == "refused"


def test_every_row_of_the_manual_is_run_here():
    manual = (ROOT / "docs" / "recording.md").read_text()
    table = manual.partition("| client |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`tests/clients/apps/(\w+)_app.py`", table))
    assert named == set(environments.CLIENTS) == {path.stem.removesuffix("_app") for path in HERE.glob("apps/*_app.py")}
