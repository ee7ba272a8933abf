"""Only what is new is looked at when requests are chosen, and the result is that of looking at everything."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from old_homes import old_home

from qbawa.config import Config, ReplaySetConfig
from qbawa.erasure import forget
from qbawa.project import Home, Project, open_project
from qbawa.replay.replay_set import repository, stage
from qbawa.replay.replay_set.stage import choose_all
from qbawa.replay.stage import choose_requests, foresee
from qbawa.storage.frames import frame
from qbawa.storage.lake import Lake

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
WORDS = [f"rain{n}" for n in range(16)]
OTHERS = [f"court{n}" for n in range(14)]


def project_in(folder: Path, **replay_set: object) -> Project:
    return Project(Home(folder), Config(replay_set=ReplaySetConfig.model_validate(replay_set)), Lake(folder / "lake"))


def questions(count: int, seed: int, words: Sequence[str] = WORDS) -> list[str]:
    """Different questions, a third of which repeat an earlier one but for its last word."""
    drawn, texts = random.Random(seed), list[str]()
    for number in range(count):
        if texts and drawn.random() < 0.33:
            texts.append(" ".join([*drawn.choice(texts).split()[:-1], f"n{number}"]))
        else:
            texts.append(" ".join([*drawn.choices(words, k=18), f"n{number}"]))
    return texts


def record(project: Project, batch: str, texts: Sequence[str], first: int = 0, step: str = "answer") -> None:
    rows = [
        {
            "request_id": f"r{first + n:05}", "recording_id": f"s{first + n:05}-{step}", "step": step, "model": "m",
            "inputs": json.dumps({"question": text}), "recorded_at": BEGAN + timedelta(seconds=first + n),
            "block_id": batch,
        }
        for n, text in enumerate(texts)
    ]  # fmt: skip
    project.lake.replace("recordings", [batch], frame("recordings", rows))


def choose(project: Project) -> tuple[pl.DataFrame, int]:
    """The replay set, and how many questions were signed for it."""
    lines: list[str] = []
    choose_all(project, lines.append)
    return project.lake.read("replay_set"), sum(int(line.split()[1].replace(",", "")) for line in lines)


def groups(project: Project) -> set[frozenset[str]]:
    """The clusters of the table, each as its requests."""
    lake = project.lake
    names = [template.name for template in repository.read_templates(lake).values()]
    one = repository.joined(lake, names).get("answer", {})
    rows = lake.read("question_clusters").with_columns(pl.col("cluster").replace(one))
    return {frozenset(part["request_id"]) for _, part in rows.group_by("step", "cluster")}


def test_only_newcomers_are_signed_and_nothing_is_written_where_there_are_none(tmp_path: Path) -> None:
    project = project_in(tmp_path, size=10)
    record(project, "b1", questions(60, 1))
    first, signed = choose(project)
    assert signed == 60 and first.height == 10
    record(project, "b2", questions(5, 2), first=60)
    record(project, "b3", questions(3, 3), first=65)
    again, signed = choose(project)
    assert signed == 8 and project.lake.read("question_clusters").height == 68
    assert again["request_id"].to_list() == first["request_id"].to_list()
    before = project.lake.versions()
    assert choose(project)[1] == 0 and project.lake.versions() == before


@pytest.mark.slow
def test_questions_that_come_one_batch_after_another_make_the_clusters_of_all_at_once(tmp_path: Path) -> None:
    texts = questions(600, 4)
    whole, parts = (project_in(tmp_path / name, size=5) for name in ("whole", "parts"))
    record(whole, "all", texts)
    choose(whole)
    for start in range(0, len(texts), 60):
        record(parts, f"b{start:04}", texts[start : start + 60], start)
        choose(parts)
    assert groups(parts) == groups(whole)
    assert 100 < len(groups(whole)) < 500


def test_a_newcomer_that_is_like_two_clusters_makes_them_one_until_it_is_gone(tmp_path: Path) -> None:
    project = project_in(tmp_path)
    one = " ".join(f"w{n}" for n in range(60))
    ends = [one.replace("w50 w51 w52 w53 w54 w55 w56 w57 w58 w59", " ".join(f"a{n}" for n in range(10)))]
    ends += [one.replace("w0 w1 w2 w3 w4 w5 w6 w7 w8 w9", " ".join(f"b{n}" for n in range(10)))]
    record(project, "b1", ends)
    assert choose(project)[0].height == 2
    record(project, "b2", [one], first=2)
    rows, signed = choose(project)
    assert signed == 1 and groups(project) == {frozenset({"r00000", "r00001", "r00002"})}
    assert rows["cluster_size"].to_list() == [3, 3] and rows["cluster"].n_unique() == 2, (
        "what was chosen keeps its name"
    )
    forget(project.lake, project.home, "r00002")
    rows, signed = choose(project)
    assert signed == 0 and rows["cluster_size"].to_list() == [1, 1]


def test_a_forgotten_request_leaves_the_clusters_and_its_place_in_the_set(tmp_path: Path) -> None:
    project = project_in(tmp_path, size=5)
    record(project, "b1", questions(40, 5))
    first, _ = choose(project)
    gone = first["request_id"][0]
    assert forget(project.lake, project.home, gone).rows == {"recordings": 1, "question_clusters": 1, "replay_set": 1}
    files = [pl.read_parquet(path) for path in Path(project.lake.uri, "question_clusters").rglob("part*.parquet")]
    assert sum(rows.height for rows in files) == 39 and not any(gone in rows["request_id"] for rows in files)
    after, signed = choose(project)
    assert signed == 0 and after.height == 5
    assert set(first["request_id"]) - set(after["request_id"]) == {gone}


def test_a_lost_note_and_a_lost_table_are_made_up_for(tmp_path: Path) -> None:
    project = project_in(tmp_path, size=5)
    record(project, "b1", questions(40, 6))
    first, _ = choose(project)
    clusters = groups(project)
    (tmp_path / stage.SEEN).unlink()
    assert choose(project)[1] == 0
    project.lake.replace("question_clusters", ["b1"], project.lake.read("question_clusters").clear())
    assert choose(project)[1] == 40 and groups(project) == clusters
    assert project.lake.read("replay_set").equals(first)


def test_a_batch_that_is_read_again_with_other_rows_is_followed(tmp_path: Path) -> None:
    project = project_in(tmp_path)
    texts = questions(30, 7)
    record(project, "b1", texts)
    choose(project)
    record(project, "b1", [*texts[:20], *questions(4, 8, OTHERS)])
    assert choose(project)[1] == 0, "recordings with an id that is known are known"
    assert set(project.lake.read("question_clusters")["request_id"]) == {f"r{n:05}" for n in range(24)}


def test_a_prompt_that_a_fifth_of_all_questions_have_by_now_stops_counting(tmp_path: Path) -> None:
    project = project_in(tmp_path)
    record(project, "b1", [f"{text} end" for text in questions(100, 9)])
    choose(project)
    prompt = " ".join(f"rule{n}" for n in range(60)) + " "
    asked = [prompt + " ".join(random.Random(n).choices(OTHERS, k=12)) for n in range(60)]
    record(project, "b2", asked[:10], first=100)
    choose(project)
    assert max(len(group & {f"r{n:05}" for n in range(100, 110)}) for group in groups(project)) > 1
    record(project, "b3", asked[10:], first=110)
    assert choose(project)[1] == 160, "all are signed without it"
    alone = project_in(tmp_path / "alone")
    record(alone, "b1", asked)
    choose(alone)
    late = {f"r{n:05}" for n in range(100, 160)}
    assert sorted(map(len, groups(alone))) == sorted(len(group & late) for group in groups(project) if group & late)


def test_a_step_that_turns_out_to_call_a_model_is_chosen_from_with_all_its_past(tmp_path: Path) -> None:
    project = project_in(tmp_path)
    record(project, "b1", questions(20, 10))
    record(project, "b0", questions(6, 11, OTHERS), step="route")
    rows = project.lake.read("recordings").with_columns(
        model=pl.when(pl.col("step") == "route").then(None).otherwise("model")
    )
    project.lake.replace("recordings", ["b0", "b1"], rows)
    assert set(choose(project)[0]["step"]) == {"answer"}
    record(project, "b2", questions(2, 12, OTHERS), first=50, step="route")
    rows, signed = choose(project)
    assert signed == 8 and rows.filter(pl.col("step") == "route")["cluster_size"].sum() == 8


def test_what_is_planned_counts_newcomers_and_writes_nothing(tmp_path: Path) -> None:
    project = project_in(tmp_path, size=5)
    record(project, "b1", questions(3, 13))
    choose(project)
    record(project, "b2", questions(4, 14), first=3)
    before = project.lake.versions(), project.notes.get(stage.SEEN)
    draft = foresee(project).lake
    assert draft.read("replay_set").height == 5 and draft.read("question_clusters").height == 7
    assert (project.lake.versions(), project.notes.get(stage.SEEN)) == before


@pytest.mark.hostile
@pytest.mark.slow
def test_a_full_set_is_the_same_whether_its_coverage_is_measured_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for drawn in (0, 2_000):
        monkeypatch.setattr(stage, "DRAWN", drawn)
        project = project_in(tmp_path / str(drawn), size=8)
        for batch in range(3):
            record(project, f"b{batch}", questions(40, 30 + batch), 40 * batch)
            choices = choose_all(project, lambda line: None)
        assert bool(len(choices["answer"].vectors)) == bool(drawn)
        gone = project.lake.read("replay_set")["request_id"][2]
        forget(project.lake, project.home, gone)
        found += [project.lake.read("replay_set"), choose(project)[0]]
        pins = project_in(tmp_path / str(drawn), size=8, pin=("r00100",), exclude=(found[-1]["request_id"][0],))
        found.append(choose(pins)[0])
    for one, other in zip(found[:3], found[3:], strict=True):
        assert one.drop("chosen_at").sort("request_id").equals(other.drop("chosen_at").sort("request_id"))
    assert [rows.height for rows in found[:3]] == [7, 8, 8]


# ── turnover ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def made_older(project: Project, days: int) -> pl.DataFrame:
    rows = project.lake.read("replay_set").with_columns(pl.col("chosen_at") - timedelta(days=days))
    project.lake.replace("replay_set", rows["block_id"].unique().to_list(), rows)
    return rows


def test_part_of_a_full_set_passes_to_traffic_that_it_does_not_cover(tmp_path: Path) -> None:
    settled = project_in(tmp_path, size=10)
    record(settled, "b1", questions(80, 15))
    choose(settled)
    record(settled, "b2", questions(80, 16, OTHERS), first=80)
    before = made_older(settled, 31)
    assert choose(settled)[0].drop("cluster_size").equals(before.drop("cluster_size")), "what was chosen stays"
    turning = project_in(tmp_path, size=10, turnover=0.2, pin=(before["request_id"][0],))
    after, signed = choose(turning)
    new = after.join(before, on="request_id", how="anti")
    assert signed == 0 and after.height == 10 and new.height == 2
    assert (new["request_id"] >= "r00080").all() and set(new["reason"]) == {"coverage"}
    assert before["request_id"][0] in after["request_id"]
    assert choose(turning)[0].equals(after), "within thirty days no more than that"
    made_older(turning, 31)
    assert choose(turning)[0].join(after, on="request_id", how="anti").height <= 2


def test_nothing_passes_where_the_set_covers_the_traffic_as_well_as_before(tmp_path: Path) -> None:
    project = project_in(tmp_path, size=10, turnover=0.5)
    record(project, "b1", ["the very same question about rain", *questions(9, 17)])
    choose(project)
    record(project, "b2", questions(1, 17)[:1] * 30, first=20)
    before = made_older(project, 40)
    assert choose(project)[0]["request_id"].to_list() == before["request_id"].to_list()


# ── crashes and upgrades ─────────────────────────────────────────────────────────────────────────────────────────────

CHOOSE = """
import sys
from pathlib import Path
from qbawa.project import Home, open_project
from qbawa.replay.replay_set import repository
from qbawa.replay.replay_set.stage import choose_all
repository._PORTION = 30
choose_all(open_project(Home(Path(sys.argv[1]))), lambda line: print(line, flush=True))
"""


@pytest.mark.hostile
@pytest.mark.slow
def test_a_kill_in_the_middle_leaves_no_row_twice_and_the_same_set(tmp_path: Path) -> None:
    def home(name: str) -> Project:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "qbawa.yaml").write_text("replay_set: {size: 20}")
        project = open_project(Home(folder))
        for block in range(8):
            record(project, f"b{block}", questions(30, 20 + block), 30 * block)
        return project

    killed, undisturbed = home("killed"), home("undisturbed")
    for after in (1, 2):
        process = subprocess.Popen([sys.executable, "-c", CHOOSE, str(killed.home.root)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(after):
            assert process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert 30 <= killed.lake.read("question_clusters").height < 240
    for project in (killed, undisturbed):
        subprocess.run([sys.executable, "-c", CHOOSE, str(project.home.root)], check=True, stdout=subprocess.DEVNULL)
    rows = killed.lake.read("question_clusters")
    assert rows.height == 240 and not rows.select("step", "request_id").is_duplicated().any()
    assert rows.sort("request_id").equals(undisturbed.lake.read("question_clusters").sort("request_id"))
    sets = [project.lake.read("replay_set").drop("chosen_at").sort("request_id") for project in (killed, undisturbed)]
    assert sets[0].height == 20 and sets[0].equals(sets[1])


def test_a_home_of_0_1_0_keeps_its_set_and_the_names_of_its_clusters(tmp_path: Path) -> None:
    project = open_project(old_home("0.1.0", tmp_path))
    before = project.lake.read("replay_set").sort("step", "request_id")
    assert before.height and project.lake.read("question_clusters").is_empty()
    after = choose_requests(project).rows.sort("step", "request_id")
    kept = after.join(before, on=["step", "request_id"], how="semi")
    assert kept.drop("cluster_size").equals(before.drop("cluster_size"))
    assert kept["cluster_size"].equals(before["cluster_size"])
    assert project.lake.read("question_clusters").height >= before.height
