"""Streams, tasks and threads: what runs at once, or ends later than it is called, stays with its own step and request."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from recording import step_named, written

import qbawa
from qbawa.record import context


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
