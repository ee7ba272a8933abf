"""Does taking recordings in cost more where the lake holds many already? Called by benchmarks/growth.py.

Two homes with the same traffic: one begins empty, the other one with nine tenths of the rows, laid into its lake by the
lake's own writer, in the blocks, batches and files that ingesting them makes. Each is then given a tenth, a run at a time, by
turns, so that a busy machine slows both alike. A run is a process of its own that does what the job of the sensor does: ask
what is new and what is held, take it in, publish the catalog.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import polars as pl

from qbawa.ingest.batch_index import BatchIndex, Segment
from qbawa.ingest.batches import MANIFESTS
from qbawa.project import Home, open_project
from qbawa.storage.journal import JournalWriter
from qbawa.storage.lake import Lake

STEPS = ("plan", "draft", "answer")
RUNS = 6
"""Into which a tenth is divided."""
BLOCK_ROWS = 16_000
"""Rows of a block that lines of this length make (`BLOCK_BYTES` and a kilobyte a row)."""
TENTH = 10


def ingest_growth(folder: Path, rows: int, say: Callable[[str], None]) -> dict[str, float]:
    """Keys: ingest_slowdown, ingest_cpu_us_first and ingest_cpu_us_last (a row)."""
    tenth = rows // TENTH
    empty, old = _home(folder / "empty"), _home(folder / "old")
    began = time.monotonic()
    lay(old, rows - tenth)
    say(f"{rows - tenth:,} recordings laid into the lake in {time.monotonic() - began:.0f} s")
    # A run before it is measured, as there was one yesterday.
    for home in (empty, old):
        run(home, rows, 300)
    seconds: dict[Path, float] = {empty.root: 0.0, old.root: 0.0}
    for number in range(RUNS):
        for home in (empty, old) if number % 2 else (old, empty):
            cpu_s = run(home, rows + (number + 1) * tenth, tenth // RUNS)
            seconds[home.root] += cpu_s
            say(f"{tenth // RUNS:,} rows into the {home.root.name} lake: {cpu_s:.2f} CPU-s")
    first, last = seconds[empty.root], seconds[old.root]
    done = tenth // RUNS * RUNS
    return {
        "ingest_slowdown": round(last / first, 3),
        "ingest_cpu_us_first": round(first / done * 1e6, 1),
        "ingest_cpu_us_last": round(last / done * 1e6, 1),
    }


def run(home: Home, start: int, rows: int) -> float:
    """CPU seconds of taking in so many new rows, imports left out."""
    with JournalWriter(home.journal, max_age_s=3600) as journal:
        for number, line in enumerate(lines(start, rows)):
            journal.append(line)
            if number % 5_000 == 0:
                journal.sync()
    done = subprocess.run(
        [sys.executable, __file__, str(home.root), str(rows)], capture_output=True, text=True, env=dict(os.environ)
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(json.loads(done.stdout.splitlines()[-1]))


def lines(start: int, count: int) -> Iterator[bytes]:
    """Lines of `count` steps as the recorder writes them, three to a request, and feedback on every tenth request."""
    texts = _texts()
    for number in range(start, start + count):
        said = texts[number * 31 % len(texts)]
        answered = texts[number * 17 % len(texts)]
        yield json.dumps(
            {
                "v": 1, "kind": "step", "recording_id": recording_id(number), "request_id": request_id(number // 3),
                "parent_id": None, "pipeline": "bench", "step": STEPS[number % 3], "inputs": {"question": said},
                "messages": [{"role": "user", "content": f"{number}: {said}"}], "output": answered[:300],
                "model": "m", "parameters": {"temperature": 0}, "input_tokens": 200, "output_tokens": 60,
                "cost_usd": 0.001, "started_at": 1.76e9 + number, "latency_s": 1.5, "tags": {"plan": "pro"},
            }
        ).encode()  # fmt: skip
        if number % 30 == 29:
            yield json.dumps(
                {
                    "v": 1, "kind": "feedback", "request_id": request_id(number // 3), "score": 1.0,
                    "comment": None, "at": 1.76e9 + number,
                }
            ).encode()  # fmt: skip


def _texts() -> list[str]:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(20_000)]
    return [" ".join(draw.choices(words, k=60)) for _ in range(4_999)]


def recording_id(number: int) -> str:
    """As random as the recorder's own."""
    return f"s_{number * 0x9E3779B97F4A7C15 % (1 << 64):016x}"


def request_id(number: int) -> str:
    return f"r_{number * 0xBF58476D1CE4E5B9 % (1 << 64):016x}"


def lay(home: Home, rows: int) -> None:
    """A home as taking in these rows leaves it. Their segments were deleted since; the batches are known."""
    lake, texts = open_project(home).lake, pl.Series(_texts())
    night = rows // (TENTH - 1) // RUNS
    batches = []
    for batch, start in enumerate(range(0, rows, night)):
        count = min(night, rows - start)
        name = f"b_2026-{1 + batch // 28 % 12:02}-{1 + batch % 28:02}_{hashlib.sha256(b'%d' % batch).hexdigest()[:12]}"
        parts = range(start, start + count, BLOCK_ROWS)
        for part, first in enumerate(parts):
            block = name if first == parts[-1] else f"{name}/{part:03}"
            _lay_block(lake, texts, block, first, min(BLOCK_ROWS, start + count - first))
        segment = Segment(home.journal / f"{name}.jsonl", 1, 1, hashlib.sha256(name.encode()).hexdigest())
        batches.append((name, [segment], False))
    BatchIndex(home.journal / MANIFESTS, home.journal.parent).add(batches)


def _lay_block(lake: Lake, texts: pl.Series, block: str, first: int, count: int) -> None:
    numbers = range(first, first + count)
    said = texts.gather([number * 31 % len(texts) for number in numbers])
    rows = pl.DataFrame(
        {
            "recording_id": [recording_id(number) for number in numbers],
            "request_id": [request_id(number // 3) for number in numbers],
            "step": [STEPS[number % 3] for number in numbers],
            "number": numbers,
            "said": said,
            "output": texts.gather([number * 17 % len(texts) for number in numbers]).str.slice(0, 300),
            "recorded_at": [datetime.fromtimestamp(1.76e9 + number, UTC) for number in numbers],
        }
    )
    feedback = rows.filter(pl.col("number") % 30 == 29).select("request_id", score=pl.lit(1.0), given_at="recorded_at")
    lake.replace("feedback", [block], feedback.with_columns(block_id=pl.lit(block)))
    rows = rows.select(
        "recording_id", "request_id", "step", "output", "recorded_at",
        inputs='{"question":"' + pl.col("said") + '"}',
        messages=pl.format("{}: {}", "number", "said"),
        pipeline=pl.lit("bench"), model=pl.lit("m"), parameters=pl.lit('{"temperature":0}'), tags=pl.lit('{"plan":"pro"}'),
        strategy_id=pl.col("step") + "_recorded", input_tokens=pl.lit(200), output_tokens=pl.lit(60), cost_usd=pl.lit(0.001),
        latency_s=pl.lit(1.5), source=pl.lit("segment.jsonl (journal)"), block_id=pl.lit(block),
    )  # fmt: skip
    lake.replace("recordings", [block], rows)


def _home(root: Path) -> Home:
    home = Home(root)
    root.mkdir(parents=True)
    home.config.write_text("{}")
    return home


def _child(root: Path, rows: int) -> None:
    from qbawa.ingest.stage import held_batches, ingest, new_batches

    project = open_project(Home(root))
    began = time.process_time()
    names = new_batches(project)
    held_batches(project)
    report = ingest(project, names)
    cpu_s = time.process_time() - began
    assert report.rows == rows and not report.quarantined, report
    print(json.dumps(cpu_s))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("rows", type=int)
    options = parser.parse_args()
    _child(options.root, options.rows)
