"""The ledger: nothing acknowledged is lost, nothing is bought twice, whatever dies and whoever else is running."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from _mock_provider import MockProvider

from qbawa.config import ModelConfig
from qbawa.engine.calls import ModelCall
from qbawa.engine.cost_estimate import Foreseen, ModelHistory, estimate
from qbawa.engine.engine import Engine
from qbawa.engine.ledger.index import CallIndex
from qbawa.engine.ledger.ledger import Ledger
from qbawa.engine.ledger.locks import CallLocks
from qbawa.engine.ledger.to_lake import delete_loaded, load_calls
from qbawa.engine.session import held_calls
from qbawa.errors import LakeConflictError, LedgerError
from qbawa.storage.journal import JournalWriter, all_segments, closed_segments, read_lines
from qbawa.storage.lake import Lake

# Asks `count` questions through the engine and says on a line of its own which have been answered.
WORKER = """
import asyncio, os, sys
from qbawa.config import ModelConfig
from qbawa.engine.calls import ModelCall
from qbawa.engine.engine import Engine
from qbawa.engine.ledger.ledger import Ledger

async def main(folder, url, count):
    models = {"m": ModelConfig.model_validate({"base_url": url, "free": True, "max_in_flight": 20})}
    async with Engine(models, Ledger(folder)) as engine:
        async def one(n):
            result = await engine.call(ModelCall("m", ({"role": "user", "content": f"question {n}"},)))
            os.write(1, (result.call_key + chr(10)).encode())
        await asyncio.gather(*(one(n) for n in range(count)))
        print("paid", engine.stats.answered, flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def start(folder: Path, provider: MockProvider, count: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WORKER, str(folder), provider.base_url, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def models(provider: MockProvider, **settings: Any) -> dict[str, ModelConfig]:
    return {"m": ModelConfig.model_validate({"base_url": provider.base_url, "free": True} | settings)}


def ask(number: int, **fields: Any) -> ModelCall:
    return ModelCall("m", ({"role": "user", "content": f"question {number}"},), **fields)


def line(key: str, text: str = "an answer", **fields: Any) -> dict[str, Any]:
    content = {"v": 1, "kind": "call", "call_key": key, "response_text": text, "cost_usd": 0.5, "error": None}
    return content | {"called_at": "2026-11-20T12:00:00+00:00", "run_id": "r", "sample": 0} | fields


def journalled(folder: Path) -> list[str]:
    folders = (folder, folder / "loaded")
    return [
        json.loads(raw)["call_key"] for each in folders for segment in all_segments(each) for raw in read_lines(segment)
    ]


@pytest.mark.hostile
@pytest.mark.slow
def test_kill_9_loses_no_acknowledged_answer_and_nothing_journalled_is_asked_again(
    provider: MockProvider, tmp_path: Path
) -> None:
    provider.control(latency_s=[0.01, 0.1])
    chance = random.Random(7)
    acknowledged: set[str] = set()
    before: set[str] = set()
    for _ in range(4):
        process = start(tmp_path, provider, 600)
        assert process.stdout is not None
        for _ in range(chance.randint(5, 120)):
            acknowledged.add(process.stdout.readline().strip())
        process.send_signal(signal.SIGKILL)
        acknowledged |= {key.strip() for key in process.communicate()[0].splitlines() if key.strip()}
        on_disk = journalled(tmp_path)
        assert len(on_disk) == len(set(on_disk)), "a journalled call was paid again"
        assert before <= set(on_disk)
        before = set(on_disk)
    assert acknowledged <= before
    rest = start(tmp_path, provider, 600)
    output = rest.communicate()[0].splitlines()
    assert output[-1] == f"paid {600 - len(before)}"
    assert len(journalled(tmp_path)) == len(set(journalled(tmp_path))) == 600


@pytest.mark.slow
def test_two_processes_over_the_same_calls_pay_each_once(provider: MockProvider, tmp_path: Path) -> None:
    provider.control(latency_s=[0.05, 0.2])
    both = [start(tmp_path, provider, 200) for _ in range(2)]
    outputs = [process.communicate()[0].splitlines() for process in both]
    assert all(len(output) == 201 for output in outputs), "both get all answers"
    assert sum(int(output[-1].removeprefix("paid ")) for output in outputs) == 200
    assert sorted(provider.answered().values()) == [1] * 200


async def test_a_call_that_another_bought_while_it_waited_for_leave_to_send_is_not_paid_again(
    provider: MockProvider, tmp_path: Path
) -> None:
    slow = ModelCall("m", ({"role": "user", "content": '[[mock {"latency_s": 0.3}]]'},))
    narrow = Engine(models(provider, max_in_flight=1), Ledger(tmp_path))
    async with narrow, Engine(models(provider), Ledger(tmp_path)) as other:
        before_it, waiting = (asyncio.create_task(narrow.call(call)) for call in (slow, ask(1)))
        await asyncio.sleep(0.05)
        paid = await other.call(ask(1))
        assert not before_it.done()
        found = await waiting
        await before_it
    assert (paid.cached, found.cached) == (False, True)
    assert sorted(provider.answered().values()) == [1, 1]


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    key = "0123456789abcdef" * 2
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time, pathlib\nfrom qbawa.engine.ledger.locks import CallLocks\n"
            f"print(CallLocks(pathlib.Path({str(tmp_path)!r})).try_lock({key!r}), flush=True)\ntime.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert holder.stdout is not None and holder.stdout.readline().strip() == "True"
    claims = CallLocks(tmp_path)
    assert not claims.try_lock(key)
    assert claims.try_lock("f" * 32)
    holder.kill()
    holder.wait()
    deadline = time.monotonic() + 10
    while not claims.try_lock(key):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not CallLocks(tmp_path).try_lock(key), "nor twice within a process"
    claims.release(key)
    assert CallLocks(tmp_path).try_lock(key)


async def test_an_answer_is_on_disk_before_record_returns(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)

    async def one(number: int) -> None:
        key = f"{number:032x}"
        await ledger.record(line(key))
        assert key in journalled(tmp_path)

    await asyncio.gather(*(one(n) for n in range(100)))
    await ledger.close()
    assert len(closed_segments(tmp_path)) == 1


@pytest.mark.parametrize("text", [None, "half an answ"])
async def test_failures_are_kept_but_are_no_answers(tmp_path: Path, text: str | None) -> None:
    ledger = Ledger(tmp_path)
    await ledger.record(line("a" * 32, error="cut_off: no", response_text=text))
    assert await ledger.find("a" * 32) is None
    await ledger.record(line("a" * 32))
    found = await ledger.find("a" * 32)
    assert found is not None and found.cached and found.cost_usd == 0.5
    await ledger.close()
    assert len(journalled(tmp_path)) == 2


async def test_answers_are_found_in_journal_and_lake_and_while_they_move(tmp_path: Path) -> None:
    folder, lake = tmp_path / "calls", Lake(tmp_path / "lake")
    asked: list[list[str]] = []

    def lookup(keys: Any) -> Any:
        asked.append(sorted(keys))
        return held_calls(lake, keys)

    early = Ledger(folder, lookup)
    assert await early.find("c" * 32) is None, "known to be absent from the lake from now on"
    writer = Ledger(folder)
    for key in "abc":
        await writer.record(line(key * 32, logprobs=[{"token": "A", "logprob": -0.1}], text=f"answer {key}"))
    assert (await early.find("a" * 32)).text == "answer a"  # type: ignore[union-attr]
    await writer.close()
    loading = load_calls(lake, folder)
    assert (loading.segments, loading.calls) == (1, 3)
    assert closed_segments(folder) == []
    for key in "abc":
        found = await early.find(key * 32)
        assert found is not None and found.text == f"answer {key}"
    assert asked == [["c" * 32]]
    late = Ledger(folder, lookup)
    both = await asyncio.gather(*(late.find(key * 32) for key in "abcd"))
    assert [result and result.text for result in both] == ["answer a", "answer b", "answer c", None]
    assert both[0] is not None and both[0].logprobs == [{"token": "A", "logprob": -0.1}]
    assert len(asked) == 2, "those who ask at the same time share one question to the lake"
    assert await late.prefetch([key * 32 for key in "abxy"]) == {"a" * 32, "b" * 32}
    assert (await late.find("a" * 32)) is not None
    await asyncio.gather(early.close(), late.close())


async def test_loading_twice_or_interrupted_gives_the_same_rows(tmp_path: Path) -> None:
    folder, lake = tmp_path / "calls", Lake(tmp_path / "lake")
    ledger = Ledger(folder)
    for number in range(10):
        await ledger.record(line(f"{number:032x}", messages=[{"role": "user", "content": "ä"}], params={"seed": 1}))
    await ledger.close()
    (segment,) = closed_segments(folder)
    copy = segment.read_bytes()
    load_calls(lake, folder)
    once = lake.read("calls").sort("call_key")
    segment.write_bytes(copy)  # as if killed after the commit and before the move
    load_calls(lake, folder)
    assert lake.read("calls").sort("call_key").equals(once)
    assert once.height == 10 and once["block_id"].unique().to_list() == [segment.stem]
    assert json.loads(once["messages"][0]) == [{"role": "user", "content": "ä"}]
    assert once["called_at"].dtype.time_zone == "UTC"  # type: ignore[attr-defined]
    assert delete_loaded(folder) == 1


async def test_a_segment_rests_for_a_day_from_its_loading_however_old_it_is(tmp_path: Path) -> None:
    folder, lake = tmp_path / "calls", Lake(tmp_path / "lake")
    ledger = Ledger(folder)
    await ledger.record(line("a" * 32))
    await ledger.close()
    (segment,) = closed_segments(folder)
    last_week = time.time() - 7 * 24 * 3600
    os.utime(segment, (last_week, last_week))
    load_calls(lake, folder)
    (loaded,) = closed_segments(folder / "loaded")
    os.utime(loaded, (last_week, last_week))
    load_calls(lake, folder)
    assert closed_segments(folder / "loaded") == []


def test_a_place_where_another_call_now_stands_answers_nobody(tmp_path: Path) -> None:
    segment = tmp_path / "20261121T120000.0Z-1-aa.open"
    segment.write_text(json.dumps(line("a" * 32)) + "\n")
    index = CallIndex(tmp_path)
    index.refresh()
    assert index.get("a" * 32) is not None
    segment.write_text(json.dumps(line("b" * 32)) + "\n")
    assert index.get("a" * 32) is None and "a" * 32 not in index
    index.close()


async def test_the_shelf_of_0_1_0_is_adopted(tmp_path: Path) -> None:
    folder, lake = tmp_path / "calls", Lake(tmp_path / "lake")
    ledger = Ledger(folder)
    await ledger.record(line("a" * 32))
    await ledger.close()
    load_calls(lake, folder)
    (folder / "loaded").rename(folder / "landed")
    load_calls(lake, folder)
    assert not (folder / "landed").exists() and len(closed_segments(folder / "loaded")) == 1
    assert lake.read("calls").height == 1
    assert delete_loaded(folder) == 1


async def test_a_line_that_is_no_call_keeps_no_other_from_loading(tmp_path: Path) -> None:
    folder, lake = tmp_path / "calls", Lake(tmp_path / "lake")
    with JournalWriter(folder) as journal:
        for raw in (
            b"not json",
            b"[]",
            b'{"kind": "call"}',
            b'{"kind": "call", "call_key": 7}',
            b'{"kind": "else", "call_key": "x"}',
            json.dumps(line("b" * 32, called_at="yesterday")).encode(),
            json.dumps(line("c" * 32, input_tokens="many")).encode(),
            b'{"kind": "call", "call_key": "\xff\xfe"}',
            json.dumps(line("a" * 32)).encode(),
        ):
            journal.append(raw)
    loading = load_calls(lake, folder)
    assert (loading.calls, loading.unreadable) == (2, 7), "a strange value keeps nothing that was paid for out"
    ledger = Ledger(tmp_path / "other")
    await ledger.close()


async def test_a_lake_that_cannot_be_read_makes_nobody_pay_twice(provider: MockProvider, tmp_path: Path) -> None:
    def lookup(keys: Any) -> Any:
        raise LakeConflictError("not now")

    async with Engine(models(provider), Ledger(tmp_path, lookup)) as engine:
        with pytest.raises(LakeConflictError):
            await engine.call(ask(1))
    assert not provider.stats()["counts"]


@pytest.mark.slow
async def test_a_full_disk_stops_all_further_paying(
    provider: MockProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.control(latency_s=[0.2, 0.2])
    monkeypatch.setattr("qbawa.engine.ledger.ledger.DISK_TRIES", 4)
    ledger = Ledger(tmp_path)

    def refuse(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qbawa.storage.journal._sync_data", refuse)
    engine = Engine(models(provider, max_in_flight=2), ledger)
    with pytest.raises(LedgerError, match="cannot be closed"):
        async with engine:
            results = await asyncio.gather(*(engine.call(ask(n)) for n in range(50)), return_exceptions=True)
            assert all(isinstance(result, LedgerError) for result in results)
    assert provider.stats()["counts"]["answered"] <= 6, "those in flight, and no more"


@pytest.mark.slow
async def test_the_plan_counts_what_is_held_and_prices_the_rest(provider: MockProvider, tmp_path: Path) -> None:
    paid = {
        "m": ModelConfig.model_validate(
            {
                "base_url": provider.base_url,
                "input_usd_per_million": 10,
                "output_usd_per_million": 20,
                "requests_per_minute": 100,
            }
        )
    }
    async with Engine(paid, Ledger(tmp_path)) as engine:
        for number in range(10):
            await engine.call(ask(number))
    calls = [ask(number) for number in range(210)]
    ledger = Ledger(tmp_path)
    history = {"m": ModelHistory(input_tokens=3, output_tokens=1000, latency_s=2.0)}
    plan = await estimate(
        map(Foreseen.of, [*calls, calls[0]]), paid, ledger, cells=211, history=history, extra_calls={"m": 100}
    )
    assert (plan.cells, plan.cached_calls, plan.calls_to_pay) == (211, 10, 300)
    prompt = sum(len(call.messages[0]["content"]) for call in calls[10:]) / 200 / 4
    assert plan.cost_usd == pytest.approx(300 * (prompt * 10 + 1000 * 20) / 1e6)
    assert plan.minutes == pytest.approx(300 / 100, rel=0.05)
    assert "10 already in the ledger" in plan.line() and not plan.guessed
    unknown = await estimate(
        [Foreseen.of(ModelCall("x", calls[0].messages))], {"x": ModelConfig.model_validate({})}, ledger
    )
    assert "has no price" in unknown.unusable["x"] and unknown.calls_to_pay == 0
    await ledger.close()
