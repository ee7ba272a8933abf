"""Steps, requests, nesting, errors and feedback, as they stand in the journal."""

import asyncio
import inspect

import pytest
from recording import rows, written

import qbawa


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


def test_a_task_group_is_recorded_with_what_its_tasks_raised(journal):
    async def parse(text):
        raise ValueError(f"no number in {text!r}")

    async def fetch(url):
        error = ConnectionError(f"{url} is down")
        error.add_note("third attempt")
        raise error

    @qbawa.step
    async def gather():
        async with asyncio.TaskGroup() as group:
            group.create_task(parse("abc"))
            group.create_task(fetch("shop.test"))

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(gather())
    assert [type(child) for child in raised.value.exceptions] == [ValueError, ConnectionError]
    [row] = written(journal)
    assert (row["error"]["type"], row["error"]["message"]) == ("ExceptionGroup", str(raised.value))
    trace = row["error"]["traceback"]
    for part in (
        "ValueError: no number in 'abc'",
        "ConnectionError: shop.test is down",
        "third attempt",
        "<locals>.parse",
        "<locals>.fetch",
    ):
        assert part in trace
    assert (
        trace.index("(exception 1 of 2 in this group)")
        < trace.index("<locals>.parse")
        < trace.index("(exception 2 of 2")
    )


def test_groups_in_groups_and_notes_stay_within_bounds(journal):
    @qbawa.step
    def fail():
        inner = [ValueError(f"inner {n}") for n in range(500)]
        error = ExceptionGroup("outer", [KeyError("first"), ExceptionGroup("middle", inner), *inner])
        for n in range(1_000):
            error.add_note(f"note {n}")
        error.__notes__.insert(0, object())
        raise error

    with pytest.raises(ExceptionGroup):
        fail()
    [row] = written(journal)
    trace = row["error"]["traceback"]
    assert "KeyError: 'first'" in trace and "ExceptionGroup: middle" in trace and "inner 0" in trace
    assert (
        "(of 500 in this group, not shown: 490 ValueError)" in trace and "note 5" in trace and "note 500" not in trace
    )
    assert len(trace) < 20_000


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
