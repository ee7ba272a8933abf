"""`qbawa forget` leaves no byte of a request in the home, nor in Dagster's PostgreSQL, however often it is killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import psutil
import psycopg2
import pytest
from dagster import AssetKey
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickData, TickStatus
from dagster_home import DagsterHome, configure, dagster_on, prompts
from scripted_provider import ScriptedProvider
from searching import in_database, in_files
from small_lake import TOPICS

import qbawa
from qbawa.cli.launch.dagster import dagster_environment
from qbawa.project import Home, open_project
from qbawa.storage.occupancy import UNFINISHED
from qbawa.storage.tables import TABLES
from qbawa.tournaments.humans import VerdictFile, open_tasks
from qbawa_assets.partitions import requests

GONE = "visit-ZQrequest7f3_ü"
STAYS = [f"visit-{n}" for n in range(3)]
WORDS = {
    "request": "ZQrequest7f3",
    "input": "ZQinput81c",
    "message": "ZQmessage5d2",
    "output": "ZQoutput9e4",
    "tag": "ZQtag33b",
    "user": "ZQuser6a0",
    "feedback": "ZQfeedback2f8",
    "error": "ZQerror7c1",
    "refusal": "ZQrefusal4b9",
    "answer": "ZQanswer0d6",
    "rationale": "ZQrationale8e5",
    "note": "ZQnote1a7",
}


@dataclass(frozen=True)
class Flown:
    """A home in which the flywheel has turned, with nobody in it."""

    home: Home

    def copy(self) -> Home:
        home = Home(Path(tempfile.mkdtemp(prefix="qb-", dir="/tmp")) / "h")
        # Run as root, PostgreSQL's files belong to a user of its own.
        subprocess.run(["cp", "-a", str(self.home.root), str(home.root)], check=True)
        return home


@pytest.fixture(scope="module")
def flown(server: ScriptedProvider) -> Iterator[Flown]:
    home = Home(Path(tempfile.mkdtemp(prefix="qb-", dir="/tmp")) / "h")
    server.say = words_of
    server.fails = lambda prompt: (
        (400, f'{{"error": {{"message": "{WORDS["refusal"]} is not allowed here at all"}}}}')
        if ("In way 2" in prompt and "JUDGE" not in prompt and WORDS["input"] in prompt)
        else None
    )
    configure(
        home,
        server,
        strategies=[prompts(3)],
        judges={"scripted": {"model": "scripted", "rubric": "JUDGE"}},
        tournament={"format": "round_robin", "goal": "order"},
        pairs={"p_best": 0.5},
        datasets={"all": {"p_best": 0.5}},
    )
    record(home)
    with dagster_on(home) as world:
        fly(world)
    yield Flown(home)
    shutil.rmtree(home.root.parent, ignore_errors=True)


def words_of(prompt: str) -> str:
    """Answers and verdicts that quote what they were asked."""
    mine = WORDS["input"] in prompt
    draw = random.Random(prompt)
    if "JUDGE" in prompt:
        said = f"It reads better, {WORDS['rationale']} decides." if mine else "It reads better."
        return f'{{"rationale": "{said}", "verdict": "{draw.choice("12")}"}}'
    return f"Answer {draw.randrange(10**9)}" + (
        f" about {WORDS['answer']}, which explains it." if mine else ", explained."
    )


def record(home: Home) -> None:
    def explain(topic: str) -> str:
        mine = WORDS["input"] in topic
        answer = f"All about {topic}" + (f" and {WORDS['output']}." if mine else ".")
        asked = f"Explain {topic}." + (f" Mind {WORDS['message']}, please." if mine else "")
        qbawa.llm_call(model="house/model", messages=[{"role": "user", "content": asked}], output=answer, cost_usd=0.0)
        return answer

    def look_up(topic: str) -> str:
        raise ValueError(f"Nobody knows {WORDS['error']}, sorry for that.")

    qbawa.configure(home.journal, pipeline="sample")
    explained, looked_up = qbawa.step(name="explain")(explain), qbawa.step(name="look_up")(look_up)
    for request, topic in zip(STAYS, TOPICS, strict=False):
        with qbawa.request(request_id=request, tags={"kind": "usual"}):
            explained(topic)
    with qbawa.request(request_id=GONE, tags={"kind": WORDS["tag"]}, user=WORDS["user"]):
        explained(f"sourdough, {WORDS['input']}, in every detail")
        with pytest.raises(ValueError):
            looked_up("something else")
    qbawa.feedback(GONE, score=0, comment=f"Too long, {WORDS['feedback']}.")
    assert qbawa.flush()
    qbawa.configure(None)


def fly(world: DagsterHome) -> None:
    """Whatever leaves traces: jobs, runs of single partitions and of a row, a person's verdicts, a tick, PostgreSQL's log."""
    assert not world.run("flywheel").success  # a cell was refused
    world.run("replay_sweep", {"ops": {"sweep_matrix": {"config": {"requests": GONE}}}})
    world.materialize("tournament_brackets", GONE)
    row = world.row(GONE)
    world.materialize("replay_matrix", row[0], row[-1])
    project = world.project
    file = VerdictFile(project, "explain", "anna")
    judged = {task.question.request_id: task for task in open_tasks(project, "explain", "anna")}
    for request in (GONE, STAYS[0]):
        file.append(judged[request], "1")
    more = pl.DataFrame({"request": [GONE, STAYS[1]], "strategy_a": [judged[GONE].strategy_a] * 2,
        "strategy_b": [judged[GONE].strategy_b] * 2, "judge": ["bob"] * 2, "verdict": ["a", "b"],
        "rationale": [f"{WORDS['note']} says it all", "clear"]})  # fmt: skip
    more.write_parquet(file.path.with_name("explain.bob.parquet"))
    more.with_columns(judge=pl.lit("eve")).write_ndjson(file.path.with_name("explain.eve.jsonl"))
    assert world.run("judge_anew").success
    world.instance.create_tick(
        TickData(
            instigator_origin_id="o", instigator_name="new_recordings", instigator_type=InstigatorType.SENSOR,
            status=TickStatus.SKIPPED, timestamp=time.time(), selector_id="s", skip_reason=f"{GONE} is done.",
        )
    )  # fmt: skip
    url = world.environment["QBAWA_POSTGRES_URL"].replace("postgresql+psycopg2", "postgresql")
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            with pytest.raises(psycopg2.Error):
                cursor.execute("SELECT 1 / 0, %s", (GONE,))
            cursor.execute("ANALYZE")
            cursor.execute("CHECKPOINT")


def command(home: Home, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "qbawa", *arguments], env=os.environ | {"QBAWA_HOME": str(home.root)}, cwd=home.root,
        start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def forget(home: Home, *arguments: str) -> str:
    process = command(home, "forget", *(arguments or (GONE, "--yes")))
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    return said


def rows(home: Home) -> dict[str, list[str]]:
    """What the tables say, but for when it was built."""
    lake = open_project(home).lake
    tables = {name: lake.read(name).drop("built_at", "created_at", strict=False) for name in TABLES}
    return {name: sorted(map(str, table.rows())) for name, table in tables.items()}


def database(home: Home) -> dict[str, set[str]]:
    with dagster_environment(home) as environment:
        return in_database(environment["QBAWA_POSTGRES_URL"], list(WORDS.values()))


@pytest.fixture(scope="module")
def forgotten(flown: Flown) -> Iterator[tuple[Home, str]]:
    """A home in which the request was forgotten while nothing ran, and what the command said."""
    home = flown.copy()
    (home.root / "notes.txt").write_text(f"Ask them about {GONE}.\n")
    said = forget(home)
    yield home, said
    shutil.rmtree(home.root.parent, ignore_errors=True)


def test_before_it_the_words_stand_everywhere(flown: Flown) -> None:
    files = in_files(flown.home.root, list(WORDS.values()))
    assert set(files) == set(WORDS.values())
    places = {path for paths in files.values() for path in paths}
    for part in ("lake/recordings/", "lake/calls/", "lake/qbawa/_delta_log/", "journal/", "calls/loaded/", "exports/all/",
                 "human_verdicts/explain.anna.csv", "human_verdicts/explain.bob.parquet", "human_verdicts/explain.eve.jsonl",
                 "postgres/data/base/", "postgres/data/pg_wal/", "postgres/data/log", "dagster/"):  # fmt: skip
        assert any(path.startswith(part) for path in places), part
    columns = database(flown.home)[WORDS["request"]]
    for column in ("event_logs.event", "event_logs.partition", "asset_event_tags.value", "dynamic_partitions.partition",
                   "run_tags.value", "runs.run_body", "job_ticks.tick_body", "asset_keys.cached_status_data",
                   "pg_stats of event_logs.partition"):  # fmt: skip
        assert column in columns, column


def test_afterwards_no_file_of_the_home_holds_a_word_of_it(forgotten: tuple[Home, str]) -> None:
    home, said = forgotten
    notes = home.root / "notes.txt"
    assert f"Still mentions it: {notes}:1" in said
    assert in_files(home.root, list(WORDS.values())) == {WORDS["request"]: {"notes.txt"}}


def test_afterwards_no_column_of_the_database_holds_a_word_of_it(forgotten: tuple[Home, str]) -> None:
    assert database(forgotten[0]) == {}


def test_what_others_said_is_still_there(flown: Flown, forgotten: tuple[Home, str]) -> None:
    home, _ = forgotten
    before, after = open_project(flown.home).lake, open_project(home).lake
    for table in ("recordings", "replay_matrix", "matches", "verdicts", "replay_set"):
        kept = before.read(table, keep=pl.col("request_id") != GONE)
        assert sorted(map(str, after.read(table).rows())) == sorted(map(str, kept.rows())), table
    assert set(after.read("qbawa")["request_id"]) == set(STAYS)
    with dagster_on(home) as world:
        assert set(world.instance.get_dynamic_partitions(str(requests.name))) == set(STAYS)
        cells = {f"{r}|{s}" for r, s in after.read("replay_matrix", ["request_id", "strategy_id"]).rows()}
        assert world.statuses() == {"materialized": cells, "failed": set(), "in_progress": set()}
        for asset in ("recordings", "replay_set", "ratings", "qbawa", "replay_matrix", "tournament_brackets"):
            assert world.instance.get_latest_materialization_event(AssetKey(asset)) is not None, asset
        for run in world.instance.get_runs():
            world.instance.all_logs(run.run_id)
        # Nothing is taken in again, nothing is answered again, and the dataset is made anew.
        assert world.run("flywheel").success
        assert set(after.read("recordings")["request_id"]) == set(STAYS)
        assert after.read("datasets").height == 1
    with (home.root / "human_verdicts" / "explain.anna.csv").open() as file:
        assert [line.split(",")[0] for line in file] == ["request", STAYS[0]]


def test_a_second_time_it_says_that_nothing_holds_it(forgotten: tuple[Home, str]) -> None:
    (forgotten[0].root / "notes.txt").unlink(missing_ok=True)
    process = command(forgotten[0], "forget", GONE, "--yes")
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 2 and "Nothing holds the request" in said


def test_killed_at_random_moments_and_called_again_it_ends_the_same(flown: Flown, forgotten: tuple[Home, str]) -> None:
    chance = random.Random(os.urandom(8))
    home = flown.copy()
    moments = []
    try:
        for attempt in range(4):
            process = command(home, "forget", GONE, "--yes")
            until = time.monotonic() + 120
            while not (home.root / UNFINISHED).exists() and process.poll() is None and time.monotonic() < until:
                time.sleep(0.005)
            # The lake takes a second, Dagster some more: moments in both.
            moments.append(chance.uniform(0, 1.5) if attempt % 2 else chance.uniform(0, 12))
            time.sleep(moments[-1])
            kill_session(process)
        said = forget(home)
        assert in_files(home.root, list(WORDS.values())) == {}, (moments, said)
        assert database(home) == {}, moments
        assert rows(home) == rows(forgotten[0]), moments
    finally:
        shutil.rmtree(home.root.parent, ignore_errors=True)


def kill_session(process: subprocess.Popen[str]) -> None:
    for member in psutil.process_iter():
        try:
            if os.getsid(member.pid) == process.pid:
                member.send_signal(signal.SIGKILL)
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            continue
    process.communicate()
