"""Speed and memory of ingest, measured in a process of its own; called by benchmarks/record.py."""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from qbawa.storage.journal import JournalWriter

ROW_BYTES = 5_000
BAD_EVERY = 1_000


def bench_ingest(rows: int) -> dict[str, float]:
    """Keys: ingest_rows_per_s (one core, wall time), ingest_cpu_s, peak_mb, rows, quarantined.

    Every 1,000th line is bad. The reading process is bound to one core where the system allows it.
    """
    with tempfile.TemporaryDirectory() as folder:
        _write_journal(Path(folder) / "journal", rows)
        # One thread each: Polars, Delta and Arrow would otherwise use every core.
        one_core = {"POLARS_MAX_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKIO_WORKER_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, __file__, "--child", folder], check=True, capture_output=True, text=True,
            env=os.environ | one_core,
        )  # fmt: skip
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _write_journal(folder: Path, rows: int) -> None:
    random_ = random.Random(0)
    words = ["".join(random_.choices("abcdefghijklmnopqrstuvwxyz", k=random_.randint(2, 9))) for _ in range(20_000)]
    with JournalWriter(folder, max_age_s=3600) as journal:
        for number in range(rows):
            text = " ".join(random_.choices(words, k=580))
            line = json.dumps(
                {
                    "v": 1, "kind": "step", "recording_id": f"s_{random_.getrandbits(64):016x}",
                    "request_id": f"r_{number}",
                    "parent_id": None, "pipeline": "bench", "step": "summarise", "inputs": {"article": text},
                    "messages": [{"role": "user", "content": "Sum up:" + text[:800]}], "output": text[:300],
                    "model": "m", "parameters": {"temperature": 0}, "input_tokens": 900, "output_tokens": 60,
                    "cost_usd": 0.001, "started_at": 1.76e9 + number, "latency_s": 1.5, "tags": {"plan": "pro"},
                }
            ).encode()  # fmt: skip
            journal.append(line[: len(line) // 2] if number % BAD_EVERY == 0 else line)
            if number % 2_000 == 0:
                journal.sync()


def _child(folder: Path) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from qbawa.ingest.stage import ingest_batch, pending_batches
    from qbawa.storage.lake import Lake

    lake = Lake(folder / "lake")
    began, cpu = time.perf_counter(), time.process_time()
    reports = [ingest_batch(lake, batch) for batch in pending_batches(lake, [folder / "journal"])]
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    rows, bad = sum(r.rows for r in reports), sum(r.quarantined for r in reports)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    print(
        json.dumps(
            {
                "ingest_rows_per_s": round((rows + bad) / seconds),
                "ingest_cpu_s": round(cpu, 2),
                "peak_mb": round(peak),
                "rows": rows,
                "quarantined": bad,
            }
        )  # fmt: skip
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _child(arguments.child)
    else:
        print(json.dumps(bench_ingest(arguments.rows)))
