"""Calls made through litellm and the openai package are recorded completely, each in its step."""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from openai_server import serve
from recording import rows, written

import qbawa
from qbawa.storage.journal import closed_segments

pytestmark = pytest.mark.slow

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def url():
    server, url = serve()
    yield url
    server.shutdown()
    server.server_close()


# Someone's app: sync, threaded, async, streaming, failing, and gone as soon as it is done. One line of it is ours.
APP = """
import asyncio, os, sys
from concurrent.futures import ThreadPoolExecutor
import litellm
import qbawa; qbawa.record_litellm(sys.argv[2])
options = dict(model="openai/gpt-4o-mini", api_base=sys.argv[1], api_key="sk-none", max_retries=0, num_retries=0)

def ask(text, **more):
    return litellm.completion(messages=[{"role": "user", "content": text}], **options, **more)

async def aask(text, **more):
    return await litellm.acompletion(messages=[{"role": "user", "content": text}], **options, **more)

ask("sync", temperature=0.5)
with ThreadPoolExecutor(8) as pool:
    list(pool.map(ask, [f"thread {n}" for n in range(40)]))
for chunk in ask("sync stream", stream=True): pass
try: ask("fail")
except litellm.BadRequestError: pass
ask("tool")

async def main():
    await asyncio.gather(*[aask(f"task {n}") for n in range(300)])
    async for chunk in await aask("async stream", stream=True): pass
    try: await aask("fail async")
    except litellm.BadRequestError: pass
asyncio.run(main())
"""

# The same, by someone who also uses our steps.
STEPS = """
@qbawa.step
def one(text): return ask(text).choices[0].message.content

@qbawa.step
def two(text): return [ask(f"{text} {n}").choices[0].message.content for n in range(2)]

@qbawa.step
def stream(text):
    for chunk in ask(text, stream=True): yield chunk.choices[0].delta.content or ""

@qbawa.step
def stream_object(text): return ask(text, stream=True)

@qbawa.step
async def aone(text): return (await aask(text)).choices[0].message.content

@qbawa.step
async def agather(text): return await asyncio.gather(*[aone(f"{text} {n}") for n in range(50)])

with qbawa.request(request_id="with steps"):
    one("step"); two("steps"); list(stream("step stream")); list(stream_object("step object"))
    with ThreadPoolExecutor(4) as pool: list(pool.map(one, [f"pooled {n}" for n in range(20)]))
    asyncio.run(agather("gathered"))
    try: one("fail in step")
    except litellm.BadRequestError: pass
"""


@pytest.fixture(scope="module")
def app(url, tmp_path_factory):
    """Rows that the app leaves behind. One process for all tests, since importing litellm takes seconds."""
    pytest.importorskip("litellm")
    folder = tmp_path_factory.mktemp("journal")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    env.update(LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_OFFLINE_MODE="true")
    command = [sys.executable, "-c", APP + STEPS, url, str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert closed_segments(folder)
    return rows(folder)


def said(row):
    return row["messages"][-1]["content"]


def test_an_app_with_litellm_is_recorded_completely_by_one_line(app):
    calls = Counter(said(row) for row in app if row["request_id"] != "with steps")
    expected = ["sync", "sync stream", "async stream", "fail", "fail async", "tool"]
    expected += [f"thread {n}" for n in range(40)] + [f"task {n}" for n in range(300)]
    assert calls == Counter(expected)


def test_litellm_calls_carry_answer_usage_and_cost(app):
    for row in app:
        if row["model"] and row["error"] is None and "tool" not in said(row) and row["step"] == "llm":
            assert row["output"] == f"echo {said(row)}"
            assert (row["input_tokens"], row["output_tokens"], row["model"]) == (5, 2, "gpt-4o-mini")
            assert row["cost_usd"] == pytest.approx(5 * 0.15e-6 + 2 * 0.6e-6)
            assert 0 < row["latency_s"] < 60
    [row] = [row for row in app if row["model"] and said(row) == "sync"]
    assert row["parameters"] == {"temperature": 0.5}


def test_litellm_failures_are_recorded_with_their_reason(app):
    failed = [row for row in app if row["model"] and said(row).startswith("fail") and row["step"] == "llm"]
    assert len(failed) == 2
    for row in failed:
        assert "BadRequestError" in row["error"]["type"] and "refused" in row["error"]["message"]
        assert row["output"] is None and row["cost_usd"] is None


def test_an_answer_that_calls_tools_is_the_whole_message(app):
    [row] = [row for row in app if row["model"] and said(row) == "tool"]
    assert row["output"]["tool_calls"][0]["function"]["name"] == "look"


def test_litellm_calls_land_in_the_step_that_made_them(app):
    steps = [row for row in app if row["request_id"] == "with steps"]
    kinds = Counter((row["step"], bool(row["model"])) for row in steps)
    assert kinds == {
        ("one", True): 22,
        ("two", False): 1,
        ("two.llm", True): 2,
        ("stream", True): 1,
        ("stream_object", True): 1,
        ("aone", True): 50,
        ("agather", False): 1,
    }
    for row in steps:
        if row["step"] in ("one", "aone", "stream", "stream_object"):
            assert said(row) == row["inputs"]["text"]
            assert row["output"] == (None if row["error"] else f"echo {said(row)}")
    [two] = [row for row in steps if row["step"] == "two"]
    assert [row["parent_id"] for row in steps if row["step"] == "two.llm"] == [two["recording_id"]] * 2
    [gather] = [row for row in steps if row["step"] == "agather"]
    assert {row["parent_id"] for row in steps if row["step"] == "aone"} == {gather["recording_id"]}


def test_no_litellm_key_is_in_the_journal(app):
    assert not any("sk-none" in str(row) for row in app)


def client(url, kind="OpenAI"):
    return qbawa.wrap_openai(getattr(openai, kind)(base_url=url, api_key="sk-none", max_retries=0))


def question(text):
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


def test_openai_calls_are_recorded_in_their_step(journal, url):
    openai_client = client(url)

    @qbawa.step
    def ask(text):
        return openai_client.chat.completions.create(**question(text), temperature=0).choices[0].message.content

    assert ask("hello") == "echo hello"
    [row] = written(journal)
    assert (row["step"], row["output"], row["model"], row["parameters"]) == (
        "ask",
        "echo hello",
        "m",
        {"temperature": 0},
    )
    assert (row["input_tokens"], row["output_tokens"], row["cost_usd"]) == (5, 2, None)
    assert row["messages"] == question("hello")["messages"]


def test_openai_streams_are_recorded_when_they_end_and_as_far_as_they_were_read(journal, url):
    openai_client = client(url)
    stream = openai_client.chat.completions.create(**question("a b"), stream=True)
    assert isinstance(stream, openai.Stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == "echo a b"
    with openai_client.chat.completions.create(**question("a b"), stream=True) as stream:
        next(stream)
    with openai_client.chat.completions.stream(**question("helper")) as helper:
        assert helper.get_final_completion().choices[0].message.content == "echo helper"
    tools = openai_client.chat.completions.create(**question("tool"), stream=True)
    assert len(list(tools)) == 3
    whole, part, helped, tool = written(journal)
    assert (whole["output"], whole["input_tokens"]) == ("echo a b", 5)
    assert (part["output"], part["input_tokens"], part["error"]) == ("echo", None, None)
    assert helped["output"] == "echo helper"
    function = {"name": "look", "arguments": {"up": 1}}
    assert tool["output"]["tool_calls"] == [{"type": "function", "function": function}]


def test_openai_failures_are_recorded_and_raised(journal, url):
    with pytest.raises(openai.BadRequestError):
        client(url).chat.completions.create(**question("fail"))
    [row] = written(journal)
    assert row["error"]["type"] == "openai.BadRequestError" and row["output"] is None


def test_async_openai_calls_and_streams(journal, url):
    async def main():
        openai_client = client(url, "AsyncOpenAI")

        @qbawa.step
        async def ask(text):
            return (await openai_client.chat.completions.create(**question(text))).choices[0].message.content

        await asyncio.gather(*[ask(f"q{n}") for n in range(10)])
        async for _ in await openai_client.chat.completions.create(**question("stream"), stream=True):
            pass
        early = await openai_client.chat.completions.create(**question("left early"), stream=True)
        await anext(early)
        await early.close()
        await openai_client.close()

    asyncio.run(main())
    found = written(journal)
    assert sorted(row["output"] for row in found if row["step"] == "ask") == sorted(f"echo q{n}" for n in range(10))
    assert [row["output"] for row in found if row["step"] == "llm"] == ["echo stream", "echo"]


def test_derived_raw_and_responses_calls_of_an_openai_client(journal, url):
    openai_client = client(url)
    openai_client.with_options(timeout=5).chat.completions.create(**question("derived"))
    raw = openai_client.chat.completions.with_raw_response.create(**question("raw"))
    assert raw.parse().choices[0].message.content == "echo raw"
    openai_client.responses.create(model="m", input="response")
    assert len(list(openai_client.responses.create(model="m", input="streamed", stream=True))) == 2
    assert qbawa.wrap_openai(openai_client) is openai_client
    openai_client.chat.completions.create(**question("once"))
    found = written(journal)
    derived, raw_one, response, streamed, once = found
    assert [row["output"] for row in (derived, raw_one, once)] == ["echo derived", "echo raw", "echo once"]
    for row, asked in ((response, "response"), (streamed, "streamed")):
        assert (row["call"]["api"], row["model"], row["messages"]) == ("openai.responses", "m", None)
        assert row["call"]["request"] == {"model": "m", "input": asked}
        assert row["call"]["response"]["output"][0]["content"][0]["text"] == f"echo {asked}"
        assert row["call"]["response"]["usage"] == {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}


def test_a_wrapped_client_works_where_nothing_is_recorded(url, monkeypatch):
    monkeypatch.delenv("QBAWA_JOURNAL", raising=False)
    qbawa.configure()
    assert client(url).chat.completions.create(**question("x")).choices[0].message.content == "echo x"
