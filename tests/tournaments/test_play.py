"""Tournaments played on the lake: nothing is asked twice, what counts decides, tables agree with each other."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from bracket_laws import agree, decisions
from newsdesk import CONFIG, REQUESTS, newsdesk, reopened
from scripted_provider import ScriptedProvider, scripted_provider

from qbawa.errors import InputError
from qbawa.judges.jury import same_text
from qbawa.project import Home, Project, open_project
from qbawa.replay import stage as replay_stage
from qbawa.replay.cells import choose_cells
from qbawa.replay.stage import replay, wanted_cells
from qbawa.tournaments import stage as tournaments_stage
from qbawa.tournaments.import_verdicts import import_verdicts
from qbawa.tournaments.play import PlayReport
from qbawa.tournaments.stage import play

pytestmark = pytest.mark.slow

ROUND_ROBIN = CONFIG.replace("{verdict_budget: 400}", "{format: round_robin, goal: order, confidence: 0.999}")


@pytest.fixture
def desk(tmp_path: Path) -> Project:
    return newsdesk(tmp_path)


@pytest.fixture(scope="module")
def played_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    project = newsdesk(tmp_path_factory.mktemp("played"))
    play(project, run_id="one")
    return project.home


@pytest.fixture
def played(played_home: Home, tmp_path: Path) -> Project:
    """A newsdesk whose tournaments have been played once."""
    shutil.copytree(played_home.root, tmp_path / "played")
    return open_project(Home(tmp_path / "played"))


def scored(project: Project, step: str = "summarise") -> pl.DataFrame:
    return project.lake.read("matches", keep=(pl.col("step") == step) & pl.col("p_a").is_not_null())


def verdicts(project: Project, keep: pl.Expr | None = None) -> pl.DataFrame:
    return project.lake.read("verdicts", keep=keep)


# ── playing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_played_tournament_leaves_tables_that_agree_and_a_report_that_counts_them(desk: Project) -> None:
    report = play(desk, run_id="one")
    agree(desk)
    assert set(report.steps) == {"summarise", "triage"}
    for step, ended in report.steps.items():
        assert ended.requests == REQUESTS and ended.strategies == {"summarise": 5, "triage": 3}[step]
        assert ended.reason in ("goal", "budget", "exhausted") and ended.confidence is not None
        assert verdicts(desk, pl.col("step") == step).height == ended.verdicts <= 400
        judged = desk.lake.read("matches", keep=(pl.col("step") == step) & (pl.col("origin") == "tournament")).height
        assert 0 < judged <= ended.matches == desk.lake.read("matches", keep=pl.col("step") == step).height
    assert report.calls_paid + report.calls_cached >= verdicts(desk).height and report.cost_usd == 0
    assert set(report.matches_by_request) == set(desk.lake.read("matches")["request_id"])
    assert report.summary().count("ended by") == 2


@pytest.mark.parametrize("format", ["auto", "round_robin", "swiss"])
def test_playing_again_asks_nothing_and_changes_nothing(tmp_path: Path, format: str) -> None:
    project = newsdesk(tmp_path)
    project = reopened(project.home, CONFIG.replace("verdict_budget: 400", f"verdict_budget: 400, format: {format}"))
    play(project, run_id="one")
    versions, before = project.lake.versions(), decisions(project)
    again = play(project, run_id="two")
    assert again.calls_paid == again.calls_cached == 0
    assert {step: (s.matches, s.verdicts) for step, s in again.steps.items()} == {"summarise": (0, 0), "triage": (0, 0)}
    assert decisions(project) == before
    assert project.lake.versions() == versions


@pytest.mark.parametrize(
    "judges",
    [
        "{rubric: {model: offline/judge}, strict: {model: offline/judge-strict}}",
        "{rubric: {model: offline/judge, order: both}}",
        "{rubric: {model: offline/judge, kind: pointwise}}",
    ],
    ids=["two judges", "both orders", "scores"],
)
def test_a_tournament_stopped_by_its_budget_goes_on_as_if_it_had_never_stopped(tmp_path: Path, judges: str) -> None:
    config = re.sub(r"judges:.*", f"judges: {judges}", CONFIG)
    straight, halting = (reopened(newsdesk(tmp_path / name).home, config) for name in ("straight", "halting"))
    play(straight, run_id="one")
    for budget in (10, 30, 60, 400):
        report = play(halting, run_id=f"to-{budget}", verdict_budget=budget)
        agree(halting)
        for step, ended in report.steps.items():
            given = verdicts(halting, pl.col("step") == step).height
            assert given <= budget and (ended.reason != "budget" or given > budget - 2), "it is spent to the last match"
    assert set(verdicts(halting)["verdict_id"]) == set(verdicts(straight)["verdict_id"])
    assert decisions(halting) == decisions(straight)


def test_a_verdict_budget_of_nothing_asks_nothing(desk: Project) -> None:
    report = play(desk, run_id="one", verdict_budget=0)
    assert verdicts(desk).is_empty() and report.calls_paid == report.calls_cached == 0


def test_steps_and_requests_restrict_what_is_played(desk: Project) -> None:
    chosen = desk.lake.read("replay_set")["request_id"].unique().sort().to_list()[:2]
    report = play(desk, run_id="one", steps=["triage"], requests=[*chosen, "unheard-of"])
    assert set(report.steps) == {"triage"}
    assert set(desk.lake.read("matches")["request_id"]) <= set(chosen)
    assert set(desk.lake.read("matches")["step"]) <= {"triage"}
    with pytest.raises(
        InputError, match=r"Step 'sumarise' has no answers to judge\. Steps with answers: summarise, triage"
    ):
        play(desk, run_id="two", steps=["sumarise"])


def test_without_judges_nothing_is_played_and_it_is_said_why(desk: Project) -> None:
    project = reopened(desk.home, re.sub(r"judges:.*", "", CONFIG))
    said: list[str] = []
    report = play(project, run_id="one", log=said.append)
    assert report.steps["triage"].reason.startswith("no judges: name some under `judges`")
    assert any("Step 'summarise' has no judges" in line for line in said)
    assert verdicts(project).is_empty()


def test_a_recording_that_cannot_be_read_keeps_its_own_request_from_being_judged(desk: Project) -> None:
    recorded = desk.lake.read("recordings", keep=pl.col("step") == "summarise")
    broken = recorded.filter(pl.col("request_id") == recorded["request_id"][0])
    desk.lake.merge("recordings", broken.with_columns(inputs=pl.lit("not json")))
    report = play(desk, run_id="one")
    assert report.steps["summarise"].requests == REQUESTS - 1 and report.steps["triage"].matches
    assert set(scored(desk)["request_id"]) == set(recorded["request_id"]) - set(broken["request_id"])


def test_answers_that_differ_in_indentation_alone_are_told_apart() -> None:
    code = "for row in rows:\n    total += row\nprint(total)"
    assert same_text(code) == same_text(f"\n{code}  \n") == same_text(code.replace("\n", "\r\n"))
    assert same_text(code) != same_text(code.replace("print", "    print"))


def test_answers_that_are_the_same_tie_without_a_verdict(desk: Project) -> None:
    lake = desk.lake
    cells = lake.read("replay_matrix", keep=pl.col("step") == "summarise")
    lake.merge("replay_matrix", cells.with_columns(answer=pl.lit("Nothing  happened.")))
    report = play(desk, run_id="one", steps=["summarise"])
    assert report.steps["summarise"].verdicts == 0
    matches = lake.read("matches", keep=pl.col("step") == "summarise")
    assert set(matches["origin"]) <= {"identical"} and set(matches["winner"]) <= {"tie"}
    agree(desk)


# ── what counts ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def wordy() -> Iterator[ScriptedProvider]:
    """A judge that likes what its rubric says: LONG or SHORT answers."""

    def say(prompt: str) -> str:
        one, two = (len(json.loads(text)) for text in re.findall(r"<answer_\d>(.*?)</answer_\d>", prompt, flags=re.S))
        if "MUMBLE" in prompt:
            return "Hm, well."
        better = (one > two) == ("LONG" in prompt)
        return json.dumps({"rationale": "by length", "verdict": "tie" if one == two else "1" if better else "2"})

    with scripted_provider() as provider:
        provider.say = say
        yield provider


def with_wordy(provider: ScriptedProvider, rubric: str, config: str = ROUND_ROBIN) -> str:
    model = f"models: {{wordy: {{base_url: '{provider.base_url}', free: true, max_attempts: 1, max_in_flight: 8}}}}\n"
    return model + re.sub(r"judges:.*", f"judges: {{wordy: {{model: wordy, rubric: {rubric}}}}}", config)


def longest_wins(project: Project) -> set[bool]:
    """Whether the longer answer won, over all decided matches."""
    lengths = project.lake.read("replay_matrix", ["cell_id", "answer"])
    length = {cell: len(answer) for cell, answer in lengths.iter_rows()}
    rows = scored(project).filter(pl.col("winner") != "tie")
    return {(length[a] > length[b]) == (w == "a") for a, b, w in rows.select("cell_a", "cell_b", "winner").iter_rows()}


def test_another_rubric_is_asked_again_and_decides_again(desk: Project, wordy: ScriptedProvider) -> None:
    play(reopened(desk.home, with_wordy(wordy, "LONG")), run_id="one", steps=["summarise"])
    asked = wordy.calls
    assert asked and longest_wins(desk) == {True}
    project = reopened(desk.home, with_wordy(wordy, "SHORT"))
    play(project, run_id="two", steps=["summarise"])
    assert wordy.calls > asked and longest_wins(project) == {False}
    asked = wordy.calls
    play(reopened(desk.home, with_wordy(wordy, "LONG")), run_id="three", steps=["summarise"])
    assert wordy.calls == asked, "the first rubric's verdicts are in the ledger"
    assert longest_wins(desk) == {True}


def test_verdicts_of_another_rubric_decide_nothing_even_where_nobody_asks_again(
    desk: Project, wordy: ScriptedProvider
) -> None:
    play(reopened(desk.home, with_wordy(wordy, "LONG")), run_id="one", steps=["summarise"])
    before = verdicts(desk)
    project = reopened(desk.home, with_wordy(wordy, "SHORT"))
    said: list[str] = []
    report = play(project, run_id="two", steps=["summarise"], verdict_budget=4, log=said.append)
    assert longest_wins(project) == {False} and 0 < scored(project).height <= 4
    undecided = project.lake.read("matches", keep=pl.col("p_a").is_null()).height
    assert report.steps["summarise"].undecided == report.metadata()["undecided"] == undecided > 0
    assert any(f"{undecided} matches that were decided before are undecided now" in line for line in said)
    assert any("(4 of 4 verdicts that count are given)" in line for line in said)
    again = play(project, run_id="three", steps=["summarise"])
    assert again.steps["summarise"].undecided == 0 and longest_wins(project) == {False}
    assert verdicts(project).height == before.height, "they are kept all the same"


def test_what_cannot_be_read_is_unscored_and_decides_nothing(desk: Project, wordy: ScriptedProvider) -> None:
    project = reopened(desk.home, with_wordy(wordy, "MUMBLE"))
    report = play(project, run_id="one", steps=["summarise"], verdict_budget=20)
    said = verdicts(project)
    assert report.steps["summarise"].unscored == said.height > 0
    assert set(said["verdict"]) == {"unscored"} and set(said["raw"]) == {"Hm, well."}
    assert scored(project).filter(pl.col("origin") != "identical").is_empty()
    asked = wordy.calls
    play(project, run_id="two", steps=["summarise"], verdict_budget=20)
    assert wordy.calls == asked, "a judge that mumbled is not asked again"
    agree(project)


def test_a_judge_that_refuses_one_match_leaves_it_unscored(desk: Project, wordy: ScriptedProvider) -> None:
    wordy.refuses = lambda prompt: "Sure! Here" in prompt
    project = reopened(desk.home, with_wordy(wordy, "LONG"))
    play(project, run_id="one", steps=["summarise"])
    refused = verdicts(project, pl.col("verdict") == "unscored")
    assert refused.height and set(refused["raw"]) == {None}
    assert refused["rationale"].str.starts_with("The call failed, bad_request").all()
    assert longest_wins(project) == {True}


def test_a_new_answer_is_judged_again(desk: Project, wordy: ScriptedProvider) -> None:
    config = with_wordy(wordy, "LONG", ROUND_ROBIN.replace("{verdict_budget: 400}", "{format: round_robin}"))
    project = reopened(desk.home, config)
    play(project, run_id="one", steps=["summarise"])
    asked, row = wordy.calls, project.lake.read("replay_matrix", keep=pl.col("step") == "summarise").head(1)
    project.lake.merge("replay_matrix", row.with_columns(answer=pl.lit("A new and much longer answer. " * 40)))
    play(project, run_id="two", steps=["summarise"])
    assert asked < wordy.calls <= asked + 2 * 4, "its matches alone"
    assert longest_wins(project) == {True}
    agree(project)


# ── re-read ────────────────────────────────────────────────────────────────────────────────────────────────────────


def with_logprobs(provider: ScriptedProvider) -> str:
    """A judge that gives log-probabilities: 80 % for what it says."""

    def logprobs(reply: str) -> dict[str, object]:
        start = reply.index('"verdict": "') + len('"verdict": "')
        word = reply[start : reply.index('"', start)]
        other = {"1": "2", "2": "1"}.get(word, "1")
        top = [{"token": word, "logprob": math.log(0.8)}, {"token": other, "logprob": math.log(0.2)}]
        parts = [{"token": text, "logprob": 0.0} for text in (reply[:start], reply[start + len(word) :])]
        return {"content": [parts[0], {"token": word, "logprob": math.log(0.8), "top_logprobs": top}, parts[1]]}

    provider.logprobs = logprobs
    return with_wordy(provider, "LONG, logprobs: true")


@pytest.mark.parametrize("how", ["played", "people", "all"])
def test_what_an_older_parser_could_not_read_is_re_read_for_free(
    desk: Project, wordy: ScriptedProvider, how: str
) -> None:
    project = reopened(desk.home, with_logprobs(wordy))
    play(project, run_id="one", steps=["summarise"])
    healthy, decided, asked = verdicts(project).sort("verdict_id"), decisions(project), wordy.calls
    assert {0.2, 0.8} <= {round(preference, 3) for preference in healthy["preference"]}
    # As an older parser would have left them: of these replies it could read none.
    lost = healthy.filter(pl.int_range(pl.len()) % 3 == 0).with_columns(
        verdict=pl.lit("unscored"), preference=pl.lit(None, pl.Float64), rationale=pl.lit(None, pl.String)
    )
    project.lake.merge("verdicts", lost)
    if how == "played":
        play(project, run_id="two", steps=["summarise"])
    elif how == "people":
        someone = contradict(project, 1).drop("match_id").with_columns(request=pl.lit("r"))
        import_verdicts(project.lake, someone, "summarise", kind="human")
        tournaments_stage.take_human_verdicts(project)
    else:
        assert tournaments_stage.reread_verdicts(project) == lost.height
        assert tournaments_stage.reread_verdicts(project) == 0
    assert wordy.calls == asked
    assert verdicts(project, pl.col("judge_kind") == "llm").sort("verdict_id").equals(healthy), "soft preferences too"
    assert {match: decision for match, decision in decisions(project).items() if match in decided} == decided


def test_a_stricter_parser_takes_back_what_an_older_one_read_into_a_reply(
    desk: Project, wordy: ScriptedProvider
) -> None:
    project = reopened(desk.home, with_wordy(wordy, "MUMBLE"))
    play(project, run_id="one", steps=["summarise"], verdict_budget=20)
    project.lake.merge("verdicts", verdicts(project).with_columns(verdict=pl.lit("a"), preference=1.0))
    assert tournaments_stage.reread_verdicts(project) == 20
    assert set(verdicts(project)["verdict"]) == {"unscored"} and scored(project)["origin"].unique().to_list() in (
        [],
        ["identical"],
    )


# ── people ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def contradict(project: Project, count: int) -> pl.DataFrame:
    """A person's table that says the opposite of `count` decided matches."""
    rows = scored(project).filter(pl.col("winner") != "tie").sort("match_id").head(count)
    opposite = pl.when(pl.col("winner") == "a").then(pl.lit("b")).otherwise(pl.lit("a"))
    return rows.select("match_id", pl.col("request_id").alias("request"), "strategy_a", "strategy_b",
                       pl.lit("anna").alias("judge"), opposite.alias("verdict"))  # fmt: skip


def overruled(project: Project, table: pl.DataFrame) -> bool:
    decided = decisions(project)
    return all(decided[match][0] == verdict for match, verdict in table.select("match_id", "verdict").iter_rows())


def test_a_persons_word_outweighs_the_jurys(played: Project) -> None:
    table = contradict(played, 3)
    others = {key: value for key, value in decisions(played).items() if key not in set(table["match_id"])}
    folder = played.home.root / "human_verdicts"
    folder.mkdir()
    table.drop("match_id").write_csv(folder / "summarise.anna.csv")
    report = tournaments_stage.take_human_verdicts(played)
    assert (report.verdicts, report.by_file) == (3, {"summarise.anna.csv": 3})
    assert overruled(played, table)
    assert {key: value for key, value in decisions(played).items() if key in others} == others
    versions = played.lake.versions()
    assert tournaments_stage.take_human_verdicts(played).by_file == {}
    assert played.lake.versions() == versions, "a table that was taken changes nothing"
    agree(played)


def test_a_persons_word_outweighs_the_jurys_when_it_was_imported(played: Project) -> None:
    table = contradict(played, 3)
    assert import_verdicts(played.lake, table.drop("match_id"), "summarise", kind="human").changed
    paid = play(played, run_id="two").calls_paid
    assert overruled(played, table)
    versions = played.lake.versions()
    again = play(played, run_id="three")
    assert again.calls_paid == 0 and played.lake.versions() == versions, paid
    agree(played)


def test_two_people_who_disagree_make_a_tie(played: Project) -> None:
    table = contradict(played, 1)
    flipped = table.with_columns(judge=pl.lit("ben"), verdict=pl.col("verdict").replace({"a": "b", "b": "a"}))
    import_verdicts(played.lake, pl.concat([table, flipped]).drop("match_id"), "summarise", kind="human")
    tournaments_stage.take_human_verdicts(played)
    assert decisions(played)[table["match_id"].item()] == ("tie", 0.5)


def test_the_judge_that_agrees_best_with_people_decides_as_soon_as_they_have_judged(
    desk: Project, wordy: ScriptedProvider
) -> None:
    judges = "{liar: {model: wordy, rubric: SHORT}, honest: {model: wordy, rubric: LONG}}"
    project = reopened(desk.home, re.sub(r"judges:.*", f"judges: {judges}", with_wordy(wordy, "LONG")))
    play(project, run_id="one", steps=["summarise"])
    assert longest_wins(project) == {False}, "before people have judged, the first decides"
    folder = project.home.root / "human_verdicts"
    folder.mkdir()
    contradict(project, 20).drop("match_id").write_csv(folder / "summarise.anna.csv")
    tournaments_stage.take_human_verdicts(project)
    assert longest_wins(project) == {True}, "and the one who agrees with them in the same turn as they have"
    versions = project.lake.versions()
    tournaments_stage.rate_judges(project)
    assert tournaments_stage.take_human_verdicts(project).by_file == {}
    assert project.lake.versions()["matches"] == versions["matches"]


def test_imported_judges_of_another_evaluation_count_alike(desk: Project) -> None:
    strategies = (
        desk.lake.read("strategies", ["strategy_id"], keep=pl.col("step") == "summarise")["strategy_id"]
        .sort()
        .to_list()
    )
    rows = [
        {
            "request": "demo-01",
            "strategy_a": strategies[0],
            "strategy_b": strategies[1],
            "judge": judge,
            "preference": p,
        }
        for judge, p in (("x", 0.9), ("y", 0.2), ("z", 0.1))
    ]
    import_verdicts(desk.lake, pl.DataFrame(rows), "summarise")
    imported = desk.lake.read("matches")["match_id"].item()
    play(desk, run_id="one", requests=["demo-02"])
    assert decisions(desk)[imported] == ("b", pytest.approx(0.4))


def test_a_strategy_that_left_the_configuration_plays_no_more_and_keeps_its_matches(played: Project) -> None:
    gone = played.lake.read("strategies", ["strategy_id"], keep=pl.col("name") == "plain/chatty").item()
    its = (pl.col("strategy_a") == gone) | (pl.col("strategy_b") == gone)
    before = played.lake.read("matches", keep=its).sort("match_id")
    fewer = CONFIG.replace("offline/verbose, offline/chatty", "offline/verbose")
    project = reopened(played.home, fewer)
    replay_stage.declare_strategies(project)
    report = play(project, run_id="two")
    assert report.steps["summarise"].strategies == 4
    assert before.height and project.lake.read("matches", keep=its).sort("match_id").equals(before)


def test_a_strategy_that_is_added_is_played_and_nothing_else_is_asked_again(desk: Project) -> None:
    first: PlayReport = play(desk, run_id="one", steps=["triage"])
    known = set(verdicts(desk)["verdict_id"])
    project = reopened(desk.home, CONFIG.replace("offline/triage-null", "offline/triage-null, offline/triage-sloppy"))
    replay_stage.declare_strategies(project)
    replay(project, choose_cells(wanted_cells(project.lake)), run_id="two")
    second = play(project, run_id="two", steps=["triage"])
    new = verdicts(project).filter(~pl.col("verdict_id").is_in(known))
    assert second.steps["triage"].verdicts == new.height > 0 and first.steps["triage"].verdicts == len(known)
    agree(project)
