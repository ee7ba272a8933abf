"""Names are data: steps, requests and people of any name go through every stage, and come out as what they are."""

from __future__ import annotations

import csv
import random
import shutil
import tempfile
from pathlib import Path

import polars as pl
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

import qbawa
from qbawa.cli.judge import command as judge
from qbawa.cli.status import command as status
from qbawa.cli.trace import command as trace
from qbawa.datasets.stage import build_qbawa, export_datasets
from qbawa.ingest import stage as ingest_stage
from qbawa.project import Home, Project, open_project
from qbawa.replay import stage as replay_stage
from qbawa.tournaments import stage as tournaments_stage
from qbawa.tournaments.humans import VerdictFile, file_part, step_of_file

REQUESTS = ["acme|42", '../../it\'s "q"; DROP TABLE x --', "[bold]*a* $x$ ключ \u202e\n\tc"]
STEPS = ["../a.b", "[/x] | 'y' {{ z }}*" + "s" * 200]
CONFIG = {
    "judges": {"judge": {"model": "offline/judge"}},
    "datasets": {"all": {"p_best": 0.5}},
    "pairs": {"p_best": 0.5},
}
WORDS = ["mill", "night", "owner", "river", "copper", "violin", "glacier", "moon", "bread", "chess", "comet", "roof"]

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


def turn(root: Path, requests: list[str], steps: list[str]) -> Project:
    """A home in which these requests, each with all steps, were recorded, answered and judged."""
    home = Home(root / "home")
    home.root.mkdir()
    strategies = [
        {"step": step, "name": f"way {step}", "prompt": "{{ text }}", "models": ["offline/lead", "offline/last"]}
        for step in steps
    ]
    home.config.write_text(yaml.safe_dump({**CONFIG, "strategies": strategies}))
    qbawa.configure(home.journal, pipeline=requests[0])
    for number, request in enumerate(requests):
        with qbawa.request(request_id=request):
            for step in steps:
                with_text(step)(story(number))
    assert qbawa.flush()
    qbawa.configure(None)
    project = open_project(home)
    ingest_stage.ingest(project, ingest_stage.new_batches(project))
    replay_stage.choose_requests(project)
    replay_stage.declare_strategies(project)
    replay_stage.replay(project, replay_stage.wanted_cells(project.lake), run_id="one")
    tournaments_stage.play(project, run_id="two")
    return project


def story(number: int) -> str:
    """Three sentences that no other request has: near-duplicates would stand for each other."""
    draw = random.Random(number)
    return " ".join(" ".join(draw.choices(WORDS, k=9)).capitalize() + "." for _ in range(3))


def with_text(step: str):  # type: ignore[no-untyped-def]
    @qbawa.step(name=step)
    def answer(text: str) -> str:
        qbawa.llm_call(model="m", messages=[{"role": "user", "content": text}], output=text[:30], cost_usd=0.0)
        return text[:30]

    return answer


def named(project: Project, table: str) -> set[tuple[str, str]]:
    return set(project.lake.read(table, ["step", "request_id"]).rows())


# Shrinking a failure would take minutes: each example is a home.
@settings(max_examples=1, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
@given(
    st.lists(names, min_size=2, max_size=2, unique=True), st.lists(names, min_size=2, max_size=2, unique=True), names
)
@example(REQUESTS, STEPS, "o'b|c")
@pytest.mark.slow
def test_any_name_goes_through_every_stage_and_comes_out_as_itself(
    requests: list[str], steps: list[str], person: str
) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        project = turn(root, requests, steps)
        everything = {(step, request) for step in steps for request in requests}
        for table in ("recordings", "replay_matrix", "matches", "verdicts"):
            assert named(project, table) == everything, table

        for step in steps:
            file = tournaments_stage.verdict_file(project, step, person)
            file.append(next(tournaments_stage.open_tasks(project, step, person)), "1")
            assert len(file.taken()) == 1 and file.path.parent == project.home.root / "human_verdicts"
        report = tournaments_stage.take_human_verdicts(project)
        human = project.lake.read("verdicts", keep=pl.col("judge_kind") == "human")
        assert not report.refused and sorted(human["step"]) == sorted(steps) and set(human["judge"]) == {person}

        tournaments_stage.rate_strategies(project)
        tournaments_stage.rate_judges(project)
        build_qbawa(project)
        assert named(project, "qbawa") == everything
        done = export_datasets(project)
        folder = project.home.whole_path(done.rows["path"][0])
        lineage = pl.read_parquet(folder / "lineage.parquet")
        assert not done.refused and set(lineage["request_id"]) == set(requests)
        assert {path.name for path in project.home.exports.iterdir() if path.is_dir()} == {"all"}

        for request in requests[:2]:
            said = run(project, trace, request, "--json")
            assert said.count('"request_id"') >= 1
            assert tournaments_stage.bracket_picture(project, request)
        assert run(project, status)
        assert {path.name for path in root.iterdir()} == {"home"}, "nothing was written beside the home"
    finally:
        shutil.rmtree(root, ignore_errors=True)


def run(project: Project, command, *arguments: str) -> str:  # type: ignore[no-untyped-def]
    done = CliRunner(env={"QBAWA_HOME": str(project.home.root)}).invoke(
        command,
        ["--", *arguments] if "--json" not in arguments else ["--json", "--", *arguments[:-1]],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return turn(tmp_path_factory.mktemp("names"), REQUESTS[:2], ["triage", "triage.llm", "a/b"])


def human(project: Project) -> list[tuple[str, str]]:
    rows = project.lake.read("verdicts", ["step", "judge"], keep=pl.col("judge_kind") == "human")
    return sorted(rows.rows())


def table(project: Project, step: str, person: str) -> str:
    """What people write by hand, or an older qbawa wrote: the file's name alone says the step."""
    task = next(tournaments_stage.open_tasks(project, step, person))
    lines = "request,strategy_a,strategy_b,judge,verdict\n"
    return lines + f'"{task.question.request_id}",{task.strategy_a},{task.strategy_b},{person},a\n'


def test_a_table_whose_name_says_the_step_lands_there_whatever_dots_and_slashes_it_has(judged: Project) -> None:
    folder = judged.home.root / "human_verdicts"
    for step, person in (("triage", "ben"), ("triage.llm", "anna"), ("a/b", "cleo"), ("triage", "llm.dora")):
        path = folder / f"{step}.{person}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(table(judged, step, person))
    report = tournaments_stage.take_human_verdicts(judged)
    assert report.refused == {}
    assert human(judged) == [("a/b", "cleo"), ("triage", "ben"), ("triage", "llm.dora"), ("triage.llm", "anna")]


def test_a_person_who_judges_in_the_terminal_lands_on_the_step(judged: Project) -> None:
    done = CliRunner(env={"QBAWA_HOME": str(judged.home.root)}).invoke(
        judge, ["a/b", "--as", "../../eve", "--count", "1"], input="1\n", catch_exceptions=False
    )
    assert done.exit_code == 0 and "1 verdicts noted" in done.output
    tournaments_stage.take_human_verdicts(judged)
    assert ("a/b", "../../eve") in human(judged)


def test_a_file_of_an_older_qbawa_is_gone_on_with(judged: Project) -> None:
    path = judged.home.root / "human_verdicts" / "triage.llm.fritz.csv"
    path.write_text(table(judged, "triage.llm", "fritz"))
    file = VerdictFile(path.parent, "triage.llm", "fritz")
    assert file.path == path and len(file.taken()) == 1
    tasks = list(tournaments_stage.open_tasks(judged, "triage.llm", "fritz"))
    file.append(tasks[1], "tie")
    rows = list(csv.DictReader(path.open(newline="", encoding="utf-8")))
    assert len(rows) == 2 and rows[1]["verdict"] == "tie" and None not in rows[1]
    tournaments_stage.take_human_verdicts(judged)
    assert human(judged).count(("triage.llm", "fritz")) == 2


@given(names, names)
@example("a/b", "..")
@example("s" * 900, "т" * 500)
def test_every_step_and_judge_has_one_file_in_the_folder(step: str, person: str) -> None:
    path = VerdictFile(Path("/folder"), step, person).path
    assert path.parent == Path("/folder") and path.name[0] != "." and len(path.name.encode()) < 256
    if 3 * len(step.encode("utf-8", "surrogatepass")) <= 100:  # no longer than that however it is written: never cut
        assert step_of_file(path.name, {step, "other"}, {person}) == step
        assert step_of_file(path.name, (), ()) == step


def test_a_long_name_is_cut_and_stays_one_of_its_own() -> None:
    assert file_part("s" * 300) != file_part("s" * 301) and len(file_part("s" * 300)) <= 100
