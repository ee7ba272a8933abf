"""Replay, measured end to end against a mock provider in a process of its own (`_mock_provider.py`).

    python benchmarks/replay.py [--json] [--quick] [--peers] [--only limits,cells,…]

Every phase runs the product's own `qbawa.replay.stage.replay` in a fresh process on a fresh home: render, call, journal,
ledger, lake. What the provider saw is counted by the provider, and its CPU by nobody.

A process costs something before its first cell, and then something for each. So CPU is told apart: two processes answer
few and many cells; what a cell more takes is the difference of their CPU by that of their cells, and the rest is fixed.
`cpu_ms_per_cell` is that of a process which runs `replay` as a library (engine, ledger, lake), `cpu_s_fixed` what it takes
besides, from its start, imports included. `…_dagster` is the same process in a Dagster run, where every cell has its event,
and `…_tree` that with all its children and the embedded PostgreSQL.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import yaml
from _mock_provider import FAULTS, MockProvider, content_id, running

STEP = "answer"
MODEL = "bench"
PER_PHASE_S = 240.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print nothing but the last line")
    parser.add_argument("--quick", action="store_true", help="about a minute: smaller and shorter, for a first look")
    parser.add_argument("--peers", action="store_true", help="also aiohttp, openai, litellm and DSPy on the same work")
    parser.add_argument("--only", help=f"comma-separated phases: {', '.join(PHASES)}, peers")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else [*PHASES, *(["peers"] if options.peers else [])]
    result: dict[str, Any] = {"seed": options.seed, "quick": options.quick}
    for name in wanted:
        phase = peers if name == "peers" else PHASES[name]
        began = time.monotonic()
        with running() as provider, tempfile.TemporaryDirectory(prefix="qbawa-replay-") as folder:
            found = phase(provider, Path(folder), options.quick, random.Random(f"{options.seed} {name}"))
        result |= found
        if not options.json:
            print(f"{name} ({time.monotonic() - began:.0f} s): {json.dumps(found)}", flush=True)
    if "limit_used_requests" in result:
        result["limit_used"] = min(result["limit_used_requests"], result["limit_used_tokens"])
        result["share_429"] = max(result.pop("share_429_requests"), result.pop("share_429_tokens"))
    print(json.dumps(result))


# Phases: each returns its part of the result.


def limits(provider: MockProvider, folder: Path, quick: bool, chance: random.Random) -> dict[str, Any]:
    """The share of a binding limit that is used, and of calls that are answered 429; latencies of 1–10 s."""
    window_s = 20 if quick else 66
    result: dict[str, Any] = {}
    rpm = 10_000
    provider.control(rpm=rpm, latency_s=[1, 10])
    cells = int(rpm / 60 * window_s)
    home = make_home(folder / "requests", provider, cells, model={"requests_per_minute": rpm})
    done = work(home)
    used = _window(provider, window_s)
    result["limit_used_requests"] = round(used["requests_per_minute"] / rpm, 4)
    result["share_429_requests"] = used["share_429"]
    result["window_requests_s"] = used["seconds"]
    result["peak_in_flight"] = used["peak_in_flight"]
    result["provider_slept_s"] = used["slept_s"]
    result["cpu_ms_per_cell_paced"] = round(1000 * done["cpu_s"] / cells, 3)  # what is fixed included
    _expect(done["report"]["answered"] == cells, f"{done['report']} for {cells} cells")

    tpm, tokens = 10_000_000, (300, 200, 2200)
    provider.control(tpm=tpm, latency_s=[1, 10], prompt_tokens=tokens[0], completion_tokens=tokens[1:])
    cells = int(tpm / 60 * window_s / (tokens[0] + sum(tokens[1:]) / 2))
    home = make_home(folder / "tokens", provider, cells, model={"tokens_per_minute": tpm})
    done = work(home)
    used = _window(provider, window_s)
    result["limit_used_tokens"] = round(used["tokens_per_minute"] / tpm, 4)
    result["share_429_tokens"] = used["share_429"]
    result["window_tokens_s"] = used["seconds"]
    _expect(done["report"]["answered"] == cells, f"{done['report']} for {cells} cells")

    # A provider that grants 60 % of what is configured: the pace must find it.
    provider.control(rpm=rpm * 0.6, latency_s=[0.5, 2])
    cells = int(rpm * 0.6 / 60 * (15 if quick else 30))
    home = make_home(folder / "lower", provider, cells, model={"requests_per_minute": rpm})
    done = work(home)
    used = _window(provider, 15 if quick else 30)
    result["limit_used_lower_than_configured"] = round(used["requests_per_minute"] / (rpm * 0.6), 4)
    result["share_429_lower_than_configured"] = used["share_429"]
    return result


def stray(provider: MockProvider, folder: Path, quick: bool, chance: random.Random) -> dict[str, Any]:
    """The share of a limit that is used while 1 % of calls meet a lone 429 and 1 % a 5xx or a reset.

    Counted over a fixed time, in which calls are always waiting: what is sent again after the last new call waits for
    its answer, not for the limit. `stray_seconds` is the whole sweep, beside what the limit alone would take.
    """
    rpm, window_s = 10_000, 20 if quick else 60
    shares = {"429": 0.01, "500": 0.003, "503": 0.004, "reset": 0.003}
    provider.control(rpm=rpm, latency_s=[0.2, 1], faults=shares, fault_retry_after_s=0.5)
    cells = int(rpm / 60 * window_s * 1.05)
    home = make_home(folder, provider, cells, model={"requests_per_minute": rpm})
    report = work(home)["report"]
    _expect(report["answered"] == cells, f"{report} for {cells} cells")
    stats = provider.stats()
    return {
        "limit_used_stray": round(sum(at <= window_s for at, _ in stats["admitted"]) / (rpm / 60 * window_s), 4),
        "stray_seconds": round(stats["admitted"][-1][0], 1),
        "stray_ideal_seconds": round(cells * (1 + sum(shares.values())) / rpm * 60, 1),
        "stray_429s": stats["counts"].get("fault_429", 0) + stats["counts"].get("limited", 0),
    }


def cells(provider: MockProvider, folder: Path, quick: bool, chance: random.Random) -> dict[str, Any]:
    """CPU a cell and peak memory, with prompts and answers of about 1 KB and no limit; keys as above.

    Alone, over 10,000 cells more; in Dagster over 28,000 more, so that the peak is that of 30,000, or quickly 2,500 more.
    """
    provider.control(latency_s=[0.2, 0.6], answer_chars=1000)
    done = {}
    for way, few, many in (("alone", 2_000, 12_000), ("dagster", *((500, 3_000) if quick else (2_000, 30_000)))):
        for count in (few, many):
            home = make_home(folder / f"{way}-{count}", provider, count, model={"max_in_flight": 1000})
            found = done[way, count] = work(home, *(["--events"] if way == "dagster" else []))
            events = found["events"] if way == "dagster" else count
            _expect(found["report"]["answered"] == events == count, f"{found} for {count} cells")
        again = work(home)
        _expect(again["report"]["done_before"] == count, f"{again['report']} on the second run")
    per_cell, fixed = _fit(done, "alone", "cpu_s")
    per_cell_dagster, _ = _fit(done, "dagster", "cpu_s")
    per_cell_tree, fixed_tree = _fit(done, "dagster", "tree_cpu_s")
    return {
        "cells": many,
        "cpu_ms_per_cell": round(per_cell, 3),
        "cpu_s_fixed": round(fixed, 2),
        "cpu_ms_per_cell_dagster": round(per_cell_dagster, 3),
        "cpu_ms_per_cell_tree": round(per_cell_tree, 3),
        "cpu_s_fixed_tree": round(fixed_tree, 2),
        "peak_mb": found["peak_mb"],
        "cells_per_s": round(many / found["report"]["seconds"], 1),
    }


def _fit(done: dict[tuple[str, int], dict[str, Any]], way: str, key: str) -> tuple[float, float]:
    """Milliseconds of CPU for each cell more, and seconds besides, from two sizes."""
    (few, less), (many, more) = sorted((count, found[key]) for (name, count), found in done.items() if name == way)
    each_s = (more - less) / (many - few)
    return 1000 * each_s, less - few * each_s


def faults(provider: MockProvider, folder: Path, quick: bool, chance: random.Random) -> dict[str, Any]:
    """2 % of calls each of 500, 503, 429, reset, hang and malformed: how every cell ended."""
    count = 500 if quick else 4_000
    provider.control(latency_s=[0.05, 0.3], faults=dict.fromkeys(FAULTS, 0.02))
    home = make_home(folder, provider, count, model={"timeout_s": 2.0, "max_in_flight": 500})
    done = work(home)
    report = done["report"]
    return {
        "faults": {
            "cells": count,
            "ok": report["answered"],
            "failed": report["failed"],
            "reasons": report["reasons"],
            "unfinished": count - report["answered"] - report["failed"],
            "injected": {name: provider.stats()["counts"].get(f"fault_{name}", 0) for name in FAULTS},
            "seconds": report["seconds"],
        }
    }


def kills(provider: MockProvider, folder: Path, quick: bool, chance: random.Random) -> dict[str, Any]:
    """kill -9 at random moments, then a rerun: what was acknowledged is there, and nothing is paid or held twice."""
    rounds = 5 if quick else 50
    count = 600 if quick else 4_000
    provider.control(latency_s=[0.05, 0.3])
    home = make_home(folder, provider, count, model={"requests_per_minute": 6_000})
    acknowledged: set[str] = set()
    journalled: set[str] = set()
    killed = 0
    for _ in range(rounds):
        # Into a file: nobody reads while the clock runs, and a full pipe would stop the process.
        with (folder / "acknowledged").open("w") as told:
            process = _start(home, "--portion-s", "0.3", output=told)
        if chance.random() < 0.8:
            _wait_until_paying(home, process)
            time.sleep(chance.uniform(0.0, 1.2))
        else:
            time.sleep(chance.uniform(0.0, 3.0))  # while it starts, lands or looks up
        killed += process.poll() is None
        process.kill()
        process.wait()
        told_lines = (folder / "acknowledged").read_text().splitlines(keepends=True)
        acknowledged |= {line[5:-1] for line in told_lines if line.startswith("cell ") and line.endswith("\n")}
        keys, contents = _journalled(home)
        journalled |= keys
        # From now on the provider counts it when one of these is asked again.
        provider.control(keep_counts=True, known=sorted(contents))
    configure(home, provider, model={})
    done = work(home)
    rows, keys = _lake(home)
    stats = provider.stats()
    return {
        "kill_rounds": rounds,
        "killed": killed,
        "acknowledged_cells": len(acknowledged),
        "acknowledged_calls": len(journalled),
        "acknowledged_lost": len(acknowledged - set(rows)) + len(journalled - keys),
        "cells_twice": len(rows) - len(set(rows)),
        "cells_missing_after_rerun": count - len(set(rows)),
        "journalled_asked_again": stats["counts"].get("asked_again", 0),
        "answered_but_killed_before_the_journal": stats["answered_twice"],
        "final_run": {name: done["report"][name] for name in ("answered", "done_before", "failed", "missing")},
    }


def two_runs(provider: MockProvider, folder: Path, quick: bool, chance: random.Random) -> dict[str, Any]:
    """Two runs over the same cells at once: how many calls the provider answered more than once."""
    count = 300 if quick else 2_000
    provider.control(latency_s=[0.1, 0.5])
    home = make_home(folder, provider, count, model={"max_in_flight": 100})
    both = [_start(home), _start(home)]
    reports = [_finish(process)["report"] for process in both]
    rows, _ = _lake(home)
    return {
        "two_runs": {
            "cells": count,
            "paid": [report["calls_paid"] for report in reports],
            "answered_twice": provider.stats()["answered_twice"],
            "cells_twice": len(rows) - len(set(rows)),
            "failed": sum(report["failed"] for report in reports),
        }
    }


def budget(provider: MockProvider, folder: Path, quick: bool, chance: random.Random) -> dict[str, Any]:
    """$1 on about $5 of work, then a second run with another dollar, then one without a cap."""
    count = 500 if quick else 2_500
    provider.control(latency_s=[0.2, 1.0], prompt_tokens=200, completion_tokens=[50, 150])
    # 200 tokens in and 100 out on average: $5 for all.
    price = 5.0 / count / 300 * 1e6
    prices = {"input_usd_per_million": price, "output_usd_per_million": price, "free": False}
    home = make_home(folder, provider, count, model=prices, budget={"usd_per_run": 1.0})
    first, second = work(home)["report"], work(home)["report"]
    configure(home, provider, model=prices)
    last = work(home)["report"]
    return {
        "budget": {
            "cap_usd": 1.0,
            "spent_usd": round(first["cost_usd"], 4),
            "second_run_usd": round(second["cost_usd"], 4),
            "whole_usd": round(first["cost_usd"] + second["cost_usd"] + last["cost_usd"], 4),
            "answered": [report["answered"] for report in (first, second, last)],
            "missing": [report["missing"] for report in (first, second, last)],
            "said": first.get("stopped"),
            "paid_twice": provider.stats()["answered_twice"],
        }
    }


PHASES: dict[str, Callable[[MockProvider, Path, bool, random.Random], dict[str, Any]]] = {
    "cells": cells,
    "limits": limits,
    "stray": stray,
    "faults": faults,
    "kills": kills,
    "two_runs": two_runs,
    "budget": budget,
}


PEERS = ("aiohttp", "openai", "litellm", "dspy")
OURS = {"qbawa": (), "qbawa in Dagster": ("--events",)}


def peers(provider: MockProvider, folder: Path, quick: bool, chance: random.Random) -> dict[str, Any]:
    """The same calls through others' clients, each at its best (`_peers.py`), and cells of ours: CPU of process trees.

    `cpu_ms_per_call` is what each call more takes and `cpu_s_fixed` the rest, as above; of qbawa in Dagster, PostgreSQL's
    too. `seconds_at_limit` is the time for calls at 6,000 a minute. Each has as many connections as the load needs.
    """
    few, many, limited, rpm = (200, 1_200, 500, 6_000) if quick else (500, 4_500, 1_500, 6_000)
    result: dict[str, Any] = {}
    for name in (*OURS, *PEERS):
        done: dict[tuple[str, int], dict[str, Any]] = {}
        for count in (few, many):
            provider.control(latency_s=[0.1, 0.3])
            done[name, count] = _by(name, provider, folder / f"{name}-{count}", count, None)
        if "not installed" in done[name, few]:
            result[name] = "not installed"
            continue
        provider.control(rpm=rpm, latency_s=[0.5, 2.0])
        paced = _by(name, provider, folder / f"{name}-limit", limited, rpm)
        per_call, fixed = _fit(done, name, "tree_cpu_s")
        result[name] = {
            "cpu_ms_per_call": round(per_call, 2),
            "cpu_s_fixed": round(fixed, 1),
            "seconds_at_limit": round(paced["seconds"], 1),
            "answered_429": provider.stats()["counts"].get("limited", 0),
            "failed": paced["failed"] + sum(found["failed"] for found in done.values()),
        }
    return {"peers": result, "peers_ideal_seconds": round(limited / rpm * 60, 1)}


def _by(name: str, provider: MockProvider, folder: Path, calls: int, rpm: int | None) -> dict[str, Any]:
    """What so many calls took by one client, or as cells of ours."""
    from _peers import AT_ONCE

    if name in OURS:
        model = {"requests_per_minute": rpm} if rpm else {"max_in_flight": AT_ONCE}
        found = work(make_home(folder, provider, calls, model=model), *OURS[name])
        return found | {"failed": calls - found["report"]["answered"], "seconds": found["report"]["seconds"]}
    arguments = [name, provider.base_url, str(calls), *([str(rpm)] if rpm else [])]
    command = [sys.executable, str(Path(__file__).with_name("_peers.py")), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=PER_PHASE_S, check=False)
    lines = run.stdout.strip().splitlines()
    if not lines:
        raise RuntimeError(f"{name} failed: {run.stderr[-2000:]}")
    found = json.loads(lines[-1])
    return found if "not installed" in found else found | {"tree_cpu_s": found["cpu_s"]}


# A home with as many cells as wanted, and a process that replays them.


def make_home(
    folder: Path, provider: MockProvider, cells: int, *, model: dict[str, Any], budget: dict[str, Any] | None = None
) -> Path:
    """A home whose replay set × strategies are at least `cells` cells; `work` takes exactly the first so many."""
    from qbawa.project import Home, open_project
    from qbawa.replay.strategies.grid import expand
    from qbawa.replay.strategies.repository import write_strategies
    from qbawa.storage.frames import frame

    strategies = 200 if cells >= 10_000 else 50
    requests = -(-cells // strategies)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cells").write_text(str(cells))
    configure(folder, provider, model=model, budget=budget, temperatures=strategies // 10)
    project = open_project(Home(folder))
    write_strategies(project.lake, expand(project.config, folder))
    at = datetime.now(UTC)
    seen = random.Random(str(folder))
    recordings, chosen = [], []
    for number in range(requests):
        question = f"Question {number}: " + " ".join(
            seen.choices(("why", "how", "when", "does", "the", "market", "river", "engine"), k=120)
        )
        row = {"request_id": f"r{number:05}", "recording_id": f"x{number:05}", "step": STEP, "pipeline": "bench"}
        recordings.append(row | {"inputs": json.dumps({"question": question}), "recorded_at": at, "block_id": "batch"})
        chosen.append(
            {"step": STEP, "request_id": row["request_id"], "recording_id": row["recording_id"], "block_id": STEP}
        )
    project.lake.replace("recordings", ["batch"], frame("recordings", recordings))
    project.lake.replace("replay_set", [STEP], frame("replay_set", chosen))
    return folder


def configure(
    home: Path,
    provider: MockProvider,
    *,
    model: dict[str, Any],
    budget: dict[str, Any] | None = None,
    temperatures: int | None = None,
) -> None:
    """Write qbawa.yaml, keeping the strategies of one that is there."""
    path = home / "qbawa.yaml"
    if temperatures is None:
        strategies = yaml.safe_load(path.read_text())["strategies"]
    else:
        prompts = {f"p{n}": f"Way {n}. Answer briefly: {{{{ question }}}}" for n in range(10)}
        grid = [round(0.05 * n, 2) for n in range(temperatures)]
        strategies = [{"step": STEP, "prompts": prompts, "model": MODEL, "params": {"temperature": grid}}]
    settings = {"base_url": provider.base_url, "free": True, "timeout_s": 60.0} | model
    content = {"models": {MODEL: settings}, "strategies": strategies, "budget": budget or {}}
    path.write_text(yaml.safe_dump(content))


def work(home: Path, *flags: str) -> dict[str, Any]:
    """Replay a home's cells in a process of its own: the report, CPU and memory."""
    return _finish(_start(home, *flags))


def _start(home: Path, *flags: str, output: int | IO[str] = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).resolve()), "--work", str(home), *flags]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    return subprocess.Popen(command, stdout=output, text=True, env=environment)


def _finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    try:
        output, _ = process.communicate(timeout=PER_PHASE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    if process.returncode:
        raise RuntimeError(f"The replay ended with code {process.returncode}.")
    return json.loads(output.strip().splitlines()[-1])


def _work(arguments: Sequence[str]) -> None:
    """The replaying process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path)
    parser.add_argument("--portion-s", type=float)
    parser.add_argument("--events", action="store_true")
    options = parser.parse_args(arguments)

    import polars as pl

    from qbawa.project import Home, open_project
    from qbawa.replay import runner as run
    from qbawa.replay import stage as replay_stage

    if options.portion_s is not None:
        run.PORTION_S = options.portion_s

    def tell(done: pl.DataFrame) -> None:
        if options.portion_s is not None:
            lines = [
                f"cell {request} {strategy}" for request, strategy in done.select("request_id", "strategy_id").rows()
            ]
            os.write(1, ("\n".join(lines) + "\n").encode())

    def replay(
        run_id: str, on_cells: Callable[[pl.DataFrame], None], log: Callable[[str], Any] | None = None
    ) -> run.ReplayReport:
        project = open_project(Home(options.work))
        due = replay_stage.wanted_cells(project.lake).head(int((options.work / "cells").read_text()))
        return replay_stage.replay(project, due, run_id=run_id, on_cells=on_cells, log=log)

    if options.events:
        report, events, server_s = _in_dagster(Home(options.work), replay)
    else:
        report, events, server_s = replay(f"bench-{os.getpid()}", tell), 0, 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    used = os.times()
    own_s = used.user + used.system
    print(
        json.dumps(
            {
                "report": report.metadata(),
                "cpu_s": own_s,
                "tree_cpu_s": own_s + used.children_user + used.children_system + server_s,
                "peak_mb": round(peak, 1),
                "events": events,
            }
        ),
        flush=True,
    )


def _in_dagster(home: Any, replay: Callable[..., Any]) -> tuple[Any, int, float]:
    """Replay in a run of a Dagster instance on the embedded PostgreSQL: the report, the events, the server's CPU."""
    from qbawa.cli.launch.dagster import dagster_environment

    with dagster_environment(home) as environment:
        os.environ.update(environment)
        from dagster import AssetKey, DagsterInstance, job, op

        from qbawa.project import open_project
        from qbawa_assets.partition_reports import report_cells

        reports = []

        @op
        def sweep(context) -> None:  # type: ignore[no-untyped-def]  # Dagster reads the annotation
            on_cells = report_cells(context, open_project(home), plan_failures=True)
            reports.append(replay(context.run_id, on_cells, context.log.info))

        @job
        def bench() -> None:
            sweep()

        with DagsterInstance.get() as instance:
            bench.execute_in_process(instance=instance)
            events = len(instance.get_materialized_partitions(AssetKey("replay_matrix")))
        return reports[0], events, _server_cpu_s(home.root)


def _server_cpu_s(home: Path) -> float:
    """CPU of the home's PostgreSQL so far, with that of processes which it has waited for."""
    import psutil

    (noted,) = home.rglob("postmaster.pid")
    server = psutil.Process(int(noted.read_text().split()[0]))
    return sum(sum(process.cpu_times()[:4]) for process in (server, *server.children()))


# What the provider, the journal and the lake hold.


def _window(provider: MockProvider, least_s: float) -> dict[str, Any]:
    """Admitted requests and tokens a minute, from the first to the last admission, by the provider's clock."""
    stats = provider.stats()
    admitted = stats["admitted"]
    seconds = admitted[-1][0]
    _expect(seconds > 0.8 * least_s, f"only {seconds} s")
    counts = stats["counts"]
    return {
        "seconds": round(seconds, 1),
        "requests_per_minute": (len(admitted) - 1) / seconds * 60,
        "tokens_per_minute": sum(tokens for _, tokens in admitted[:-1]) / seconds * 60,
        "share_429": round(counts.get("limited", 0) / counts["requests"], 5),
        "peak_in_flight": stats["peak_in_flight"],
        "slept_s": stats["slept_s"],
    }


def _wait_until_paying(home: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the process has journalled its first answer; segments of those killed before are closed by then."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        if any(f"-{process.pid}-" in path.name for path in (home / "calls").glob("*.open")):
            return
        time.sleep(0.01)


def _journalled(home: Path) -> tuple[set[str], set[str]]:
    """Keys and contents of answered calls that are on disk, in journal or lake."""
    from qbawa.engine.ledger.index import LOADED, is_answer
    from qbawa.storage.journal import all_segments, read_lines

    keys, contents = set(), set()
    for folder in (home / "calls", home / "calls" / LOADED):
        for segment in all_segments(folder):
            for raw in read_lines(segment):
                line = json.loads(raw)
                if is_answer(line):
                    keys.add(line["call_key"])
                    contents.add(content_id({"model": line["model"], "messages": line["messages"], **line["params"]}))
    return keys, contents


def _lake(home: Path) -> tuple[list[str], set[str]]:
    """Cells of the matrix as `request strategy`, and keys of answered calls."""
    import polars as pl

    from qbawa.storage.lake import Lake

    lake = Lake(home / "lake")
    rows = lake.read("replay_matrix", ["request_id", "strategy_id", "status"], keep=pl.col("status") == "ok")
    calls = lake.read("calls", ["call_key", "error"])
    answered = set(calls.filter(calls["error"].is_null())["call_key"])
    return [f"{request} {strategy}" for request, strategy, _ in rows.rows()], answered


def _expect(truth: bool, otherwise: str) -> None:
    if not truth:
        raise RuntimeError(f"The measurement is void: {otherwise}.")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if "--work" in sys.argv:
        _work(sys.argv[1:])
    else:
        main()
