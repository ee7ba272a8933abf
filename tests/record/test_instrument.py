"""`instrument` records clients by their classes, is told apart from what it cannot record, and costs an app next to nothing.

The openai package and litellm stand for all here; tests/clients runs every client that the manual names.
"""

import asyncio
import gc
import json
import os
import sys
import threading
import time

import pytest
from model_apis_server import Reply, by_question, model_server
from recording import rows, run, written

import qbawa
from qbawa.record.streams import events_of, whole

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def server():
    with model_server() as running:
        yield running


@pytest.fixture
def client(server, journal):
    qbawa.instrument()
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-none", max_retries=0)


def asked(text):
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


def test_it_says_what_it_records_and_changes_nothing_the_second_time(client, journal):
    found = qbawa.instrument()
    assert "openai" in found.recorded and found == qbawa.instrument()
    client.chat.completions.create(**asked("once"))
    assert [row["output"] for row in written(journal)] == ["echo once"]


@pytest.mark.slow
def test_one_line_before_the_import_is_enough(server, tmp_path):
    code = f"""
    import qbawa, sys
    qbawa.instrument({str(tmp_path / "own")!r})
    assert "openai" not in sys.modules
    import openai
    assert openai._base_client.__spec__.loader is openai._base_client.__loader__
    assert "qbawa" not in type(openai._base_client.__loader__).__module__
    openai.OpenAI(base_url={server.url + "/v1"!r}, api_key="k").chat.completions.create(
        model="m", messages=[{{"role": "user", "content": "early"}}])
    """
    run(code, tmp_path / "unused")
    assert [row["output"] for row in rows(tmp_path / "own")] == ["echo early"]


def test_a_package_that_is_built_differently_is_said_not_to_be_recorded(journal, monkeypatch, caplog):
    changed = type(sys)("groq._base_client")
    monkeypatch.setitem(sys.modules, "groq._base_client", changed)
    found = qbawa.instrument()
    assert "groq" not in found.recorded and "AttributeError" in found.not_recorded["groq"]
    assert "groq" in caplog.text


@pytest.mark.parametrize(
    "wrong, instead",
    [
        (openai.OpenAI, "not its class"),
        (openai.OpenAI(api_key="k").chat, "not a part of it"),
        (type("Anthropic", (), {"__module__": "anthropic"})(), "qbawa.instrument()"),
        (type("Client", (), {"__module__": "theirs"})(), "qbawa.llm_call()"),
        (None, "qbawa.llm_call()"),
    ],
)
def test_wrap_openai_refuses_what_it_would_not_record(wrong, instead):
    with pytest.raises(TypeError, match="records clients of the openai package") as error:
        qbawa.wrap_openai(wrong)
    assert instead in str(error.value)


def test_a_wrapped_client_is_not_recorded_twice(client, journal):
    qbawa.wrap_openai(client).chat.completions.create(**asked("once"))
    client.with_options(timeout=5).chat.completions.create(**asked("derived"))
    assert [row["output"] for row in written(journal)] == ["echo once", "echo derived"]


def test_a_stream_without_usage_counts_as_unknown(client, journal):
    list(client.chat.completions.create(**asked("uncounted"), stream=True))
    [row] = written(journal)
    assert (row["output"], row["input_tokens"], row["output_tokens"]) == ("echo uncounted", None, None)


def test_a_stream_that_nobody_reads_on_is_recorded_when_it_is_forgotten(client, journal):
    stream = client.chat.completions.create(**asked("one two three"), stream=True)
    for chunk in stream:
        if chunk.choices[0].delta.content == "one ":
            break
    del stream, chunk
    gc.collect()
    [row] = written(journal)
    assert row["output"] == "echo one " and row["error"] is None


def test_what_is_recorded_of_a_reply_is_what_was_sent_and_no_more_is_read(client, journal, server):
    body = {"metadata": {"a": 1}, "extra": [1.0, None]}
    client.chat.completions.create(**asked("beside"), extra_body=body, stop=openai.omit)
    [row] = written(journal)
    assert server.received[-1].body == {"model": "m", "messages": row["messages"], **row["parameters"]}


def test_a_question_with_a_large_image_is_recorded_whole(client, journal):
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "aGkh" * 750_000}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "see"}, picture]}]
    client.chat.completions.create(model="m", messages=messages)
    qbawa.llm_call(model="m", messages=messages, output="x")
    assert [row["messages"] == messages for row in written(journal)] == [True, True]


def test_a_request_that_a_client_makes_meanwhile_is_no_part_of_the_call(client, journal):
    """As for a token, by another client of the same package."""
    other = openai.OpenAI(base_url=client.base_url, api_key="k")
    client._prepare_request = lambda request: other.get("/models", cast_to=object)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**asked("fail meanwhile"))
    [row] = written(journal)
    assert row["messages"] == asked("fail meanwhile")["messages"] and row["output"] is None


def test_calls_in_threads_and_tasks_stand_in_their_step(client, journal, server):
    @qbawa.step
    def outer(text):
        threads = [
            threading.Thread(target=client.chat.completions.create, kwargs=asked(f"{text} {n}")) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    @qbawa.step
    async def aouter(text):
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="k") as aclient:
            await asyncio.gather(*[aclient.chat.completions.create(**asked(f"{text} {n}")) for n in range(4)])

    outer("thread")
    asyncio.run(aouter("task"))
    found = written(journal)
    ids = {row["recording_id"]: row["step"] for row in found}
    calls = [row for row in found if row["model"]]
    assert len(calls) == 8
    assert all(ids[row["parent_id"]] == ("outer" if "thread" in row["output"] else "aouter") for row in calls)


def test_a_forked_child_records_its_calls(client, journal):
    client.chat.completions.create(**asked("parent"))
    child = os.fork()
    if not child:
        try:
            own = openai.OpenAI(base_url=client.base_url, api_key="k")
            own.chat.completions.create(**asked("child"))
            qbawa.flush()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert sorted(row["output"] for row in written(journal)) == ["echo child", "echo parent"]


def test_whatever_a_server_says_the_app_gets_it_and_the_recorder_does_not_raise(journal):
    replies = iter(
        [{"choices": None}, {"choices": [None, 3]}, {"usage": [], "choices": [{"message": "x"}]}, {"error": "no"}]
    )

    def script(api, body):
        return Reply(text="x", more=next(replies))

    with model_server(script) as odd:
        qbawa.instrument()
        own = openai.OpenAI(base_url=f"{odd.url}/v1", api_key="k", max_retries=0)
        for _ in range(4):
            own.chat.completions.create(**asked("odd"))
    assert len(written(journal)) == 4
    assert all(row["messages"] == asked("odd")["messages"] for row in written(journal))
    assert qbawa.stats().dropped == {}


@pytest.mark.slow
def test_an_unfinished_call_is_written_with_its_question_when_the_process_ends(server, tmp_path):
    code = f"""
    import qbawa, threading
    qbawa.instrument()
    import openai
    stream = openai.OpenAI(base_url={server.url + "/v1"!r}, api_key="k").chat.completions.create(
        model="m", messages=[{{"role": "user", "content": "one two"}}], stream=True)
    next(stream); next(stream)
    """
    run(code, tmp_path)
    [row] = rows(tmp_path)
    assert row["messages"][0]["content"] == "one two" and row["output"] in ("echo ", "")


def test_a_call_costs_the_app_microseconds(journal, monkeypatch):
    """What is added to `request`: of a client that answers at once, so that nothing else is measured."""
    from qbawa.record.integrations import stainless

    reply = json.dumps({"model": "m", "choices": [{"message": {"content": "x" * 1_000}}]}).encode()

    class Request:
        content = json.dumps(asked("y" * 1_000)).encode()

    class Response:
        request, content, headers = Request, reply, {"content-type": "application/json"}

    class Options:
        method, url, json_data, headers = "post", "/chat/completions", asked("y" * 1_000), {}

    class SyncAPIClient:
        def request(self, cast_to, options):
            return self._process_response(response=Response)

        def _process_response(self, *, response):
            return response

    class AsyncAPIClient(SyncAPIClient):
        pass

    module = type(sys)("some._base_client")
    bare = SyncAPIClient.request
    module.SyncAPIClient, module.AsyncAPIClient = SyncAPIClient, AsyncAPIClient
    stainless.record_package(module)
    own = SyncAPIClient()

    def least(function, *args, times=300):
        took = []
        for _ in range(times):
            began = time.perf_counter()
            function(*args)
            took.append(time.perf_counter() - began)
        return sorted(took)[times // 10]

    recorded = least(own.request, None, Options)
    assert recorded - least(bare, own, None, Options, times=3_000) < 100e-6
    assert len(written(journal)) == 300


def test_half_an_event_at_the_end_of_a_broken_stream_is_let_go():
    data = b'event: x\r\ndata: {"a": 1}\r\n\r\n: comment\n\ndata: {"b":\ndata: 2}\n\ndata: [DONE]\n\ndata: {"c": '
    assert list(events_of(data)) == [{"a": 1}, {"b": 2}]


def test_a_stream_that_says_an_error_ends_in_it():
    said = {"choices": [{"index": 0, "delta": {"content": "half"}}]}
    body, error = whole("openai.chat", [said, {"error": {"message": "overloaded", "type": "server_error"}}])
    assert body["choices"][0]["message"]["content"] == "half" and error["message"] == "overloaded"


@pytest.mark.parametrize("api", ["openai.chat", "openai.responses", "anthropic.messages", "google.generate_content"])
def test_a_stream_put_together_is_the_reply_without_streaming(api):
    import model_apis_server

    for text, tools in (("one two three", ()), (None, (("look", {"city": "Rome"}), ("look", {})))):
        reply = Reply(text=text, tools=tools, thought="hm")
        single, events = model_apis_server._SPEAK[api]("m", reply)
        body, error = whole(api, events)
        assert error is None
        assert body == single or api == "openai.chat" and _without_nulls(body) == _without_nulls(single)


def _without_nulls(value):
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def test_the_mock_answers_by_what_it_is_asked():
    assert by_question("openai.chat", asked("hi")).text == "echo hi"
    assert by_question("openai.chat", asked("fail")).status == 400


def test_a_chat_completion_says_by_which_api_it_was_made(client, journal):
    client.chat.completions.create(**asked("chat"))
    client.responses.create(model="m", input="responses")
    chat, responses = written(journal)
    assert chat["api"] == "openai.chat" and "call" not in chat
    assert responses["call"]["api"] == "openai.responses" and "api" not in responses
