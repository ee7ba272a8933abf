"""What recording costs an application, and what it loses when the application is killed.

python benchmarks/record.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import qbawa
from qbawa.storage.journal import adopt_orphans, closed_segments, read_lines

REPO = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the steps and rounds, a tenth of the ingest")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, help="kill -9 rounds (200; with --quick 40)")
    parser.add_argument(
        "--ingest-rows", type=int, help="rows to ingest (300,000; with --quick 30,000); 0 leaves it out"
    )
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    args = parser.parse_args()
    steps = 20_000 if args.quick else 100_000
    rounds = args.rounds if args.rounds is not None else (40 if args.quick else 200)
    ingest_rows = args.ingest_rows if args.ingest_rows is not None else (30_000 if args.quick else 300_000)

    result = {**overhead(steps, args.seed), **throughput(3, steps // 2, args.seed)}
    result |= {**first_step(5), **huge_values(), **kills(rounds, args.seed)}
    if ingest_rows and find_spec("_record_ingest"):
        from _record_ingest import bench_ingest

        result |= bench_ingest(ingest_rows)
    if not args.json:
        for name, value in result.items():
            print(f"{name:24} {value}")
    print(json.dumps(result))


def example(seed: int) -> tuple[str, dict[str, Any]]:
    """About 500 bytes of input and 500 of output, as a step that reads a contract might have them."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 10))) for _ in range(500)]
    text = " ".join(rng.choices(words, k=80))[:490]
    parties = [
        {"name": rng.choice(words).title(), "role": "seller"},
        {"name": rng.choice(words).title(), "role": "buyer"},
    ]
    return text, {
        "parties": parties,
        "governing_law": "Ontario",
        "amount": 1200.5,
        "summary": text[:340],
        "signed": True,
    }


def overhead(steps: int, seed: int) -> dict[str, float]:
    """Microseconds that recording adds to a call on the caller's thread, the writer thread competing all the while."""
    text, output = example(seed)

    def extract(contract: str, language: str = "en") -> dict[str, Any]:
        return output

    bare = statistics.median(_durations(extract, text, min(steps, 10_000)))
    with tempfile.TemporaryDirectory() as folder:
        qbawa.configure(folder)
        recorded = sorted(_durations(qbawa.step(extract), text, steps))
        assert qbawa.flush(60)
        dropped = sum(qbawa.stats().dropped.values())
        qbawa.configure()
    return {
        "p50_us": round((recorded[steps // 2] - bare) * 1e6, 2),
        "p99_us": round((recorded[steps * 99 // 100] - bare) * 1e6, 2),
        "overhead_dropped": dropped,
    }


def _durations(function: Callable[[str], Any], text: str, number: int) -> list[float]:
    clock = time.perf_counter
    durations = []
    for _ in range(number):
        begun = clock()
        function(text)
        durations.append(clock() - begun)
    return durations


def throughput(attempts: int, steps: int, seed: int) -> dict[str, float]:
    """Steps a second from the first call until the last is on disk for good: best attempt, and per second of CPU."""
    text, output = example(seed)

    @qbawa.step
    def extract(contract: str, language: str = "en") -> dict[str, Any]:
        return output

    rates, cpu_rates, dropped = [], [], 0
    for _ in range(attempts):
        with tempfile.TemporaryDirectory() as folder:
            qbawa.configure(folder)
            begun, cpu = time.perf_counter(), time.process_time()
            for _ in range(steps):
                extract(text)
            assert qbawa.flush(60)
            cpu, seconds = time.process_time() - cpu, time.perf_counter() - begun
            stats = qbawa.stats()
            dropped += sum(stats.dropped.values())
            rates.append(stats.written / seconds)
            cpu_rates.append(stats.written / cpu)
            qbawa.configure()
    return {
        "steps_per_s": round(max(rates)),
        "steps_per_s_median": round(statistics.median(rates)),
        "steps_per_cpu_s": round(max(cpu_rates)),
        "throughput_dropped": dropped,
    }


def first_step(attempts: int) -> dict[str, float]:
    """Milliseconds from `import qbawa` to the first recorded step, in a fresh process: best attempt, and its CPU."""
    code = """
import sys, time
begun, cpu = time.perf_counter(), time.process_time()
import qbawa
@qbawa.step
def work(x): return x
work(1)
print((time.perf_counter() - begun) * 1e3, (time.process_time() - cpu) * 1e3)
"""
    found = []
    for _ in range(attempts):
        with tempfile.TemporaryDirectory() as folder:
            env = {"QBAWA_JOURNAL": folder, "PYTHONPATH": str(REPO), "PATH": os.environ["PATH"]}
            done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
            found.append(tuple(float(number) for number in done.stdout.split()))
    return {"first_step_ms": round(min(found)[0], 1), "first_step_cpu_ms": round(min(cpu for _, cpu in found), 1)}


def huge_values() -> dict[str, float]:
    """Milliseconds that a step with a huge output adds on the caller's thread: the worst of several kinds."""
    values = [
        "x" * 100_000_000,
        [[n] for n in range(1_000_000)],
        {str(n): n for n in range(1_000_000)},
        bytes(100_000_000),
    ]

    @qbawa.step
    def work(index: int) -> Any:
        return values[index]

    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        qbawa.configure(folder)
        work(0)
        for index in range(len(values)):
            cpu = time.thread_time()
            work(index)
            worst = max(worst, time.thread_time() - cpu)
        assert qbawa.flush(60)
        qbawa.configure()
    return {"huge_output_ms": round(worst * 1e3, 2)}


def kills(rounds: int, seed: int) -> dict[str, int]:
    """Lines that `flush` acknowledged and that are gone, over `rounds` of two processes killed at random moments."""
    rng = random.Random(seed)
    lost = torn = acknowledged = survived = 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            children = [_start_recording(folder) for _ in range(2)]
            time.sleep(rng.uniform(0.0, 0.15))
            for pid, _ in children:
                os.kill(pid, signal.SIGKILL)
            for pid, _ in children:
                os.waitpid(pid, 0)
            adopt_orphans(folder)
            found: dict[int, set[int]] = {pid: set() for pid, _ in children}
            for path in closed_segments(folder):
                for line in read_lines(path):
                    try:
                        pid, number, _ = json.loads(line)["output"]
                        found[pid].add(number)
                    except (ValueError, KeyError):
                        torn += 1
            for pid, pipe in children:
                promised = _last_number(pipe)
                acknowledged += promised
                survived += len(found[pid])
                lost += promised - len(found[pid] & set(range(promised)))
    return {
        "lost_after_kill": lost,
        "torn_after_kill": torn,
        "kill_rounds": rounds,
        "kill_acknowledged": acknowledged,
        "kill_survived": survived,
    }


def _start_recording(folder: str) -> tuple[int, int]:
    """A forked process that records, flushes and reports how many steps are safe. Its pid and the pipe to read."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    try:
        os.close(read)
        qbawa.configure(folder, segment_bytes=50_000)

        @qbawa.step
        def work(number: int) -> list[Any]:
            return [os.getpid(), number, "x" * 300]

        number = 0
        rng = random.Random(os.getpid())
        while True:
            for _ in range(rng.randint(1, 50)):
                work(number)
                number += 1
            if qbawa.flush(10):
                os.write(write, b"%d\n" % number)
    finally:
        os._exit(1)


def _last_number(pipe: int) -> int:
    """The last whole number that came through, 0 for none."""
    data = b""
    while chunk := os.read(pipe, 1 << 16):
        data += chunk
    os.close(pipe)
    lines = data.split(b"\n")[:-1]
    return int(lines[-1]) if lines else 0


if __name__ == "__main__":
    main()
