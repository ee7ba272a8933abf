"""Processes that pay a provider from one home, and what its ledger says of it: what `money.py` and tests measure with.

    python benchmarks/_paying.py HOME FIRST COUNT WIDTH [--usd USD] [--run ID] [--retry-refused]

asks the calls number FIRST to FIRST + COUNT, WIDTH at a time, through the engine that runs use, and prints what came.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml

INPUT_USD, OUTPUT_USD = 5.0, 20.0
"""Prices a million tokens, unless told otherwise."""
MAX_TOKENS = 500
MODEL = "bench"
STEP = "answer"


def write_home(root: Path, base_url: str, budget: dict[str, Any], **model: Any) -> Path:
    """A home whose one model costs money."""
    root.mkdir(parents=True, exist_ok=True)
    settings = {
        "base_url": base_url,
        "input_usd_per_million": INPUT_USD,
        "output_usd_per_million": OUTPUT_USD,
        "max_in_flight": 100,
        "timeout_s": 20.0,
    }
    config = {"models": {MODEL: settings | model}, "budget": budget}
    (root / "qbawa.yaml").write_text(yaml.safe_dump(config))
    return root


def prompt(number: int) -> str:
    return f"Question {number}: weigh the points for and against, and say which side you would take. " * 4


@dataclass(frozen=True)
class Ledger:
    """What a home's journal and lake say of its calls, each line once."""

    lines: list[dict[str, Any]]

    @classmethod
    def of(cls, home: Path) -> Ledger:
        from qbawa.project import Home, open_project
        from qbawa.storage.journal import all_segments, read_lines

        project = open_project(Home(home))
        rows = project.lake.read("calls").to_dicts()
        loaded = {row["block_id"] for row in rows}
        for segment in all_segments(project.home.calls):
            if segment.stem not in loaded:
                rows += [orjson.loads(line) for line in read_lines(segment)]
        return cls(rows)

    @property
    def charged_usd(self) -> float:
        return sum(line["charged_usd"] or 0.0 for line in self.lines)

    @property
    def ended(self) -> set[str]:
        """Keys of calls that were answered or refused."""
        return {line["call_key"] for line in self.lines if line["error"] is None or line["charged_usd"]}


class Payer:
    """A process that asks calls."""

    def __init__(self, home: Path, first: int, count: int, width: int = 100, *options: str) -> None:
        arguments = [str(home), str(first), str(count), str(width), *options]
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if os.environ.get("QBAWA_QUIET", "1") == "1" else None,
            text=True,
        )

    def result(self, timeout_s: float = 240.0) -> dict[str, Any]:
        """What came of the calls, once the process has ended by itself; empty where it was ended."""
        out, _ = self.process.communicate(timeout=timeout_s)
        return json.loads(out.splitlines()[-1]) if out.strip() and self.process.returncode == 0 else {}

    def end(self, how: signal.Signals, timeout_s: float = 90.0) -> int:
        self.process.send_signal(how)
        self.process.communicate(timeout=timeout_s)
        return self.process.returncode


def pay(home: Path, count: int, processes: int = 1, width: int = 100, *options: str) -> list[dict[str, Any]]:
    """Calls of their own for each of so many processes at once; what came of them."""
    payers = [Payer(home, number * 1_000_000, count, width, *options) for number in range(processes)]
    return [payer.result() for payer in payers]


async def ask(
    home: Path, first: int, count: int, width: int, usd: float | None, run: str, again: bool
) -> dict[str, Any]:
    from qbawa.engine.calls import ModelCall
    from qbawa.engine.progress import Progress
    from qbawa.engine.session import open_engine
    from qbawa.errors import NotMadeError, ProviderError
    from qbawa.project import Home, open_project

    project = open_project(Home(home))
    outcomes: Counter[str] = Counter()
    numbers = iter(range(first, first + count))
    params = {"max_tokens": int(os.environ.get("QBAWA_MAX_TOKENS", MAX_TOKENS))}
    began = time.monotonic()
    async with open_engine(project, Progress(0), run_id=run, usd=usd, retry_refused=again) as engine:

        async def work() -> None:
            for number in numbers:
                messages = ({"role": "user", "content": prompt(number)},)
                call = ModelCall(MODEL, messages, {} if params["max_tokens"] == 0 else params, step=STEP)
                try:
                    await engine.call(call)
                    outcomes["ok"] += 1
                except NotMadeError:
                    outcomes["not_made"] += 1
                except ProviderError as error:
                    outcomes[error.reason] += 1

        await asyncio.gather(*(work() for _ in range(width)))
        stats = engine.stats
    return {
        "outcomes": outcomes,
        "cost_usd": stats.cost_usd,
        "unknown_usd": stats.unknown_usd,
        "attempts": stats.attempts,
        "seconds": time.monotonic() - began,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("--usd", type=float)
    parser.add_argument("--run", default=f"run-{os.getpid()}")
    parser.add_argument("--retry-refused", action="store_true")
    o = parser.parse_args(arguments)
    print(json.dumps(asyncio.run(ask(o.home, o.first, o.count, o.width, o.usd, o.run, o.retry_refused))))


if __name__ == "__main__":
    main()
