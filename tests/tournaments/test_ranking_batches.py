"""Listwise juries: the matches of a round settled by rankings, fewer calls than matches, and nothing paid twice."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pytest
from bracket_laws import agree, decisions
from hypothesis import given, settings
from hypothesis import strategies as st
from injections import INJECTIONS
from newsdesk import CONFIG, newsdesk, reopened
from scripted_provider import ScriptedProvider, scripted_provider

from qbawa.erasure import forget
from qbawa.judges.prompt import MAX_ANSWER_CHARS, read_blocks
from qbawa.project import Home, Project, open_project
from qbawa.replay import stage as replay_stage
from qbawa.replay.cells import choose_cells
from qbawa.replay.stage import replay, wanted_cells
from qbawa.storage.lineage import trace
from qbawa.tournaments.formats import Field, Match, Result, make_tournament
from qbawa.tournaments.play import PlayReport
from qbawa.tournaments.ranking_batches import LIST_CHARS, LIST_SIZE, ranking_batches
from qbawa.tournaments.stage import play

pytestmark = pytest.mark.slow

NAMES = [f"s{number:02}" for number in range(12)]
drawn_matches = st.lists(
    st.tuples(st.sampled_from(["r1", "r2"]), st.sets(st.sampled_from(NAMES), min_size=2, max_size=2), st.booleans()),
    unique_by=lambda drawn: (drawn[0], frozenset(drawn[1]), drawn[2]),
    max_size=40,
).map(lambda drawn: [Match(r, *sorted(two), 0, slot, swapped) for slot, (r, two, swapped) in enumerate(drawn)])


@given(drawn_matches, st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["same", "other\n words", "x" * 20_000])))
@settings(max_examples=200)
def test_every_match_stands_on_one_list_that_holds_both_its_answers(
    matches: Sequence[Match], texts: dict[str, str]
) -> None:
    def answer(strategy: str, request: str) -> str:
        return texts.get(strategy, f"{request} {strategy}")

    lists = ranking_batches(matches, answer)
    for match in matches:
        two = {answer(match.a, match.request), answer(match.b, match.request)}
        if len(two) == 1:
            assert match not in lists, "equal answers are a tie already"
        elif match in lists:
            assert two <= set(lists[match])
    for listed in lists.values():
        assert 2 < len(listed) == len(set(listed)) <= LIST_SIZE
        assert sum(map(len, listed)) <= LIST_CHARS == 2 * MAX_ANSWER_CHARS
    assert lists == ranking_batches(list(matches), answer)


def test_one_turn_of_a_round_robin_takes_a_call_for_four_matches() -> None:
    turn = [Match("r1", NAMES[k], NAMES[k + 1], 0, k // 2) for k in range(0, 12, 2)]
    lists = ranking_batches(turn, lambda strategy, request: strategy)
    assert [set(lists[match]) for match in turn] == [set(NAMES[:8])] * 4 + [set(NAMES[8:])] * 2
    more = Match("r1", "s08", "s10", 0, 6)
    assert set(ranking_batches([*turn, more], lambda strategy, request: strategy)[more]) == set(NAMES[8:])


def test_a_round_has_the_same_matches_however_many_of_them_are_judged() -> None:
    field = Field.full(NAMES, ["r1", "r2"])
    tournament = make_tournament(field, format="swiss", goal="order")
    results: list[Result] = []
    cut = 0
    while matches := tournament.next_matches(4):
        before = tournament.round_matches
        results += [Result(match, 1.0) for match in matches]
        tournament.record(results[-len(matches) :])
        again = make_tournament(field, format="swiss", goal="order", past_results=results)
        assert again.round_matches == tournament.round_matches
        if tournament.next_matches() and tournament.round == matches[0].round:
            assert tournament.round_matches == before
            cut += 1
    assert cut >= 4


# ── played for real ──────────────────────────────────────────────────────────────────────────────────────────────────

MODELS = "lead, lead-2, last, keyword, luhn, textrank, compress, verbose, chatty".replace(", ", ", offline/")
FIELD = CONFIG.replace("offline/lead-2, offline/textrank, offline/verbose, offline/chatty", f"offline/{MODELS}")


@pytest.fixture(scope="module")
def wide_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Ten strategies have summarised, nearly all in words of their own; nobody has judged."""
    project = reopened(newsdesk(tmp_path_factory.mktemp("wide")).home, FIELD)
    replay_stage.declare_strategies(project)
    replay(project, choose_cells(wanted_cells(project.lake)), run_id="wide")
    cells = project.lake.read("replay_matrix", keep=pl.col("step") == "summarise").sort("cell_id")
    signed = pl.when(pl.int_range(pl.len()) % 9 > 0).then(pl.col("answer") + " " + pl.col("cell_id"))
    project.lake.merge("replay_matrix", cells.with_columns(answer=signed.otherwise("answer")))
    return project.home


def by_length(prompt: str) -> str:
    """What a judge says that likes what its rubric names: LONG or SHORT answers."""
    if "MUMBLE" in prompt:
        return "Hm, well."
    blocks = read_blocks(prompt)
    sign = -1 if "LONG" in prompt else 1
    lengths = {number: sign * len(blocks[f"answer_{number}"]) for number in range(1, len(blocks))}
    best = sorted(lengths, key=lambda number: lengths[number])
    if '"ranking"' in prompt:
        return json.dumps({"rationale": "by length", "ranking": best})
    tie = lengths[1] == lengths[2]
    return json.dumps({"rationale": "by length", "verdict": "tie" if tie else str(best[0])})


@pytest.fixture
def ranker() -> Iterator[ScriptedProvider]:
    with scripted_provider() as provider:
        provider.say = by_length
        yield provider


def desk(
    home: Home,
    folder: Path,
    provider: ScriptedProvider,
    *,
    rubric: str = "LONG",
    format: str = "swiss",
    more: str = "",
    others: str = "",
) -> Project:
    """A copy of a home, about to be judged by a listwise judge that costs money, and maybe others."""
    if not folder.exists():
        shutil.copytree(home.root, folder)
    price = "input_usd_per_million: 100, output_usd_per_million: 100"
    models = f"models: {{ranker: {{base_url: '{provider.base_url}', {price}, max_attempts: 1, max_in_flight: 2}}}}\n"
    judges = f"judges: {{ranks: {{model: ranker, kind: listwise, rubric: {rubric}{more}}}{others}}}"
    tournament = f"{{verdict_budget: 2_000, format: {format}, goal: order, confidence: 0.999}}"
    return reopened(
        Home(folder), models + re.sub(r"judges:.*", judges, FIELD).replace("{verdict_budget: 400}", tournament)
    )


def summarised(project: Project, usd: float | None = None) -> PlayReport:
    return play(project, run_id="one", steps=["summarise"], requests=["demo-01", "demo-02", "demo-03"], usd=usd)


def verdicts(project: Project) -> pl.DataFrame:
    return project.lake.read("verdicts").sort("verdict_id")


def prompts(provider: ScriptedProvider) -> list[list[str]]:
    """The answers of every prompt, in the order shown."""
    bodies = [json.loads(body) for body in provider.answered]
    blocks = [read_blocks(body["messages"][1]["content"]) for body in bodies]
    return [[found[f"answer_{number}"] for number in range(1, len(found))] for found in blocks]


def longest_wins(project: Project) -> set[bool]:
    """Whether the longer answer, as a judge sees it, won: over all matches that were judged."""
    answers = project.lake.read("replay_matrix", ["cell_id", "answer"]).drop_nulls()
    length = {cell: len(answer) for cell, answer in answers.iter_rows()}
    rows = project.lake.read("matches", keep=(pl.col("origin") == "tournament") & (pl.col("winner") != "tie"))
    judged = rows.select("cell_a", "cell_b", "winner").iter_rows()
    return {(length[a] > length[b]) == (w == "a") for a, b, w in judged if length[a] != length[b]}


@pytest.mark.parametrize("format", ["round_robin", "swiss"])
def test_a_listwise_jury_makes_fewer_calls_than_matches(
    wide_home: Home, tmp_path: Path, ranker: ScriptedProvider, format: str
) -> None:
    project = desk(wide_home, tmp_path / "home", ranker, format=format)
    report = summarised(project)
    agree(project)
    said, calls = verdicts(project), project.lake.read("calls", keep=pl.col("purpose") == "judge")
    judged = project.lake.read("matches", keep=pl.col("origin") == "tournament")
    # A row for every match that was asked and none besides: other pairs on the lists have no verdict.
    assert set(said["match_id"]) == set(judged["match_id"]) and said.height == report.steps["summarise"].verdicts
    assert ranker.calls == calls.height == report.calls_paid < said.height / 2.5
    assert max(map(len, prompts(ranker))) == LIST_SIZE
    assert all(len(set(shown)) == len(shown) for shown in prompts(ranker))
    assert said["cost_usd"].sum() == pytest.approx(calls["cost_usd"].sum()) == pytest.approx(report.cost_usd)
    assert longest_wins(project) == {True}


@pytest.mark.parametrize("order", ["random", "both"])
def test_asked_both_ways_a_list_is_shown_in_reverse(
    wide_home: Home, tmp_path: Path, ranker: ScriptedProvider, order: str
) -> None:
    # With `random` a round robin that has budget left asks every match again, swapped.
    project = desk(wide_home, tmp_path / "home", ranker, format="round_robin", more=f", order: {order}")
    summarised(project)
    twice = verdicts(project).group_by("match_id").agg(pl.col("shown_first").sort(), pl.col("call_key").n_unique())
    twice = twice.filter(pl.col("shown_first").list.len() == 2)
    assert twice.height > 50
    assert twice["shown_first"].to_list() == [["a", "b"]] * twice.height and set(twice["call_key"]) == {2}
    if order == "both":
        shown = prompts(ranker)
        assert sorted(shown) == sorted(one[::-1] for one in shown)


# With it a cut leaves lists of which some matches are judged and others not.
PAIRWISE = ", pairs: {model: ranker, rubric: LONG}"


@pytest.fixture(scope="module")
def straight(wide_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A tournament that was never cut off."""
    with scripted_provider() as provider:
        provider.say = by_length
        project = desk(wide_home, tmp_path_factory.mktemp("straight") / "home", provider, others=PAIRWISE)
        summarised(project)
    return project


@pytest.mark.parametrize("share", [0.1, 0.35, 0.6, 0.85])
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "killed before the lake was told"])
def test_a_tournament_cut_off_anywhere_pays_nothing_twice(
    wide_home: Home, straight: Project, tmp_path: Path, ranker: ScriptedProvider, share: float, stored: bool
) -> None:
    whole = verdicts(straight)
    calls = whole["call_key"].n_unique()
    project = desk(wide_home, tmp_path / "home", ranker, others=PAIRWISE)
    report = summarised(project, usd=share * whole["cost_usd"].sum())
    assert 0 < report.calls_paid == ranker.calls < calls
    if not stored:
        # What kill -9 leaves: calls in the journal, and a lake that has not heard of them.
        shutil.rmtree(project.home.lake)
        shutil.copytree(wide_home.lake, project.home.lake)
        for segment in (project.home.calls / "loaded").iterdir():
            segment.rename(project.home.calls / segment.name)
        project = open_project(project.home)
    summarised(project)
    agree(project)
    assert ranker.asked_again() == 0 and ranker.calls == calls
    told = ["verdict_id", "verdict", "call_key", "round", "raw"]
    assert verdicts(project).select(told).equals(whole.select(told))
    assert verdicts(project)["cost_usd"].sum() == pytest.approx(whole["cost_usd"].sum())
    assert decisions(project) == decisions(straight)


def test_playing_again_asks_nothing_and_another_rubric_or_kind_asks_again(
    wide_home: Home, tmp_path: Path, ranker: ScriptedProvider
) -> None:
    def judged_by(rubric: str) -> PlayReport:
        return summarised(desk(wide_home, tmp_path / "home", ranker, rubric=rubric, format="round_robin"))

    judged_by("LONG")
    project = open_project(Home(tmp_path / "home"))
    asked, versions = ranker.calls, project.lake.versions()
    assert judged_by("LONG").calls_cached == 0 and ranker.calls == asked
    assert project.lake.versions() == versions
    judged_by("SHORT")
    assert ranker.calls > asked and longest_wins(project) == {False}
    asked = ranker.calls
    judged_by("LONG")
    assert ranker.calls == asked, "the first rubric's rankings are in the ledger"
    assert longest_wins(project) == {True}
    summarised(reopened(project.home, project.home.config.read_text().replace("kind: listwise, ", "")))
    assert ranker.calls > asked, "a ranking is not what a pairwise judge would say"


def test_a_new_answer_asks_its_own_matches_again_and_one_that_is_gone_none(
    wide_home: Home, tmp_path: Path, ranker: ScriptedProvider
) -> None:
    project = desk(wide_home, tmp_path / "home", ranker, format="round_robin")
    summarised(project)
    before, asked = verdicts(project), ranker.calls
    cells = project.lake.read(
        "replay_matrix", keep=(pl.col("step") == "summarise") & (pl.col("request_id") == "demo-01")
    )
    cell = cells.sort("cell_id").head(1)
    project.lake.merge("replay_matrix", cell.with_columns(answer=pl.lit("A new and much longer answer. " * 40)))
    summarised(project)
    again = verdicts(project).join(before, on=["verdict_id", "call_key"], how="anti")
    its = pl.col("cell_a").eq(cell["cell_id"].item()) | pl.col("cell_b").eq(cell["cell_id"].item())
    assert 0 < ranker.calls - asked <= again.height
    assert set(again["match_id"]) <= set(project.lake.read("matches", keep=its)["match_id"])
    assert longest_wins(project) == {True}
    asked = ranker.calls
    fewer = reopened(project.home, project.home.config.read_text().replace("offline/lead, ", ""))
    replay_stage.declare_strategies(fewer)
    assert summarised(fewer).steps["summarise"].strategies == 9 and ranker.calls == asked


def test_what_is_no_ranking_is_unscored_and_not_asked_again(
    wide_home: Home, tmp_path: Path, ranker: ScriptedProvider
) -> None:
    project = desk(wide_home, tmp_path / "home", ranker, rubric="MUMBLE")
    report = summarised(project)
    said = verdicts(project)
    assert report.steps["summarise"].unscored == said.height > ranker.calls
    assert set(said["verdict"]) == {"unscored"} and said["raw"].str.contains("Hm, well.", literal=True).all()
    asked = ranker.calls
    summarised(project)
    assert ranker.calls == asked


def test_a_list_that_is_refused_is_unscored_and_not_asked_again(
    wide_home: Home, tmp_path: Path, ranker: ScriptedProvider
) -> None:
    refused: list[str] = []

    def refuses(prompt: str) -> bool:
        if '"ranking"' in prompt and "Sure! Here" in prompt:
            refused.append(prompt)
            return True
        return False

    ranker.refuses = refuses
    project = desk(wide_home, tmp_path / "home", ranker)
    summarised(project)
    failed = verdicts(project).filter(pl.col("verdict") == "unscored")
    assert failed.height > len(set(refused)) > 0
    assert failed["rationale"].str.starts_with("The call failed, bad_request").all()
    asked = len(refused)
    summarised(project)
    assert len(refused) == asked and longest_wins(project) == {True}


def test_an_answer_that_speaks_to_its_judge_changes_no_lists_structure(
    wide_home: Home, tmp_path: Path, ranker: ScriptedProvider
) -> None:
    project = desk(wide_home, tmp_path / "home", ranker)
    cells = project.lake.read("replay_matrix", keep=pl.col("step") == "summarise").sort("cell_id")
    attacks = [text for text in INJECTIONS if text.strip() and "\ud800" not in text]
    said = [f"{attacks[k % len(attacks)]} {k}" if k % 2 else text for k, text in enumerate(cells["answer"])]
    project.lake.merge("replay_matrix", cells.with_columns(answer=pl.Series(said, dtype=pl.String)))
    summarised(project)
    shown = prompts(ranker)
    assert {text for answers in shown for text in answers} <= set(said)
    assert {len(answers) for answers in shown} <= set(range(2, LIST_SIZE + 1)) and max(map(len, shown)) == LIST_SIZE
    assert "unscored" not in set(verdicts(project)["verdict"])


def test_one_ranking_is_traced_to_all_its_matches_and_forgotten_with_its_request(
    wide_home: Home, tmp_path: Path, ranker: ScriptedProvider
) -> None:
    project = desk(wide_home, tmp_path / "home", ranker)
    summarised(project)
    said = verdicts(project)
    key, request = said.filter(pl.col("call_key").is_duplicated()).row(0, named=True)["call_key"], said["request_id"][0]
    own = said.filter(pl.col("call_key") == key)
    assert own.height > 1
    traced = trace(project.lake, key).tables
    assert set(traced["verdicts"]["verdict_id"]) >= set(own["verdict_id"])
    assert key in set(trace(project.lake, own["match_id"][0]).tables["calls"]["call_key"])
    forget(project.lake, project.home, request, journals=project.journals)
    gone, kept = said.filter(pl.col("request_id") == request), said.filter(pl.col("request_id") != request)
    left = set(project.lake.read("calls", ["call_key"])["call_key"])
    assert not set(gone["call_key"]) & left and set(kept["call_key"]) <= left
    assert verdicts(project).equals(kept)
