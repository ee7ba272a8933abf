"""A step call never fails or blocks because of recording, and what `flush` acknowledged is never lost."""

import asyncio
import gc
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from recording import rows, run

import qbawa
from qbawa.storage.journal import adopt_orphans, all_segments, closed_segments, read_lines

REPO = Path(__file__).parents[2]


@qbawa.step
def work(value=None):
    return value


KILLED = """
import sys, threading
sys.path.insert(0, sys.argv[2])
import qbawa
qbawa.configure(sys.argv[1], segment_bytes=20_000)

@qbawa.step
def work(number): return "x" * 200

number = 0
while True:
    for _ in range(5):
        work(number); number += 1
    if qbawa.flush(10):
        print(number, flush=True)
"""


@pytest.mark.hostile
@pytest.mark.parametrize("wait_s", [0.0, 0.011, 0.037, 0.1])
def test_what_flush_acknowledged_survives_kill_9_and_no_torn_line_is_read(tmp_path, wait_s):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), str(REPO)], stdout=subprocess.PIPE)
    first = process.stdout.readline()
    time.sleep(wait_s)
    process.kill()
    acknowledged = int((first + process.stdout.read()).split(b"\n")[-2])
    process.stdout.close()
    process.wait()
    adopt_orphans(tmp_path)
    numbers = [json.loads(line)["inputs"]["number"] for path in closed_segments(tmp_path) for line in read_lines(path)]
    assert numbers == list(range(len(numbers))) and len(numbers) >= acknowledged


def test_a_folder_that_cannot_be_written_costs_recordings_only_and_is_mentioned_once(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    qbawa.configure(tmp_path / "file" / "journal", queue_bytes=20_000)
    assert [work(number) for number in range(200)] == list(range(200))
    assert not qbawa.flush(0.2)
    assert [work(number) for number in range(200)] == list(range(200))
    qbawa.flush(0.1)
    stats = qbawa.stats()
    qbawa.configure()
    assert stats.written == 0 and stats.dropped["disk"] + stats.dropped.get("queue_full", 0) > 100
    assert [record.levelno for record in caplog.records if "cannot be written" in record.message] == [logging.WARNING]


def test_after_a_full_disk_recording_resumes_without_loss(tmp_path):
    run(
        """
        import resource, time, qbawa
        @qbawa.step
        def work(value): return value
        work("before"); assert qbawa.flush(10)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
        for _ in range(20): work("during")
        assert not qbawa.flush(0.3)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        work("after")
        assert qbawa.flush(10)
        assert qbawa.stats().dropped == {}, qbawa.stats()
        """,
        tmp_path,
    )
    assert [row["output"] for row in rows(tmp_path)] == ["before"] + ["during"] * 20 + ["after"]


def test_a_journal_that_is_deleted_under_the_process_is_begun_anew(journal):
    work(1)
    assert qbawa.flush(10)
    shutil.rmtree(journal)
    work(2)
    assert qbawa.flush(10)
    assert [row["output"] for row in rows(journal)] == [2]


def test_a_full_queue_drops_and_counts_and_never_waits(tmp_path):
    gate = threading.Event()
    qbawa.configure(tmp_path, queue_bytes=50_000, redact=lambda row: gate.wait(30) and row)
    for number in range(1_000):
        work(number)
    dropped = qbawa.stats().dropped["queue_full"]
    gate.set()
    assert qbawa.flush(10)
    stats = qbawa.stats()
    qbawa.configure()
    assert 0 < dropped < 1_000
    assert stats.recorded == stats.written == len(rows(tmp_path)) == 1_000 - stats.dropped["queue_full"]


def test_an_output_of_100_mb_is_cut_and_says_so(journal):
    text = "x" * 100_000_000
    assert work(text) is text
    assert qbawa.flush(20)
    [row] = rows(journal)
    assert len(row["output"]) < 1_100_000 and "98951424 of 100000000 characters left out" in row["output"]
    assert row["tags"] == {"qbawa.cut": "inputs,output"}


def test_a_step_may_recurse(journal):
    @qbawa.step
    def down(depth):
        return down(depth - 1) + 1 if depth else 0

    assert down(200) == 200
    assert qbawa.flush(10)
    found = rows(journal)
    ids = {row["recording_id"]: row for row in found}
    assert len(found) == 201
    row, depth = found[0], 0
    while row["parent_id"]:
        row, depth = ids[row["parent_id"]], depth + 1
    assert depth == 200


def test_endless_recursion_ends_as_without_recording(journal):
    @qbawa.step
    def down():
        return down()

    with pytest.raises(RecursionError):
        down()
    work("alive")
    assert qbawa.flush(10)
    assert rows(journal)[-1]["output"] == "alive"


def test_a_forked_child_records_for_itself_and_repeats_nothing(tmp_path):
    run(
        """
        import os, qbawa
        @qbawa.step
        def work(value): return value
        with qbawa.request(request_id="r"):
            work("parent before")
            child = os.fork()
            work("child" if child == 0 else "parent after")
            if child == 0:
                assert qbawa.flush(10)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        """,
        tmp_path,
    )
    found = rows(tmp_path)
    assert sorted(row["output"] for row in found) == ["child", "parent after", "parent before"]
    assert {row["request_id"] for row in found} == {"r"}
    assert len({row["recording_id"] for row in found}) == 3
    assert len(rows(tmp_path, "request")) == 1


def test_a_step_that_forks_is_recorded_once(tmp_path):
    run(
        """
        import os, qbawa
        @qbawa.step
        def fork(): return os.fork()
        child = fork()
        if child: os.waitpid(child, 0)
        """,
        tmp_path,
    )
    assert len(rows(tmp_path)) == 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_children_lose_nothing(tmp_path, method):
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, sys, qbawa\n"
        "@qbawa.step\n"
        "def work(value): return value\n"
        "if __name__ == '__main__':\n"
        "    work('parent')\n"
        f"    context = multiprocessing.get_context({method!r})\n"
        "    children = [context.Process(target=work, args=(number,)) for number in range(3)]\n"
        "    [child.start() for child in children]; [child.join() for child in children]\n"
    )
    env = {**os.environ, "QBAWA_JOURNAL": str(tmp_path / "journal"), "PYTHONPATH": str(REPO)}
    subprocess.run([sys.executable, script], check=True, env=env, timeout=60)
    adopt_orphans(tmp_path / "journal")
    assert sorted(str(row["output"]) for row in rows(tmp_path / "journal")) == ["0", "1", "2", "parent"]


def test_what_was_recorded_at_the_very_end_is_written(tmp_path):
    run(
        """
        import atexit, threading, qbawa
        @qbawa.step
        def work(value): return value
        class AtTheEnd:
            def __del__(self): work("in __del__")
        atexit.register(work, "atexit, registered late")
        keep = AtTheEnd()
        threading.Thread(target=lambda: (threading.Event().wait(0.05), work("in a thread"))).start()
        work("at the end")
        """,
        tmp_path,
    )
    outputs = [row["output"] for row in rows(tmp_path)]
    assert set(outputs) >= {"at the end", "in a thread", "atexit, registered late"}
    assert len(outputs) == len(set(outputs))


def test_a_process_that_is_stopped_by_an_exception_or_sys_exit_loses_nothing(tmp_path):
    for ending in ("raise SystemExit(0)", "import sys; sys.exit()"):
        run(f"import qbawa\n@qbawa.step\ndef work(): pass\nwork()\n{ending}", tmp_path)
    assert len(rows(tmp_path)) == 2
    assert all_segments(tmp_path) == closed_segments(tmp_path)


def test_several_processes_share_one_folder(tmp_path):
    code = "import sys, qbawa\n@qbawa.step\ndef work(v): return v\nfor n in range(300): work([sys.argv[1], n])"
    env = {**os.environ, "QBAWA_JOURNAL": str(tmp_path), "PYTHONPATH": str(REPO)}
    processes = [subprocess.Popen([sys.executable, "-c", code, str(name)], env=env) for name in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    found = rows(tmp_path)
    assert sorted(row["output"] for row in found) == sorted([str(name), n] for name in range(4) for n in range(300))
    assert len({row["recording_id"] for row in found}) == 1_200
    assert len(closed_segments(tmp_path)) == 4


def test_segments_rotate_by_size_and_by_age(tmp_path):
    qbawa.configure(tmp_path / "size", segment_bytes=5_000)
    for _ in range(10):
        work("x" * 1_000)
        assert qbawa.flush(10)
    assert len(closed_segments(tmp_path / "size")) >= 3
    qbawa.configure(tmp_path / "age", segment_age_s=0.0)
    work(1)
    assert qbawa.flush(10)
    qbawa.configure()
    assert len(closed_segments(tmp_path / "age")) == 1


def test_an_idle_process_closes_an_old_segment(tmp_path):
    qbawa.configure(tmp_path, segment_age_s=0.2)
    work(1)
    assert qbawa.flush(10)
    deadline = time.monotonic() + 20
    while not closed_segments(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    qbawa.configure()
    assert len(rows(tmp_path)) == 1 and len(closed_segments(tmp_path)) == 1


def test_many_threads_lose_nothing(journal):
    def many(name):
        for number in range(500):
            work([name, number])

    threads = [threading.Thread(target=many, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert qbawa.flush(20)
    assert sorted(row["output"] for row in rows(journal)) == sorted([name, n] for name in range(8) for n in range(500))


def test_a_stream_that_garbage_collection_ends_anywhere_deadlocks_nothing(journal):
    @qbawa.step
    def stream():
        yield "a"
        yield "b"

    class Holder: ...

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(200):
            holder = Holder()
            holder.stream = stream()
            next(holder.stream)
            holder.cycle = holder
            del holder
            work()
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert qbawa.flush(20)
    assert [row["output"] for row in rows(journal) if row["step"] == "stream"] == ["a"] * 200


def test_signals_that_interrupt_a_step_are_recorded_and_pass_through(journal):
    @qbawa.step
    def wait():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    # Whoever starts the tests in the background has SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            wait()
    finally:
        signal.signal(signal.SIGINT, before)
    assert qbawa.flush(10)
    assert rows(journal)[0]["error"]["type"] == "KeyboardInterrupt"


def test_a_broken_logging_handler_harms_nothing(tmp_path):
    class Broken(logging.Handler):
        def emit(self, record):
            raise RuntimeError

    handler = Broken()
    logging.getLogger("qbawa").addHandler(handler)
    try:
        qbawa.configure(tmp_path, redact=lambda row: 1 / 0)
        assert work(1) == 1
        qbawa.flush(10)
        assert qbawa.stats().dropped["redact_hook_failed"] == 1
    finally:
        logging.getLogger("qbawa").removeHandler(handler)
        qbawa.configure()


def test_flush_from_a_running_event_loop_returns(journal):
    async def main():
        work(1)
        assert qbawa.flush(10)
        assert await asyncio.to_thread(qbawa.flush, 10)

    asyncio.run(main())
    assert len(rows(journal)) == 1


def test_importing_and_recording_loads_nothing_but_the_standard_library(tmp_path):
    done = run(
        """
        import sys
        before = set(sys.modules)
        import qbawa
        assert {name for name in set(sys.modules) - before if name.startswith("qbawa")} == {"qbawa"}
        @qbawa.step
        def work(): pass
        work()
        assert qbawa.flush(10)
        foreign = {name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names) - {"qbawa"}
        print(sorted(foreign))
        """,
        tmp_path,
    )
    assert done.stdout.strip() == "[]"
    assert len(rows(tmp_path)) == 1


def test_the_package_names_what_it_has():
    assert set(qbawa.__all__) <= set(dir(qbawa))
    for name in qbawa.__all__:
        assert callable(getattr(qbawa, name))
    with pytest.raises(AttributeError, match="public names"):
        _ = qbawa.nonsense


def test_ingest_accepts_every_line_whatever_was_recorded(journal):
    lines = pytest.importorskip("qbawa.ingest.journal_lines")

    class Odd:
        def __str__(self) -> str:
            return "x" * 1_000

    values = [float("nan"), 10**4_000, 2**70, [2**70, 10**400], b"\0", "\ud800 \0", {1: {None: object()}}, Odd(), work]
    deep: list = []
    for _ in range(500):
        deep = [deep]
    with qbawa.request(user=Odd(), request_id="x" * 1_000, tags={1: Odd(), "n": float("inf")}, pipeline=7) as request:
        for value in [*values, deep]:
            work(value)
            request.feedback(value, value)
            usage = {"input_tokens": value, "output_tokens": -1, "cost_usd": float("nan"), "latency_s": -1.0}
            qbawa.llm_call(model=value, messages=value, output=value, parameters={"p": value}, **usage)
            qbawa.llm_call(model="m", messages=["text", value], error=ValueError(value))
    qbawa.feedback(12, True)
    assert qbawa.flush(10)
    read = [lines.read_line(line) for path in all_segments(journal) for line in read_lines(path)]
    assert [item for item in read if isinstance(item, lines.BadLine)] == []
    assert len(read) == len(values) * 4 + 4 + 2
