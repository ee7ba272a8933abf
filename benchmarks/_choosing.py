"""A lake in which three steps have asked so many questions, and what choosing from them costs: a part of growth.py."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from qbawa.project import Home
from qbawa.storage.lake import Lake

STEPS = ("answer", "summarise", "route")
BLOCK = 20_000
"""Requests: with their three steps about what a full block of a journal holds."""
NEW = 1_000
WORDS = 60
"""Of a question, each of up to seven letters."""
VOCABULARY = 5_000
AGAIN = 0.3
"""Share of questions that repeat an earlier one but for two words."""
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
CHOOSE = """
from pathlib import Path
from qbawa.project import Home, open_project
from qbawa.replay.stage import choose_requests
project = open_project(Home(Path(sys.argv[1])))
chosen = choose_requests(project)
assert chosen.rows.height == 3 * project.config.replay_set.size, chosen.rows.height
"""


def lay_questions(home: Home, requests: int) -> None:
    """Three recordings of each of so many requests, in blocks as ingestion writes them."""
    home.root.mkdir(parents=True, exist_ok=True)
    home.config.write_text("{}")
    lake = Lake(home.lake)
    for start in range(0, requests, BLOCK):
        lay_block(lake, start, min(requests, start + BLOCK))


def lay_block(lake: Lake, start: int, end: int) -> None:
    """The recordings of requests number `start` to `end`."""
    n = np.arange(start, end)
    parts = []
    for place, step in enumerate(STEPS):
        said = questions(n, place)
        ids = pl.Series([f"{(int(k) * 0x9E3779B97F4A7C15F39CC0605CEDC835) % (1 << 128):032x}" for k in n])
        rows = pl.DataFrame(
            {
                "request_id": ids,
                "recording_id": ids + f"-{place}",
                "inputs": '{"question": "' + said + '"}',
                "messages": '[{"role": "user", "content": "' + said + '"}]',
                "recorded_at": pl.Series(
                    [BEGAN + timedelta(seconds=int(k)) for k in n], dtype=pl.Datetime("us", "UTC")
                ),
            }
        )
        parts.append(rows.with_columns(step=pl.lit(step), model=pl.lit("m"), tags=pl.lit('{"plan":"free"}')))
    rows = pl.concat(parts).with_columns(block_id=pl.lit(f"b_{start:09}"), source=pl.lit("segment.jsonl (journal)"))
    lake.replace("recordings", [f"b_{start:09}"], rows)


def questions(numbers: np.ndarray, place: int) -> pl.Series:
    """A question for each number: the same one wherever it is asked for."""
    draw = np.random.default_rng(place)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)
    vocabulary = letters[draw.integers(0, 26, (VOCABULARY, 8))]
    vocabulary[np.arange(8) >= draw.integers(3, 8, VOCABULARY)[:, None]] = ord(" ")
    words = np.empty((len(numbers), WORDS), np.int64)
    share = np.random.default_rng(7)
    # Those of a block are drawn at once, since a generator each would take longer than all the rest.
    for block in np.unique(numbers // NEW):
        here = numbers // NEW == block
        all_of_it = np.random.default_rng((place, int(block))).integers(0, VOCABULARY, (NEW, WORDS))
        if block:
            share = np.random.default_rng((place, int(block), 1))
            again = share.random(NEW) < AGAIN
            earlier = int(share.integers(0, block))
            said = np.random.default_rng((place, earlier)).integers(0, VOCABULARY, (NEW, WORDS))
            said[:, 7], said[:, 41] = all_of_it[:, 7], all_of_it[:, 41]
            all_of_it[again] = said[again]
        words[here] = all_of_it[numbers[here] % NEW]
    text = vocabulary[words].reshape(len(numbers), -1)
    return pl.Series(text.view(f"S{text.shape[1]}").ravel().astype(str).tolist())


def choose_in_a_process(peak: str, home: Home) -> tuple[float, int]:
    """CPU seconds of choosing once, the process's start and all it starts included, and its peak in MB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", peak + CHOOSE + "\nprint(peak_mb())", str(home.root)], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, int(done.stdout.split()[-1])


def choosing(say: Callable[[str], None], peak: str, folder: Path, requests: int) -> dict[str, float]:
    """What choosing costs the first time, and when a thousand requests have come: the middle one of three times."""
    home = Home(folder)
    lay_questions(home, requests)
    say(f"{requests:,} requests of {len(STEPS)} steps laid into the lake")
    first, first_mb = choose_in_a_process(peak, home)
    say(f"choosing for the first time: {first:.1f} CPU s, {first_mb:,} MB")
    cpu, mb = [], [first_mb]
    for night in range(3):
        lay_block(Lake(home.lake), requests + night * NEW, requests + (night + 1) * NEW)
        seconds, most = choose_in_a_process(peak, home)
        say(f"choosing with {NEW:,} new requests: {seconds:.2f} CPU s, {most:,} MB")
        cpu.append(seconds)
        mb.append(most)
    return {
        "choose_first_cpu_s": round(first, 1),
        "choose_incremental_cpu_s": round(sorted(cpu)[1], 2),
        "choose_peak_mb": max(mb),
    }
