"""Does a command cost what it asks for, or all that was ever recorded? A home with a million requests, laid into the lake.

The home: a million recordings of one step, each of about a kilobyte; 200,000 cells and calls, as many matches, twice as
many verdicts; a million pairs; three exported versions that hold them. Each command runs in a process of its own, whose
highest memory is measured. The last line is a JSON object:

    trace_peak_mb    memory of `qbawa trace` at its peak, the most of: a request, a pair, a match, a cell, a call, an id that
                     nothing has
    forget_peak_mb   memory of forgetting a request with its cells, calls, matches, verdicts and pairs, and of another one that
                     was only recorded; PostgreSQL and the rebuilding of its step's ratings and pairs are left out
    pairs_idle_s     seconds of `build_qbawa` where nothing is new, the most of: a step of 1,000 strategies and 100 requests that
                     has no match yet, built for the first time; again; and after a night of other traffic; each beside a
                     step with 2,000 matches that was built before
    new_versions     dataset versions that three nights have brought, each with other requests, calls and reliability, but
                     without another pair
    one_new_pair     versions that one more request with one pair has brought
    ingest_slowdown  CPU seconds of taking in the last tenth of 3,000,000 recordings over those of the first, in runs of
                     50,000; `_growing_ingest.py` says how
    ingest_cpu_us_first, ingest_cpu_us_last  microseconds of CPU a row there
    choose_incremental_cpu_s
                     CPU seconds, start of the process and all it starts included, of choosing the replay sets of three steps
                     when a thousand requests have come to a million; the middle one of three times
    choose_first_cpu_s
                     the same the first time, when every question is signed
    choose_peak_mb   memory at its peak, the most of all four

    python benchmarks/growth.py [--json] [--quick] [--only trace,forget,pairs,versions,choose,ingest]

--quick takes a tenth of the requests; memory is then given as it was measured, not extrapolated.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import polars as pl
from _choosing import choosing
from _growing_ingest import ingest_growth

from qbawa.datasets.stage import build_qbawa, export_datasets
from qbawa.project import Home, Project, open_project
from qbawa.storage.frames import frame
from qbawa.storage.lake import Lake

STEP = "answer"
BEGAN = datetime(2026, 11, 1, tzinfo=UTC)
BLOCK = 50_000
STRATEGIES = 20
PAIRS_A_REQUEST = 100
VERSIONS = 3
WORDS = (
    "tides", "glaciers", "copper", "violins", "sourdough", "semaphores",
    "Lisbon", "octopuses", "moons", "printing", "granite", "yeast",
    "moves", "carves", "covers", "carries", "raises", "guards",
    "crosses", "knows", "circles", "spreads", "breaks", "feeds",
)  # fmt: skip


class Report:
    def __init__(self, quiet: bool) -> None:
        self.quiet, self.found = quiet, dict[str, Any]()

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)


# ── the home ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def sentences(numbers: np.ndarray, kind: str, length: int) -> pl.Series:
    """A text for each number, of so many characters, in which it is named."""
    draw = np.random.default_rng(7)
    words = pl.Series(WORDS)
    pool = pl.Series([" ".join(words[draw.integers(0, len(words), length // 8)]) for _ in range(997)])
    out = pl.DataFrame({"n": numbers, "text": pool[(numbers * 31 % 997).astype(np.int64)]})
    return out.select(pl.format(kind + " number {}: {} in the year {}", "n", "text", pl.col("n") * 7)).to_series()


def write(lake: Lake, table: str, rows: pl.DataFrame, block: str) -> None:
    lake.replace(table, [block], rows.with_columns(block_id=pl.lit(block)))


def named(kind: str, numbers: np.ndarray) -> pl.Series:
    return pl.DataFrame({"n": numbers}).select(pl.format(kind + "_{}", "n")).to_series()


def lay_home(root: Path, requests: int) -> Home:
    """A home that has recorded so many requests and replayed a hundredth of them."""
    home = Home(root)
    home.root.mkdir(parents=True, exist_ok=True)
    home.config.write_text("{}")
    lake = Lake(home.lake)
    for start in range(0, requests, BLOCK):
        n = np.arange(start, min(requests, start + BLOCK))
        said = sentences(n, "Please explain it, question", 500)
        rows = pl.DataFrame(
            {
                "request_id": named("r", n),
                "recording_id": named("rec", n),
                "inputs": '{"question": "' + said + '"}',
                "messages": '[{"role": "user", "content": "' + said + '"}]',
                "output": sentences(n, "The answer", 300),
            }
        ).with_columns(
            pipeline=pl.lit("app"),
            step=pl.lit(STEP),
            tags=pl.lit('{"plan":"free"}'),
            source=pl.lit("segment.jsonl (journal)"),
            recorded_at=pl.lit(BEGAN),
        )
        write(lake, "recordings", rows, f"b_{start}")
        write(
            lake,
            "feedback",
            rows.head(2_000).select("request_id", comment="output", given_at="recorded_at"),
            f"b_{start}",
        )
    lay_matrix(lake, requests // 100)
    lay_pairs(lake, requests // 100)
    return home


def lay_matrix(lake: Lake, replayed: int) -> None:
    """Cells, calls, matches and verdicts of the first requests, in blocks by request, written many at a time."""
    names = [f"s_{k}" for k in range(STRATEGIES)]
    rows = [{"strategy_id": name, "name": name, "step": STEP, "active": True, "block_id": STEP} for name in names]
    lake.replace("strategies", [STEP], frame("strategies", rows))
    for start in range(0, replayed, 1_000):
        request = np.repeat(np.arange(start, min(replayed, start + 1_000)), STRATEGIES)
        strategy = np.tile(np.arange(STRATEGIES), len(request) // STRATEGIES)
        n = request * STRATEGIES + strategy
        # Who comes first is better; the last one meets the first.
        share = np.where(strategy < STRATEGIES - 1, 1.0, 0.0)
        cells = pl.DataFrame(
            {
                "cell_id": named("cell", n),
                "request_id": named("r", request),
                "strategy_id": named("s", strategy),
                "answer": sentences(n, "An answer", 300),
                "call": named("call", n),
                "other": named("cell", request * STRATEGIES + (strategy + 1) % STRATEGIES),
                "against": named("s", (strategy + 1) % STRATEGIES),
                "match_id": named("match", n),
            }
        ).with_columns(step=pl.lit(STEP), at=pl.lit(BEGAN), block_id="request_id", share=pl.Series(share))
        cells = cells.with_columns(wins=pl.when(pl.col("share") > 0.5).then(pl.lit("a")).otherwise(pl.lit("b")))
        own = pl.col("request_id"), pl.col("step"), pl.col("block_id")
        put = {
            "replay_matrix": cells.select(
                *own, "cell_id", "strategy_id", "answer", sample=pl.lit(0), status=pl.lit("ok"), call_keys=pl.concat_list("call")
            ),
            "matches": cells.select(
                *own, "match_id", strategy_a="strategy_id", strategy_b="against", cell_a="cell_id", cell_b="other",
                winner=pl.col("wins"), p_a=pl.col("share"), verdicts=pl.lit(2), origin=pl.lit("tournament"),
            ),
            "verdicts": pl.concat(
                cells.select(
                    *own, "match_id", verdict_id=pl.format("v_{}_{}", "match_id", pl.lit(side)), judge=pl.lit("judy"),
                    judge_kind=pl.lit("llm"), shown_first=pl.lit(side), verdict="wins", preference="share",
                    rationale="answer", raw=pl.lit("a"), call_key="call",
                )
                for side in "ab"
            ),
        }  # fmt: skip
        for table, rows_ in put.items():
            lake.replace(table, rows_["block_id"].unique().to_list(), rows_)
        calls = cells.select(
            "request_id", "step", "strategy_id", call_key="call", purpose=pl.lit("replay"), response_text="answer",
            messages="answer", called_at="at",
        )  # fmt: skip
        write(lake, "calls", calls, f"seg_{start}")


def lay_pairs(lake: Lake, replayed: int) -> None:
    """As many pairs as requests, and versions that hold them all, or nearly."""
    count = replayed * PAIRS_A_REQUEST
    parts = []
    for start in range(0, count, BLOCK):
        n = np.arange(start, min(count, start + BLOCK))
        request = n // PAIRS_A_REQUEST
        best = n % STRATEGIES
        rows = pl.DataFrame(
            {
                "pair_id": pl.Series([f"{int(k) * 2654435761:024x}" for k in n]),
                "request_id": named("r", request),
                "question": sentences(request, "Please explain it, question", 500),
                "best_answer": sentences(n, "An answer", 300),
                "worse_answer": sentences(n + 1, "Another answer", 300),
                "best_cell": named("cell", request * STRATEGIES + best),
                "worse_cell": named("cell", request * STRATEGIES + (best + 1) % STRATEGIES),
                "best_strategy": named("s", best),
                "worse_strategy": named("s", (best + 1) % STRATEGIES),
                "match": named("match", request * STRATEGIES + best),
            }
        ).with_columns(
            step=pl.lit(STEP), p_best=pl.lit(0.95), basis=pl.lit("direct"), split=pl.lit("train"),
            match_ids=pl.concat_list("match"), judges=pl.concat_list(pl.lit("judy")),
        )  # fmt: skip
        # A block of its own for each part, so that laying them does not write a million rows again and again.
        write(lake, "qbawa", rows.drop("match"), f"{STEP}_{start}")
        parts.append(rows.select("pair_id", "request_id"))
    held = pl.concat(parts)
    for k in range(VERSIONS):
        some = held.head(held.height - k)
        row = {
            "dataset": "d", "version": f"{k:012x}", "format": "trl_preference", "path": f"exports/d/{k:012x}",
            "rows": some.height, "pair_ids": some["pair_id"].to_list(),
            "request_ids": some["request_id"].unique().to_list(), "created_at": BEGAN + timedelta(days=k),
            "block_id": f"d/{k:012x}",
        }  # fmt: skip
        lake.replace("datasets", [str(row["block_id"])], frame("datasets", [row]))


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────

PEAK = """
import resource, sys
from pathlib import Path

def peak_mb():
    # Not ru_maxrss where there is another way: on Linux a process begins with its parent's.
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) >> 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)
"""
TRACE = """
from qbawa.cli.trace import command
try:
    command([sys.argv[1]], standalone_mode=False)
except Exception as error:
    assert "Nothing in the lake" in str(error), error
"""
FORGET = """
from pathlib import Path
from qbawa.erasure import forget
from qbawa.project import Home, open_project
project = open_project(Home(Path(sys.argv[2])))
print(forget(project.lake, project.home, sys.argv[1]).rows, file=sys.stderr)
"""


def in_a_process(script: str, home: Home, *arguments: str) -> tuple[int, float]:
    """Peak memory in MB, and seconds, of a script in a process of its own."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PEAK + script + "\nprint(peak_mb())", *arguments],
        capture_output=True,
        text=True,
        env=dict(os.environ) | {"QBAWA_HOME": str(home.root)},
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(done.stdout.split()[-1]), time.monotonic() - began


def trace(report: Report, home: Home, requests: int) -> None:
    asked = {
        "request": "r_5", "recorded only": f"r_{requests - 3}", "pair": f"{505 * 2654435761:024x}", "match": "match_101",
        "cell": "cell_101", "call": "call_101", "verdict": "v_match_101_a", "an unknown id": "no-such-id",
    }  # fmt: skip
    peaks = {}
    for kind, id in asked.items():
        peaks[kind], seconds = in_a_process(TRACE, home, id)
        report.say(f"trace of {kind}: {peaks[kind]:,} MB, {seconds:.1f} s")
    report.found["trace_peak_mb"] = max(peaks.values())
    # A million pairs are what is asked for here.
    peak, seconds = in_a_process(TRACE, home, f"{VERSIONS - 1:012x}")
    report.say(f"trace of a version with all its pairs (not in trace_peak_mb): {peak:,} MB, {seconds:.1f} s")


def forget(report: Report, home: Home, requests: int) -> None:
    """Changes the home: the last that is done with it."""
    peaks = []
    for id in (f"r_{requests - 7}", "r_7"):
        peak, seconds = in_a_process(FORGET, home, id, str(home.root))
        report.say(f"forgetting {id}: {peak:,} MB, {seconds:.1f} s")
        peaks.append(peak)
    report.found["forget_peak_mb"] = max(peaks)


# ── pairs and versions ───────────────────────────────────────────────────────────────────────────────────────────────

CONFIG = "datasets: {d: {p_best: 0.6, max_per_request: 20}}\n"
ONE = '[{"role": "user", "content": "Which of both rivers crosses Lisbon on its way to the sea?"}]'


def lay_judged(project: Project) -> None:
    """A step of 20 strategies and 100 requests whose matches are played, with what its requests asked."""
    lay_matrix(project.lake, 100)
    n = np.arange(100)
    asked = pl.DataFrame({"request_id": named("r", n), "said": sentences(n, "Please explain it, question", 500)})
    asked = asked.select(
        "request_id", recording_id="request_id", step=pl.lit(STEP), recorded_at=pl.lit(BEGAN),
        messages='[{"role": "user", "content": "' + pl.col("said") + '"}]',
    )  # fmt: skip
    write(project.lake, "recordings", asked, "b_judged")


def let_a_night_pass(lake: Lake, night: int) -> None:
    """Other requests are recorded, other calls paid, and the judge's reliability is measured again."""
    n = np.arange(1_000) + 1_000 * night
    said = sentences(n, "Please tell me, night", 300)
    rows = pl.DataFrame({"request_id": named("night", n), "recording_id": named("night", n), "output": said})
    rows = rows.with_columns(step=pl.lit(STEP), source=pl.lit("x.jsonl (journal)"), recorded_at=pl.lit(BEGAN))
    write(lake, "recordings", rows, f"night_{night}")
    calls = pl.DataFrame({"call_key": named("night", n), "response_text": said})
    write(lake, "calls", calls.with_columns(step=pl.lit(STEP), cost_usd=pl.lit(0.01)), f"night_{night}")
    judged = {"step": STEP, "judge": "judy", "verdicts": 100 + night, "accuracy": 0.8 + night / 100, "block_id": STEP}
    lake.replace("judge_reliability", [STEP], frame("judge_reliability", [judged]))


def pairs(report: Report, project: Project) -> None:
    lay_judged(project)
    build_qbawa(project)
    n = np.arange(1_000 * 100)
    cells = pl.DataFrame({"request_id": named("q", n // 1_000), "strategy_id": named("new", n % 1_000)}).with_columns(
        step=pl.lit("new"), cell_id=named("new_cell", n), answer=sentences(n, "An answer", 300), sample=pl.lit(0),
        status=pl.lit("ok"), block_id="request_id",
    )  # fmt: skip
    project.lake.replace("replay_matrix", cells["block_id"].unique().to_list(), cells)
    seconds = {}
    for what in ("the first time", "again", "after a night of other traffic"):
        if "night" in what:
            let_a_night_pass(project.lake, 99)
        began = time.monotonic()
        build_qbawa(project)
        seconds[what] = time.monotonic() - began
        report.say(f"pairs where nothing is new, {what}: {seconds[what]:.2f} s")
    report.found["pairs_idle_s"] = round(max(seconds.values()), 2)


def versions(report: Report, project: Project) -> None:
    if not project.lake.blocks("qbawa"):
        lay_judged(project)
        build_qbawa(project)

    def count() -> int:
        done = export_datasets(project)
        if done.refused:
            raise RuntimeError(str(done.refused))
        return project.lake.read("datasets", ["version"]).height

    first = now = count()
    for night in range(3):
        let_a_night_pass(project.lake, night)
        build_qbawa(project)
        now = count()
    report.found["new_versions"] = now - first
    known = project.lake.read("qbawa")
    cells = project.lake.read("replay_matrix", keep=pl.col("cell_id").is_in(["cell_0", "cell_1"]))
    cells = cells.with_columns(
        request_id=pl.lit("one"), block_id=pl.lit("one"), cell_id="one_" + pl.col("cell_id"),
        answer="one " + pl.col("answer"),
    )  # fmt: skip
    project.lake.replace("replay_matrix", ["one"], cells)
    match = project.lake.read("matches", keep=pl.col("match_id") == "match_0").with_columns(
        request_id=pl.lit("one"), block_id=pl.lit("one"), match_id=pl.lit("one"), cell_a=pl.lit("one_cell_0"),
        cell_b=pl.lit("one_cell_1"),
    )  # fmt: skip
    project.lake.replace("matches", ["one"], match)
    asked = {"request_id": "one", "recording_id": "one", "step": STEP, "messages": ONE, "block_id": "one"}
    project.lake.replace("recordings", ["one"], frame("recordings", [asked]))
    new = build_qbawa(project).pairs.join(known, on="pair_id", how="anti").height
    report.found["one_new_pair"] = count() - now
    report.say(
        f"3 nights: {report.found['new_versions']} versions; then {new} new pair(s): {report.found['one_new_pair']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print nothing but the last line")
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests")
    parser.add_argument("--only", help="comma-separated: pairs, versions, trace, forget, choose, ingest")
    options = parser.parse_args()
    began, report = time.monotonic(), Report(options.json)
    asked = options.only.split(",") if options.only else ["pairs", "versions", "trace", "forget", "choose", "ingest"]
    requests = 100_000 if options.quick else 1_000_000
    folder = Path(tempfile.mkdtemp(prefix="qbawa-growth-"))
    try:
        if {"pairs", "versions"} & set(asked):
            small = Home(folder / "small")
            small.root.mkdir()
            small.config.write_text(CONFIG)
            project = open_project(small)
            for name, phase in (("pairs", pairs), ("versions", versions)):
                if name in asked:
                    phase(report, project)
        if {"trace", "forget"} & set(asked):
            home = lay_home(folder / "home", requests)
            report.say(f"{requests:,} requests laid into the lake")
            for name, measure in (("trace", trace), ("forget", forget)):
                if name in asked:
                    measure(report, home, requests)
            shutil.rmtree(home.root, ignore_errors=True)
        if "choose" in asked:
            report.found |= choosing(report.say, PEAK, folder / "choosing", requests)
        if "ingest" in asked:
            report.found |= ingest_growth(folder / "ingest", 3 * requests, report.say)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report.found | {"quick": options.quick, "seconds": round(time.monotonic() - began, 1)}))


if __name__ == "__main__":
    main()
