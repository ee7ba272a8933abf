"""`qbawa forget` leaves no byte of a request in the home, nor in Dagster's PostgreSQL, however often it is killed.

QBAWA_KILLS says how often (1).
"""

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
from unittest import mock

import polars as pl
import psutil
import psycopg2
import pytest
from click.testing import CliRunner
from dagster import AssetKey, DagsterInstance, build_sensor_context
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickData, TickStatus
from dagster_home import DagsterHome, configure, dagster_on, prompts
from scripted_provider import ScriptedProvider
from searching import in_database, in_files

import qbawa
from qbawa.cli.forget import command as forget_command
from qbawa.cli.launch.dagster import dagster_environment
from qbawa.datasets.stage import export_datasets
from qbawa.ingest.stage import new_batches
from qbawa.project import Home, open_project
from qbawa.replay.stage import wanted_cells
from qbawa.storage.occupancy import UNFINISHED
from qbawa.storage.tables import TABLES
from qbawa.tournaments.stage import open_tasks, verdict_file
from qbawa_assets.partition_keys import partition_key
from qbawa_assets.partitions import requests
from resources import ProjectResource
from sensors.sensors import new_recordings

pytestmark = pytest.mark.hostile

GONE = "visit-ZQrequest7f3_ü|1"
SHORT = "7"
"""A name that stands in others' names, and all over what was logged."""
STAYS = ["visit-0", "visit/7"]
TOPICS = {"visit-0": "the tides", "visit/7": "old maps"}
PARTS = ("input", "message", "output", "tag", "user", "feedback", "error", "refusal", "answer", "rationale", "note")
WORDS = {
    GONE: {part: f"ZQ{part}7f3" for part in PARTS} | {"request": "ZQrequest7f3"},
    SHORT: {part: f"ZW{part}9e4" for part in PARTS},
}
KILLS = int(os.environ.get("QBAWA_KILLS", "1"))


@dataclass(frozen=True)
class UsedHome:
    """A home in which the flywheel has turned, with nobody in it; where words of GONE stand, and what its tables say."""

    home: Home
    files: dict[str, set[str]]
    columns: dict[str, set[str]]
    rows: dict[str, pl.DataFrame]


@pytest.fixture(scope="module")
def used(server: ScriptedProvider) -> Iterator[UsedHome]:
    home = Home(Path(tempfile.mkdtemp(prefix="qb-", dir="/tmp")) / "h")
    server.say = words_of
    server.fails = refused
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
        turn_flywheel(world)
        columns = in_database(world.environment["QBAWA_POSTGRES_URL"], list(WORDS[GONE].values()))
    yield UsedHome(home, in_files(home.root, list(WORDS[GONE].values())), columns, rows(home))
    shutil.rmtree(home.root.parent, ignore_errors=True)


def mine(prompt: str) -> dict[str, str]:
    """The words of the request that a prompt is about; none where it stays."""
    return next((words for words in WORDS.values() if words["input"] in prompt), {})


def refused(prompt: str) -> tuple[int, str] | None:
    words = mine(prompt)
    if words and "In way 2" in prompt and "JUDGE" not in prompt:
        return 400, f'{{"error": {{"message": "{words["refusal"]} is not allowed here at all"}}}}'
    return None


def words_of(prompt: str) -> str:
    """Answers and verdicts that quote what they were asked."""
    words, draw = mine(prompt), random.Random(prompt)
    if "JUDGE" in prompt:
        said = f"It reads better, {words['rationale']} decides." if words else "It reads better."
        return f'{{"rationale": "{said}", "verdict": "{draw.choice("12")}"}}'
    return f"Answer {draw.randrange(10**9)}" + (f" about {words['answer']}, which explains it." if words else ".")


def record(home: Home) -> None:
    def explain(topic: str) -> str:
        words = mine(topic)
        answer = f"All about {topic}" + (f" and {words['output']}." if words else ".")
        asked = f"Explain {topic}." + (f" Mind {words['message']}, please." if words else "")
        qbawa.llm_call(model="house/model", messages=[{"role": "user", "content": asked}], output=answer, cost_usd=0.0)
        return answer

    def look_up(word: str) -> str:
        raise ValueError(f"Nobody knows {word}, sorry for that.")

    qbawa.configure(home.journal, pipeline="sample")
    explained, looked_up = qbawa.step(name="explain")(explain), qbawa.step(name="look_up")(look_up)
    for request, topic in TOPICS.items():
        with qbawa.request(request_id=request, tags={"kind": "usual"}):
            explained(topic)
    for request, words in WORDS.items():
        with qbawa.request(request_id=request, tags={"kind": words["tag"]}, user=words["user"]):
            explained(f"sourdough, {words['input']}, in every detail")
            with pytest.raises(ValueError):
                looked_up(words["error"])
        qbawa.feedback(request, score=0, comment=f"Too long, {words['feedback']}.")
    assert qbawa.flush()
    qbawa.configure(None)


def turn_flywheel(world: DagsterHome) -> None:
    """Whatever leaves traces: jobs, runs of single partitions and of a row, a person's verdicts, a tick, PostgreSQL's log."""
    assert not world.run("flywheel").success  # cells were refused
    world.materialize("tournament_brackets", partition_key(GONE))
    row = world.row(partition_key(GONE))
    world.materialize("replay_matrix", row[0], row[-1])
    project = world.project
    file = verdict_file(project, "explain", "anna")
    judged = {task.question.request_id: task for task in open_tasks(project, "explain", "anna")}
    for request in (*WORDS, *STAYS):
        file.append(judged[request], "1")
    first = judged[GONE]
    more = pl.DataFrame({"request": [*WORDS, STAYS[1]], "strategy_a": [first.strategy_a] * 3,
        "strategy_b": [first.strategy_b] * 3, "judge": ["bob"] * 3, "verdict": ["a", "a", "b"],
        "rationale": [*(f"{words['note']} says it all" for words in WORDS.values()), "clear"]})  # fmt: skip
    more.write_parquet(file.path.with_name("explain.bob.parquet"))
    more.with_columns(judge=pl.lit("eve")).write_ndjson(file.path.with_name("explain.eve.jsonl"))
    assert world.materialize("human_verdicts").success
    for request in WORDS:
        world.instance.create_tick(
            TickData(
                instigator_origin_id="o", instigator_name="new_recordings", instigator_type=InstigatorType.SENSOR,
                status=TickStatus.SKIPPED, timestamp=time.time(), selector_id="s", skip_reason=f"{request} is done.",
            )
        )  # fmt: skip
    world.statuses()  # Dagster keeps what it has found
    url = world.environment["QBAWA_POSTGRES_URL"].replace("postgresql+psycopg2", "postgresql")
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for request in WORDS:
                with pytest.raises(psycopg2.Error):
                    cursor.execute("SELECT 1 / 0, %s", (request,))
            cursor.execute("ANALYZE")
            cursor.execute("CHECKPOINT")


def command(home: Home, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "qbawa", *arguments], env=os.environ | {"QBAWA_HOME": str(home.root)}, cwd=home.root,
        start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def forget(home: Home, *arguments: str) -> str:
    process = command(home, "forget", *arguments)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    return said


def rows(home: Home) -> dict[str, pl.DataFrame]:
    lake = open_project(home).lake
    return {name: lake.read(name) for name in TABLES}


def database(home: Home, request: str) -> dict[str, set[str]]:
    with dagster_environment(home) as environment:
        return in_database(environment["QBAWA_POSTGRES_URL"], list(WORDS[request].values()))


@pytest.fixture(scope="module")
def forgotten(used: UsedHome) -> str:
    """What the command said that forgot SHORT in the used home, undisturbed, while nothing ran."""
    (used.home.root / "notes.txt").write_text(f"{WORDS[SHORT]['note']} says it all\n")
    return forget(used.home, SHORT, "--yes")


@pytest.fixture(scope="module")
def killed(used: UsedHome, forgotten: str) -> list[float]:
    """GONE is forgotten too, by a command that was killed at these moments and called again."""
    (used.home.root / "notes.txt").unlink()
    moments = []
    for _ in range(KILLS):
        process = command(used.home, "forget", GONE, "--yes")
        until = time.monotonic() + 120
        while not (used.home.root / UNFINISHED).exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        # The lake takes a second, Dagster some more: moments in both.
        moments.append(random.uniform(0, random.choice((1.5, 8))))
        time.sleep(moments[-1])
        if random.random() < 0.5:
            kill_session(process)
        else:
            process.kill()  # what it has started goes on
            process.wait()
    assert (used.home.root / UNFINISHED).exists() or KILLS == 0, "It ended before it was killed."
    forget(used.home, *(["--resume"] if KILLS else [GONE, "--yes"]))
    return moments


def test_before_it_the_words_stand_everywhere(used: UsedHome) -> None:
    assert set(used.files) == set(WORDS[GONE].values())
    places = {path for paths in used.files.values() for path in paths}
    assert any(path.startswith("lake/") and "/_delta_log/" in path for path in places)
    for part in ("lake/recordings/", "lake/calls/", "lake/qbawa/", "journal/", "calls/loaded/", "exports/all/",
                 "human_verdicts/explain.anna.csv", "human_verdicts/explain.bob.parquet", "human_verdicts/explain.eve.jsonl",
                 "postgres/data/base/", "postgres/data/pg_wal/", "postgres/server.log", "dagster/"):  # fmt: skip
        assert any(path.startswith(part) for path in places), part
    columns = used.columns[WORDS[GONE]["request"]]
    for column in ("event_logs.event", "event_logs.partition", "asset_event_tags.value", "dynamic_partitions.partition",
                   "run_tags.value", "runs.run_body", "job_ticks.tick_body", "asset_keys.cached_status_data",
                   "pg_stats of event_logs.partition"):  # fmt: skip
        assert column in columns, column


def test_afterwards_no_file_of_the_home_holds_a_word_of_it(used: UsedHome, forgotten: str) -> None:
    notes = used.home.root / "notes.txt"
    assert f"Still mentions it: {notes}:1" in forgotten
    assert in_files(used.home.root, list(WORDS[SHORT].values())) == {WORDS[SHORT]["note"]: {"notes.txt"}}


def test_afterwards_no_column_of_the_database_holds_a_word_of_it(used: UsedHome, forgotten: str) -> None:
    assert database(used.home, SHORT) == {}


def test_killed_at_random_moments_and_called_again_it_leaves_no_byte_either(
    used: UsedHome, killed: list[float]
) -> None:
    assert in_files(used.home.root, list(WORDS[GONE].values())) == {}, killed
    assert database(used.home, GONE) == {}, killed


def test_what_others_said_is_still_there(used: UsedHome, killed: list[float]) -> None:
    after = rows(used.home)
    stays = pl.col("request_id").is_in(STAYS)
    for table in ("recordings", "feedback", "replay_set", "replay_matrix", "matches", "verdicts", "calls"):
        kept = used.rows[table].filter(stays)
        assert sorted(map(str, after[table].rows())) == sorted(map(str, kept.rows())), (table, killed)
    assert set(after["qbawa"]["request_id"]) == set(STAYS)
    with (used.home.root / "human_verdicts" / "explain.anna.csv").open() as file:
        assert [line.split(",")[0] for line in file] == ["request", *STAYS]


def test_dagster_knows_the_others_as_before_and_nothing_is_done_twice(used: UsedHome, killed: list[float]) -> None:
    project = open_project(used.home)
    lake = project.lake
    with dagster_on(used.home) as world:
        assert set(world.instance.get_dynamic_partitions(str(requests.name))) == set(STAYS)
        cells = {f"{r}|{s}" for r, s in lake.read("replay_matrix", ["request_id", "strategy_id"]).rows()}
        assert world.statuses() == {"materialized": cells, "failed": set(), "in_progress": set()}
        for asset in ("recordings", "replay_set", "ratings", "qbawa", "replay_matrix", "tournament_brackets"):
            assert world.instance.get_latest_materialization_event(AssetKey(asset)) is not None, asset
        for run in world.instance.get_runs():
            world.instance.all_logs(run.run_id)
        assert new_batches(project) == [] and wanted_cells(lake)["state"].unique().to_list() == ["ok"]
        assert export_datasets(project).rows["request_ids"].explode().unique().sort().to_list() == STAYS
        # Whoever mistypes a name changes nothing, and is told so.
        versions = lake.versions()
        with mock.patch.dict(os.environ, QBAWA_HOME=str(used.home.root)):
            again = CliRunner().invoke(forget_command, [GONE, "--yes"])
        assert "Nothing holds the request" in str(again.exception) and lake.versions() == versions


def kill_session(process: subprocess.Popen[str]) -> None:
    for member in psutil.process_iter():
        try:
            if os.getsid(member.pid) == process.pid:
                member.send_signal(signal.SIGKILL)
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            continue
    process.wait()


def test_while_one_is_unfinished_runs_are_refused_and_ticks_skipped_in_one_sentence(tmp_path: Path) -> None:
    home = Home(tmp_path)
    configure(home)
    (home.root / UNFINISHED).write_text("{}")
    refused = command(home, "run", "take_new_recordings")
    said, _ = refused.communicate(timeout=120)
    assert refused.returncode == 2 and "--resume" in said and len(said.splitlines()) == 1
    with DagsterInstance.ephemeral() as instance:
        resources = {"project": ProjectResource(home=str(home.root))}
        with build_sensor_context(instance, resources=resources) as context:
            assert "--resume" in str(new_recordings.evaluate_tick(context).skip_message)
