"""Steps, requests, nesting, streams, model calls, sampling and feedback, as they stand in the journal."""

import asyncio
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from recording import rows

import qbawa
from qbawa.errors import ConfigError
from qbawa.record import context, recorder
from qbawa.record.context import Call


@pytest.fixture
def journal(tmp_path):
    qbawa.configure(tmp_path / "journal", pipeline="contracts")
    yield tmp_path / "journal"
    qbawa.configure()


def written(folder, kind="step"):
    assert qbawa.flush(10)
    return rows(folder, kind)


def step_named(found, name):
    [row] = [row for row in found if row["step"] == name]
    return row


def test_a_step_is_recorded_by_parameter_name(journal):
    @qbawa.step
    def extract(contract, /, language="en", *more, strict, depth=2, **options):
        return {"parties": [contract]}

    assert extract("text", "de", 1, 2, strict=True, colour="red") == {"parties": ["text"]}
    [row] = written(journal)
    assert row["inputs"] == {
        "contract": "text",
        "language": "de",
        "more": [1, 2],
        "strict": True,
        "depth": 2,
        "options": {"colour": "red"},
    }
    assert (row["step"], row["pipeline"], row["output"]) == ("extract", "contracts", {"parties": ["text"]})
    assert (row["error"], row["parent_id"], row["model"], row["llm_calls"]) == (None, None, None, 0)
    assert row["latency_s"] >= 0 and row["started_at"].endswith("+00:00")


def test_the_line_has_exactly_the_documented_fields(journal):
    qbawa.step(lambda: None)()
    [row] = written(journal)
    assert set(row) == {
        *("v", "kind", "recording_id", "request_id", "parent_id", "pipeline", "step", "inputs", "messages", "output"),
        *("model", "parameters", "input_tokens", "output_tokens", "cost_usd", "started_at", "latency_s", "error"),
        *("tags", "user", "llm_calls"),
    }


def test_inputs_and_output_are_those_of_the_moment(journal):
    @qbawa.step
    def change(items):
        items.append("by the step")
        return items

    change(["before"]).append("after")
    [row] = written(journal)
    assert row["inputs"] == {"items": ["before"]}
    assert row["output"] == ["before", "by the step"]


def test_an_error_is_recorded_with_its_traceback_and_cause_and_raised_as_it_was(journal):
    error = KeyError("absent")

    @qbawa.step
    def fail():
        try:
            raise ValueError("first")
        except ValueError as cause:
            raise error from cause

    with pytest.raises(KeyError) as raised:
        fail()
    assert raised.value is error
    [row] = written(journal)
    assert row["error"]["type"] == "KeyError" and row["error"]["message"] == "'absent'"
    assert "ValueError: first" in row["error"]["traceback"] and "raise error from cause" in row["error"]["traceback"]
    assert row["output"] is None


def test_steps_nest(journal):
    @qbawa.step
    def inner(number):
        return number

    @qbawa.step(name="outside")
    def outer():
        return inner(1) + inner(2)

    outer()
    first, second, last = written(journal)
    assert last["step"] == "outside" and last["parent_id"] is None
    assert first["parent_id"] == second["parent_id"] == last["recording_id"]
    assert len({row["request_id"] for row in (first, second, last)}) == 1
    assert len({row["recording_id"] for row in (first, second, last)}) == 3


def test_a_step_outside_any_request_is_a_request_of_its_own(journal):
    @qbawa.step
    def alone():
        pass

    alone()
    alone()
    first, second = written(journal)
    assert first["request_id"] != second["request_id"]
    assert written(journal, "request") == []


def test_a_request_carries_user_tags_and_feedback(journal):
    @qbawa.step
    def work():
        pass

    with qbawa.request(user="u42", tags={"plan": "pro"}, pipeline="other", request_id="r1") as request:
        request.tags["late"] = 1
        work()
        request.feedback(score=1, comment="sent unchanged")
    qbawa.feedback("r1", 0.5)
    [row] = written(journal)
    assert (row["user"], row["tags"], row["pipeline"]) == ("u42", {"plan": "pro", "late": 1}, "other")
    assert row["request_id"] == request.request_id == "r1"
    [closed] = rows(journal, "request")
    assert closed["latency_s"] >= 0 and closed["error"] is None and closed["tags"] == {"plan": "pro", "late": 1}
    now, later = rows(journal, "feedback")
    assert (now["score"], now["comment"], now["request_id"]) == (1, "sent unchanged", "r1")
    assert (later["score"], later["comment"]) == (0.5, None)


def test_a_request_that_fails_says_so(journal):
    async def main():
        async with qbawa.request():
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        asyncio.run(main())
    [row] = written(journal, "request")
    assert row["error"]["type"] == "OSError"


def test_methods_are_recorded_without_self(journal):
    class Pipeline:
        @qbawa.step
        def method(self, number):
            return number

        @qbawa.step
        @classmethod
        def on_class(cls, number):
            return number

        @classmethod
        @qbawa.step
        def on_class_too(cls, number):
            return number

        @qbawa.step
        @staticmethod
        def static(number):
            return number

        @qbawa.step
        async def coroutine(self, number):
            return number

    pipeline = Pipeline()
    assert pipeline.method(1) + Pipeline.on_class(2) + pipeline.on_class_too(3) + pipeline.static(4) == 10
    assert asyncio.run(pipeline.coroutine(number=5)) == 5
    assert [row["inputs"] for row in written(journal)] == [{"number": number} for number in (1, 2, 3, 4, 5)]


def test_a_step_may_be_named(journal):
    @qbawa.step("first")
    def one():
        pass

    @qbawa.step(name="second")
    def two():
        pass

    one()
    two()
    assert [row["step"] for row in written(journal)] == ["first", "second"]
    with pytest.raises(TypeError, match="Put it on the method"):
        qbawa.step(type("Class", (), {}))


def test_what_the_decorator_returns_looks_like_the_function():
    def plain(x: int) -> int:
        """Documented."""
        return x

    async def coroutine(): ...

    def generator():
        yield

    async def async_generator():
        yield

    assert qbawa.step(plain).__doc__ == "Documented." and inspect.signature(qbawa.step(plain)) == inspect.signature(
        plain
    )
    assert inspect.iscoroutinefunction(qbawa.step(coroutine))
    assert inspect.isgeneratorfunction(qbawa.step(generator))
    assert inspect.isasyncgenfunction(qbawa.step(async_generator))


def test_a_stream_is_recorded_when_exhausted(journal):
    @qbawa.step
    def words(text):
        yield from text.split()

    @qbawa.step
    def numbers():
        yield 1
        yield {"a": 2}

    assert list(words("a b")) == ["a", "b"]
    assert list(numbers()) == [1, {"a": 2}]
    assert [row["output"] for row in written(journal)] == ["ab", [1, {"a": 2}]]


def test_a_stream_that_is_left_early_is_recorded_as_far_as_it_got(journal):
    closed = []

    @qbawa.step
    def words():
        try:
            yield "a"
            yield "b"
        finally:
            closed.append(True)

    stream = words()
    next(stream)
    stream.close()
    [row] = written(journal)
    assert row["output"] == "a" and row["error"] is None and closed == [True]


def test_a_stream_that_is_never_read_is_not_recorded(journal):
    @qbawa.step
    def words():
        yield "a"

    words()
    assert written(journal) == []


def test_a_generator_still_takes_what_is_sent_and_thrown_and_returns(journal):
    @qbawa.step
    def echo():
        received = []
        while len(received) < 2:
            try:
                received.append((yield len(received)))
            except ValueError as error:
                received.append(str(error))
        return received

    def consume():
        stream = echo()
        next(stream)
        stream.send("sent")
        try:
            stream.throw(ValueError("thrown"))
        except StopIteration as stop:
            return stop.value

    assert consume() == ["sent", "thrown"]
    assert written(journal)[0]["output"] == [0, 1]


def test_a_streaming_step_is_current_only_while_its_own_code_runs(journal):
    @qbawa.step
    def inside():
        pass

    @qbawa.step
    def outside():
        pass

    @qbawa.step
    def stream():
        inside()
        yield 1
        inside()
        yield 2

    for _ in stream():
        outside()
    found = written(journal)
    own = step_named(found, "stream")
    assert [row["parent_id"] for row in found if row["step"] == "inside"] == [own["recording_id"]] * 2
    assert [row["parent_id"] for row in found if row["step"] == "outside"] == [None] * 2
    assert context.current.get() is None


def test_async_streams_and_their_early_end(journal):
    @qbawa.step
    async def words(number):
        for index in range(number):
            await asyncio.sleep(0)
            yield f"w{index}"

    async def main():
        assert [word async for word in words(2)] == ["w0", "w1"]
        early = words(9)
        assert await anext(early) == "w0"
        await early.aclose()
        assert context.current.get() is None

    asyncio.run(main())
    assert [row["output"] for row in written(journal)] == ["w0w1", "w0"]


def test_concurrent_tasks_keep_to_their_own_request(journal):
    @qbawa.step
    async def inner(number):
        await asyncio.sleep(0.001 * (number % 3))
        return number

    @qbawa.step
    async def outer(number):
        return await asyncio.gather(*[inner(number) for _ in range(3)])

    async def one(number):
        async with qbawa.request(request_id=f"r{number}"):
            await outer(number)

    async def main():
        await asyncio.gather(*map(one, range(20)))

    asyncio.run(main())
    found = written(journal)
    outers = {row["request_id"]: row for row in found if row["step"] == "outer"}
    assert len(outers) == 20
    inners = [row for row in found if row["step"] == "inner"]
    assert len(inners) == 60
    for row in inners:
        assert row["request_id"] == f"r{row['output']}"
        assert row["parent_id"] == outers[row["request_id"]]["recording_id"]


def test_a_cancelled_step_is_recorded_as_cancelled(journal):
    @qbawa.step
    async def sleep():
        await asyncio.sleep(60)

    async def main():
        task = asyncio.create_task(sleep())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert written(journal)[0]["error"]["type"] == "asyncio.exceptions.CancelledError"


def test_threads_and_thread_pools_belong_to_the_step_that_uses_them(journal):
    @qbawa.step
    def inner(how):
        return how

    @qbawa.step
    def outer():
        thread = threading.Thread(target=inner, args=("thread",))
        thread.start()
        thread.join()
        with ThreadPoolExecutor(2) as pool:
            pool.submit(inner, "submit").result()
            list(pool.map(inner, ["map"]))

        async def main():
            await asyncio.to_thread(inner, "to_thread")
            await asyncio.get_running_loop().run_in_executor(None, inner, "run_in_executor")

        asyncio.run(main())

    outer()
    found = written(journal)
    parent = step_named(found, "outer")["recording_id"]
    inners = {row["output"]: row["parent_id"] for row in found if row["step"] == "inner"}
    assert inners == dict.fromkeys(["thread", "submit", "map", "to_thread", "run_in_executor"], parent)


def test_a_pool_that_outlives_a_request_does_not_stay_in_it(journal):
    @qbawa.step
    def work():
        pass

    with ThreadPoolExecutor(1) as pool:
        with qbawa.request(request_id="first"):
            pool.submit(work).result()
        pool.submit(work).result()
        with qbawa.request(request_id="third"):
            pool.submit(work).result()
    first, second, third = (row["request_id"] for row in written(journal))
    assert (first, third) == ("first", "third") and second not in ("first", "third")


def test_a_worker_thread_that_a_request_happened_to_start_leaves_it_with_the_request(journal):
    begin, done = threading.Event(), threading.Event()

    @qbawa.step
    def work():
        pass

    def serve():
        work()
        done.set()
        begin.wait(10)
        work()

    with qbawa.request(request_id="first"):
        thread = threading.Thread(target=serve)
        thread.start()
        done.wait(10)
    begin.set()
    thread.join()
    inside, afterwards = written(journal)
    assert inside["request_id"] == "first" and afterwards["request_id"] != "first"


def test_in_context_carries_a_step_by_hand(tmp_path, monkeypatch):
    from qbawa.record import threads

    monkeypatch.setattr(threading.Thread, "start", threads._start)
    qbawa.configure(tmp_path, follow_threads=False)

    @qbawa.step
    def work():
        pass

    with qbawa.request(request_id="r"):
        for target in (work, qbawa.in_context(work)):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    apart, carried = written(tmp_path)
    qbawa.configure()
    assert apart["request_id"] != "r" and carried["request_id"] == "r"


CALL = dict(
    model="m",
    messages=[{"role": "user", "content": "q"}],
    output="said",
    parameters={"temperature": 0},
    input_tokens=3,
    output_tokens=4,
    cost_usd=0.5,
    latency_s=0.1,
)


def test_the_only_model_call_of_a_step_is_part_of_its_row(journal):
    @qbawa.step
    def ask(q):
        qbawa.llm_call(**CALL)
        return {"parsed": 1}

    ask("q")
    [row] = written(journal)
    assert (row["step"], row["inputs"], row["output"], row["llm_calls"]) == ("ask", {"q": "q"}, {"parsed": 1}, 1)
    assert row["messages"] == CALL["messages"] and row["model"] == "m" and row["parameters"] == {"temperature": 0}
    assert (row["input_tokens"], row["output_tokens"], row["cost_usd"]) == (3, 4, 0.5)


def test_several_model_calls_are_rows_below_their_step_and_no_dollar_counts_twice(journal):
    @qbawa.step
    def ask():
        qbawa.llm_call(**CALL)
        qbawa.llm_call(**CALL)

    ask()
    found = written(journal)
    step = step_named(found, "ask")
    calls = [row for row in found if row["step"] == "ask.llm"]
    assert step["llm_calls"] == 2 and step["model"] is None and step["cost_usd"] is None
    assert [row["parent_id"] for row in calls] == [step["recording_id"]] * 2
    assert sum(row["cost_usd"] or 0 for row in found) == 1.0
    assert {row["output"] for row in calls} == {"said"}


def test_a_model_call_outside_any_step_is_a_row_of_its_own(journal):
    qbawa.llm_call(**CALL)
    with qbawa.request(request_id="r"):
        qbawa.llm_call(**{**CALL, "messages": "bare prompt"})
    alone, inside = written(journal)
    assert alone["step"] == inside["step"] == "llm" and alone["parent_id"] is None
    assert inside["request_id"] == "r" and inside["messages"] == [{"role": "user", "content": "bare prompt"}]


def test_a_failed_model_call_that_the_step_got_over_does_not_explain_its_output(journal):
    @qbawa.step
    def ask():
        qbawa.llm_call(model="m", messages=[], error=TimeoutError("slow"))
        return "fallback"

    ask()
    found = written(journal)
    assert step_named(found, "ask")["model"] is None and step_named(found, "ask")["error"] is None
    assert step_named(found, "ask.llm")["error"]["message"] == "slow"


def test_a_step_waits_for_the_report_of_its_model_call(journal):
    pending: list[Call] = []

    @qbawa.step
    def ask():
        from qbawa.record.calls import begin_call

        pending.append(begin_call("m", [], {}))
        return "answer"

    ask()
    assert not qbawa.flush(0.1) and rows(journal) == []
    pending[0].end("said", cost_usd=0.25)
    [row] = written(journal)
    assert (row["output"], row["model"], row["cost_usd"]) == ("answer", "m", 0.25)


def test_a_report_that_comes_too_late_is_a_row_below_its_step(journal, monkeypatch):
    monkeypatch.setattr(recorder, "HOLD_S", 0.0)
    pending: list[Call] = []

    @qbawa.step
    def ask():
        from qbawa.record.calls import begin_call

        pending.append(begin_call("m", [], {}))

    ask()
    while not rows(journal):
        qbawa.flush(0.1)
    pending[0].end("said", cost_usd=0.25)
    step, call = written(journal)
    assert (step["step"], step["model"], step["llm_calls"]) == ("ask", None, 1)
    assert (call["step"], call["parent_id"], call["cost_usd"]) == ("ask.llm", step["recording_id"], 0.25)


def test_sampling_takes_whole_requests_and_the_same_ones_everywhere(tmp_path):
    @qbawa.step
    def inner(number):
        return number

    @qbawa.step
    def outer(number):
        inner(number)
        qbawa.llm_call(**CALL)

    found = []
    for attempt in range(2):
        qbawa.configure(tmp_path / str(attempt), sample_rate=0.3)
        for number in range(200):
            with qbawa.request(request_id=f"r{number}") as request:
                outer(number)
                request.feedback(1)
        found.append(written(tmp_path / str(attempt)))
        kept = {row["request_id"] for row in found[attempt]}
        assert {row["request_id"] for row in rows(tmp_path / str(attempt), "feedback")} == kept
    qbawa.configure()
    assert 30 < len(kept) < 90
    assert [(row["request_id"], row["step"]) for row in found[0]] == [
        (row["request_id"], row["step"]) for row in found[1]
    ]
    assert len(found[0]) == 2 * len(kept)


def test_an_unsampled_step_takes_what_is_nested_in_it_along(tmp_path):
    @qbawa.step
    def inner():
        pass

    @qbawa.step
    def outer():
        inner()

    qbawa.configure(tmp_path, sample_rate=0.5)
    for _ in range(100):
        outer()
    found = written(tmp_path)
    qbawa.configure()
    assert 0 < len(found) < 200
    assert len(found) == 2 * len({row["request_id"] for row in found})


def test_sampling_by_rule(tmp_path):
    @qbawa.step
    def work():
        pass

    rates = {"always": True, "never": False, "rate": 0.0, "default": None}
    qbawa.configure(tmp_path, sample_rate=1.0, sample_rule=lambda request: rates[request.tags["kind"]])
    for kind in (*rates, "unknown"):
        with qbawa.request(tags={"kind": kind}):
            work()
    kinds = [row["tags"]["kind"] for row in written(tmp_path)]
    dropped = qbawa.stats().dropped
    qbawa.configure()
    assert kinds == ["always", "default", "unknown"]  # a rule that fails loses nothing
    assert dropped == {"sample_rule_failed": 1}


def test_settings_that_make_no_sense_are_refused_with_what_would_be_right():
    with pytest.raises(ConfigError, match="from 0"):
        qbawa.configure("x", sample_rate=2)
    with pytest.raises(ConfigError, match="regular expression"):
        qbawa.configure("x", redact_patterns={"bad": "("})


def test_without_a_journal_steps_just_run(monkeypatch, tmp_path):
    monkeypatch.delenv("QBAWA_JOURNAL", raising=False)
    monkeypatch.chdir(tmp_path)
    qbawa.configure(pipeline="p")

    @qbawa.step
    def work(number):
        return number

    @qbawa.step
    def stream():
        yield 1

    with qbawa.request(user="u") as request:
        assert work(1) == 1 and list(stream()) == [1]
        request.feedback(1)
        qbawa.llm_call(**CALL)
    assert request.request_id.startswith("r_")
    assert qbawa.flush() and qbawa.stats().recorded == 0
    assert list(tmp_path.iterdir()) == []


def test_the_journal_may_be_changed_and_loses_nothing(tmp_path):
    @qbawa.step
    def work(name):
        if name == "first":
            qbawa.configure(tmp_path / "second")
        return name

    qbawa.configure(tmp_path / "first")
    work("zeroth")
    work("first")  # began under one journal, ends under the other
    work("second")
    assert qbawa.flush(10)
    qbawa.configure()
    found = [row["output"] for folder in ("first", "second") for row in rows(tmp_path / folder)]
    assert sorted(found) == ["first", "second", "zeroth"]


def test_the_manual_names_every_setting_and_every_field():
    manual = (Path(__file__).parents[1] / "docs" / "recording.md").read_text()
    public = [qbawa.configure, qbawa.request.__init__, qbawa.llm_call, qbawa.feedback, qbawa.flush]
    names = {name for function in public for name in inspect.signature(function).parameters} - {"self", "folder"}
    names |= {"recording_id", "parent_id", "inputs", "started_at", "llm_calls", "traceback", "qbawa.cut"}
    assert [name for name in sorted(names) if name not in manual] == []
    assert [name for name in qbawa.__all__ if f"qbawa.{name}" not in manual] == []


def test_the_example_of_the_manual_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manual = (Path(__file__).parents[1] / "docs" / "recording.md").read_text()
    code = manual.split("```python\n")[1].split("```")[0]
    exec(compile(code, "docs/recording.md", "exec"), {"text": "a contract"})
    found = written(tmp_path / "journal")
    qbawa.configure()
    assert found[0]["inputs"] == {"contract": "a contract"} and found[0]["user"] == "u42"


def test_a_model_call_that_never_reports_holds_up_no_flush_and_is_given_up_in_the_end(journal, monkeypatch):
    from qbawa.record.calls import begin_call

    monkeypatch.setattr(recorder, "HOLD_S", 0.0)
    begin_call("m", "left early", {})
    assert qbawa.flush(10) and rows(journal) == [] and qbawa.stats().open_calls == 1
    monkeypatch.setattr(recorder, "GIVE_UP_S", 0.0)
    qbawa.step(lambda: None)()
    step, call = sorted(written(journal), key=lambda row: row["step"])
    assert call["error"]["type"] == "qbawa.Unfinished" and call["messages"] == [
        {"role": "user", "content": "left early"}
    ]
    assert qbawa.stats().open_calls == 0
