"""What a year of nights costs: the sensor's tick, PostgreSQL, files, handles, and whether later nights are slower.

Led by the hardest setting: 100,000 batches whose segments all still lie in the journal's folder, looked at by a process
that has just started, on a real instance with 100,000 partitions. Then 2,000 small appends to one table, then 60 nights of
the real flywheel with offline models and the real nightly maintenance on a real PostgreSQL, each a day after the other:
runs are made older in the database, files by their time. The last line is a JSON object:

    tick_s_100k_batches       seconds of the slowest tick: the first of a new process, which has the cursor that Dagster keeps, as
                              after any restart; the next; with a new segment; after the lake has changed
    tick_s_without_cursor     seconds of the one tick in a home's life that has no cursor, and asks for all partitions
    open_files_growth         handles that the process has more after the appends and nights than early in them
    pg_mb_per_1000_runs       growth of the database over the second half of the nights, by 1,000 runs, retention at work
    files_after_2000_appends  files that the table has: live ones at the end, or all on disk after a day's maintenance
    second_half_slower        seconds of the second half of the nights over those of the first

    python benchmarks/endurance.py [--json] [--quick] [--only tick,appends,nights] [--minutes 14]

--quick takes a tenth of everything (about a minute on an idle machine) and extrapolates: a tick's growth to 100,000 batches
in a straight line, files as they are, since both are bounded. Nights that do not fit into --minutes are left out, and said.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from qbawa.cli.demo_app.pipeline import record_demo
from qbawa.cli.launch.dagster import dagster_environment
from qbawa.ingest.batch_index import BatchIndex, Segment
from qbawa.ingest.batches import MANIFESTS
from qbawa.project import Home, open_project
from qbawa.storage.frames import frame
from qbawa.storage.lake import Lake

if TYPE_CHECKING:
    from dagster import DagsterInstance

CONFIG = """
replay_set: {size: 4}
retention: {runs_days: %d}
strategies:
  - step: summarise
    name: plain
    prompt: "Sum this article up in one sentence.\\n\\n{{ article }}"
    models: [offline/lead-2, offline/textrank]
  - step: triage
    name: json
    prompt: "Triage this ticket. Return only JSON with the keys category, priority and sentiment.\\n\\nTicket: {{ ticket }}"
    models: [offline/triage-careful, offline/triage-null]
judges: {rubric: {model: offline/judge}}
tournament: {verdict_budget: 100}
"""
DAY_S = 86_400
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class Report:
    def __init__(self, quiet: bool) -> None:
        self.quiet, self.found = quiet, dict[str, Any]()

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)


@contextlib.contextmanager
def home_with_instance(config: str) -> Iterator[tuple[Home, DagsterInstance]]:
    """A home of its own with PostgreSQL and Dagster's instance, in force in this process; gone afterwards."""
    home = Home(Path(tempfile.mkdtemp(prefix="qb-", dir="/tmp")))
    home.config.write_text(config)
    try:
        with dagster_environment(home) as environment:
            before = dict(os.environ)
            os.environ.update(environment)
            from dagster import DagsterInstance

            try:
                with DagsterInstance.from_config(str(home.dagster)) as instance:
                    yield home, instance
            finally:
                os.environ.clear()
                os.environ.update(before)
    finally:
        shutil.rmtree(home.root, ignore_errors=True)


# ── the tick ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_history(home: Home, batches: int) -> list[str]:
    """So many ingested batches of one tiny segment each, all still in the journal's folder; their names."""
    home.journal.mkdir()
    (home.journal / MANIFESTS).mkdir()
    named = []
    for number in range(batches):
        path = home.journal / f"20260101T{number:06}.000000Z-1-{number:08x}.jsonl"
        line = f'{{"v":1,"kind":"request","request_id":"r_{number}","tags":{{}}}}\n'.encode()
        path.write_bytes(line)
        segment = Segment(path.resolve(), len(line), path.stat().st_mtime_ns, hashlib.sha256(line).hexdigest())
        named.append((f"b_2026-01-01_{number:012x}", [segment], False))
    BatchIndex(home.journal.resolve() / MANIFESTS, home.journal.resolve().parent).add(named)
    names, lake = [name for name, *_ in named], open_project(home).lake
    for start in range(0, batches, 10_000):
        part = names[start : start + 10_000]
        rows = [{"recording_id": name, "request_id": name, "step": "x", "block_id": name} for name in part]
        lake.replace("recordings", part, frame("recordings", rows))
    return names


TICKS = """
import json, os, sys, time
from pathlib import Path
from dagster import DagsterInstance, SkipReason, build_sensor_context
import qbawa_assets.definitions
from qbawa.storage.journal import JournalWriter
from qbawa.storage.frames import frame
from qbawa.storage.lake import Lake
from resources import ProjectResource
from sensors.sensors import new_recordings

home, found, cursor = Path(os.environ["QBAWA_HOME"]), {}, sys.argv[1] or None
with DagsterInstance.get() as instance:
    # A process that starts loads the code, connects and opens the project.
    instance.get_runs(limit=1)
    Lake(ProjectResource().open().lake.uri).read("calls")
    def tick(name):
        global cursor
        resources = {"project": ProjectResource()}
        with build_sensor_context(instance=instance, resources=resources, cursor=cursor) as context:
            began = time.perf_counter()
            asked = new_recordings(context)
            found[name] = time.perf_counter() - began
            cursor = context.cursor
        return asked
    if cursor is None:
        assert isinstance(tick("without cursor"), SkipReason)
        print(json.dumps([found, cursor]))
        sys.exit()
    assert isinstance(tick("after a restart"), SkipReason)
    assert isinstance(tick("warm"), SkipReason)
    with JournalWriter(home / "journal") as writer:
        writer.append(b'{"v":1,"kind":"request","request_id":"new","tags":{}}')
    assert not isinstance(tick("new segment"), SkipReason)
    Lake(home / "lake").replace("recordings", ["b_x"], frame("recordings", [{"recording_id": "b_x", "block_id": "b_x"}]))
    assert not isinstance(tick("lake changed"), SkipReason)
print(json.dumps([found, cursor]))
"""


def in_a_process(cursor: str) -> tuple[dict[str, float], str]:
    """Seconds by tick in a process of its own that is given this cursor, and the cursor that it left."""
    done = subprocess.run([sys.executable, "-c", TICKS, cursor], capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        raise RuntimeError(done.stderr)
    found, left = json.loads(done.stdout.splitlines()[-1])
    return found, left


def ticks(report: Report, quick: bool, deadline: float) -> None:
    sizes = (2_000, 10_000) if quick else (100_000,)
    slowest = {}
    for batches in sizes:
        with home_with_instance("{}") as (home, instance):
            began = time.monotonic()
            names = write_history(home, batches)
            for start in range(0, batches, 10_000):
                instance.add_dynamic_partitions("recording_batch", names[start : start + 10_000])
            report.say(f"{batches:,} batches written in {time.monotonic() - began:.0f} s")
            first, cursor = in_a_process("")
            found, _ = in_a_process(cursor)
            report.say(f"{batches:,} batches, no cursor: {first['without cursor']:.3f} s")
            report.found["tick_s_without_cursor"] = round(first["without cursor"], 3)
            report.say(f"{batches:,} batches: " + ", ".join(f"{name} {s:.3f} s" for name, s in found.items()))
            slowest[batches] = max(found.values())
    worst = slowest[sizes[-1]]
    if quick:
        small, large = sizes
        slope = max(0.0, (slowest[large] - slowest[small]) / (large - small))
        worst = slowest[large] + slope * (100_000 - large)
        report.say(f"Extrapolated in a straight line to 100,000 batches: {worst:.3f} s")
    report.found["tick_s_100k_batches"] = round(worst, 3)


# ── appends ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def appends(report: Report, quick: bool, deadline: float) -> None:
    count = 200 if quick else 2_000
    with tempfile.TemporaryDirectory(prefix="qbawa-endurance-") as folder:
        lake, live = Lake(Path(folder) / "lake"), 0
        early = (0, 0)
        for number in range(count):
            row = {"block_id": f"seg_{number}", "call_key": f"k{number}", "response_text": "an answer " * 10}
            lake.replace("calls", [f"seg_{number}"], frame("calls", [row]))
            if number == count // 10:
                early = (open_files(), memory_mb())
            if number % 20 == 0:
                live = max(live, len(lake.files("calls")))
        assert lake.read("calls").height == count
        table = Path(folder) / "lake" / "calls"
        before = sum(path.is_file() for path in table.rglob("*"))
        # A day later: what replaced files have left behind may go.
        for path in table.rglob("*"):
            os.utime(path, (time.time() - 2 * DAY_S,) * 2)
        lake.maintain(keep=timedelta(0))
        on_disk = sum(path.is_file() for path in table.rglob("*"))
        report.say(
            f"{count:,} appends: at most {live} live files; {before:,} files on disk, {on_disk} after a day and maintenance; "
            f"memory at its peak +{memory_mb() - early[1]} MB since the first tenth"
        )
        report.found["files_after_2000_appends"] = max(live, on_disk)
        grown(report, open_files() - early[0])


# ── nights ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def nights(report: Report, quick: bool, deadline: float) -> None:
    """Two halves of equal nights after one that fills the replay set; every one records, sweeps, judges and maintains."""
    count = 6 if quick else 60
    with home_with_instance(CONFIG % (count // 2)) as (home, instance):
        from qbawa_assets.definitions import definitions

        def run(job: str) -> None:
            done = definitions.resolve_job_def(job).execute_in_process(
                instance=instance, run_config=QUIET, raise_on_error=False
            )
            if not done.success:
                raise RuntimeError(f"{job} failed: {[e.message for e in done.all_events if e.is_failure]}")

        seconds: list[float] = []
        size_mb: list[float] = []
        handles: list[int] = []
        for night in range(count + 1):
            if time.monotonic() + 2 * max(seconds, default=0.0) > deadline and night % 2 and night > 4:
                report.say(f"Time is up after {night - 1} nights of {count}; the halves are of those.")
                break
            record_demo(home.journal, 2 if night else 6)
            began = time.monotonic()
            run("flywheel")
            run("maintain_lake")
            seconds.append(time.monotonic() - began)
            let_a_day_pass(home, instance)
            size_mb.append(sql(instance, "SELECT pg_database_size(current_database())")[0][0] / 1e6)
            handles.append(open_files())
            if night % 5 == 0:
                report.say(
                    f"night {night}: {seconds[-1]:.1f} s, PostgreSQL {size_mb[-1]:.1f} MB, {handles[-1]} handles"
                )
        first, half = seconds[1:], len(seconds[1:]) // 2
        rows = open_project(home).lake.read("recordings", ["request_id"]).height
    report.say(f"{2 * half} nights, {rows} recordings, {sum(first):.0f} s")
    runs = 2 * half
    report.found["nights"] = 2 * half
    report.found["pg_mb_per_1000_runs"] = round(max(0.0, (size_mb[-1] - size_mb[half]) / runs * 1000), 1)
    report.found["second_half_slower"] = round(sum(first[half : 2 * half]) / sum(first[:half]), 2)
    grown(report, handles[-1] - handles[len(handles) // 3])


def let_a_day_pass(home: Home, instance: DagsterInstance) -> None:
    """All runs, journals and logs are a day older."""
    sql(instance, f"UPDATE runs SET start_time = start_time - {DAY_S}, end_time = end_time - {DAY_S}")
    for path in home.dagster.iterdir():
        if path.is_dir():
            os.utime(path, (path.stat().st_mtime - DAY_S,) * 2)


def sql(instance: DagsterInstance, text: str) -> list[Any]:
    import sqlalchemy

    with instance.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
        found = connection.execute(sqlalchemy.text(text))
        return list(found) if found.returns_rows else []


def open_files() -> int:
    folder = Path("/proc/self/fd") if Path("/proc/self/fd").exists() else Path("/dev/fd")
    return len(list(folder.iterdir()))


def memory_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)


def grown(report: Report, handles: int) -> None:
    report.found["open_files_growth"] = max(report.found.get("open_files_growth", 0), handles, 0)


PHASES = {"tick": ticks, "appends": appends, "nights": nights}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print nothing but the last line")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything; the tick is extrapolated")
    parser.add_argument("--only", help=f"comma-separated phases: {', '.join(PHASES)}")
    parser.add_argument("--minutes", type=float, default=14, help="nights that do not fit are left out")
    options = parser.parse_args()
    began, report = time.monotonic(), Report(options.json)
    for name in options.only.split(",") if options.only else PHASES:
        PHASES[name](report, options.quick, began + options.minutes * 60)
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps(report.found | {"quick": options.quick, "extrapolated": options.quick, "seconds": seconds}))


if __name__ == "__main__":
    main()
