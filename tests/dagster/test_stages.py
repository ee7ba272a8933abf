"""The stages of the flywheel: the same twice changes nothing, what is unchanged is skipped, champions are earned."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from newsdesk import CONFIG, REQUESTS, newsdesk, reopened

from qbawa.cli.checks import Finding, examine
from qbawa.cli.status_report import leaderboard, read_status, surest_close_pair
from qbawa.config import ChampionConfig
from qbawa.datasets import stage as datasets_stage
from qbawa.errors import InputError
from qbawa.ids import recorded_id
from qbawa.ingest import stage as ingest_stage
from qbawa.optimize import stage as optimize_stage
from qbawa.optimize.champions import promotions
from qbawa.project import Home, Project, open_project
from qbawa.replay import stage as replay_stage
from qbawa.storage.frames import frame, now
from qbawa.tournaments import stage as tournaments_stage
from qbawa.tournaments.ratings import fit_ratings
from qbawa.tournaments.stage import play
from qbawa_assets import staleness
from qbawa_assets.staleness import Unchanged

DATASETS = """
datasets:
  dpo: {steps: [summarise], p_best: 0.8}
  sure: {p_best: 1.0, where: "p_best > 2"}
champions: {p_better: 0.9}
"""


@pytest.fixture(scope="module")
def turned() -> Iterator[Home]:
    """A newsdesk whose flywheel has turned once, without Dagster."""
    with tempfile.TemporaryDirectory() as folder:
        project = newsdesk(Path(folder), DATASETS)
        turn(project)
        yield project.home


def turn(project: Project) -> None:
    ingest_stage.ingest(project, ingest_stage.new_batches(project))
    replay_stage.choose_requests(project)
    replay_stage.declare_strategies(project)
    play(project, run_id="turn")
    tournaments_stage.take_human_verdicts(project)
    tournaments_stage.rate_strategies(project)
    tournaments_stage.rate_judges(project)
    datasets_stage.build_qbawa(project)
    datasets_stage.export_datasets(project)
    optimize_stage.promote(project)


@pytest.fixture
def project(turned: Home, tmp_path: Path) -> Project:
    """A copy of it."""
    shutil.copytree(turned.root, tmp_path / "home")
    return open_project(Home(tmp_path / "home"))


# ── twice the same ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("compacted", [False, True])
def test_a_second_turn_changes_no_table_and_no_dataset(project: Project, compacted: bool) -> None:
    if compacted:  # which writes the rows in another order
        project.lake.maintain()
    versions = project.lake.versions()
    turn(project)
    assert project.lake.versions() == versions


def test_choosing_again_keeps_the_choice_and_a_smaller_size_keeps_a_part_of_it(project: Project) -> None:
    before = project.lake.read("replay_set")
    again = replay_stage.choose_requests(project)
    assert again.rows.sort("step", "request_id").equals(before.sort("step", "request_id"))
    assert again.request_ids == sorted(set(before["request_id"])) and len(again.request_ids) == REQUESTS
    assert sum(again.reasons.values()) == before.height and set(again.pictures) == {"summarise", "triage"}
    fewer = replay_stage.choose_requests(reopened(project.home, CONFIG + "replay_set: {size: 3}"))
    assert fewer.rows.group_by("step").len()["len"].to_list() == [3, 3]
    assert fewer.rows.join(before, on=["step", "request_id", "chosen_at"], how="anti").is_empty()


def test_declaring_says_what_is_active_and_keeps_what_left(project: Project) -> None:
    before = project.lake.read("strategies")
    active = replay_stage.declare_strategies(reopened(project.home, CONFIG.replace(", offline/chatty", "")))
    assert set(before["name"]) - set(active["name"]) == {"plain/chatty"}
    after = project.lake.read("strategies")
    assert after.filter(~pl.col("active"))["name"].to_list() == ["plain/chatty"]
    replay_stage.declare_strategies(reopened(project.home, CONFIG))
    assert project.lake.read("strategies").sort("strategy_id").equals(before.sort("strategy_id"))


def test_a_rubric_that_is_no_template_stops_before_anything_is_declared(project: Project) -> None:
    versions = project.lake.versions()
    broken = CONFIG + "steps: {triage: {rubric: 'Which suits {{ ticket'}}"
    with pytest.raises(Exception, match=r"steps\.triage\.rubric") as raised:
        replay_stage.declare_strategies(reopened(project.home, broken))
    assert type(raised.value).__mro__[1].__name__ == "UserError"
    assert project.lake.versions() == versions


def test_verdicts_of_a_judge_that_has_left_do_not_count_as_unscored(project: Project) -> None:
    lake = project.lake
    assert set(tournaments_stage.rate_strategies(project).unscored_shares.values()) == {0.0}
    said = lake.read("verdicts").with_columns(
        verdict_id="gone-" + pl.col("verdict_id"), judge=pl.lit("gone"), verdict=pl.lit("unscored")
    )
    lake.merge("verdicts", said)
    play(project, run_id="again")
    rated = tournaments_stage.rate_strategies(project)
    assert set(rated.unscored_shares.values()) == {0.0}
    assert all("gone" not in [bias.judge for bias in biases] for biases in rated.position_biases.values())


def test_unreadable_verdicts_that_count_are_a_share_of_those_that_count(project: Project) -> None:
    lake = project.lake
    matches = lake.read("matches")
    lake.merge("matches", matches.with_columns(unscored=pl.col("verdicts")))
    judged = matches.filter(pl.col("verdicts") > 0)["step"].unique()
    assert tournaments_stage.rate_strategies(project).unscored_shares == dict.fromkeys(judged, 0.5)


def test_pairs_built_again_are_the_same_pairs_in_the_same_splits(project: Project) -> None:
    before = project.lake.read("qbawa").sort("pair_id")
    assert before.height and before["pair_id"].is_unique().all()
    report = datasets_stage.build_qbawa(project)
    columns = [name for name in before.columns if name != "built_at"]
    assert report.pairs.sort("pair_id").select(columns).equals(before.select(columns))
    splits = before.group_by("request_id").agg(pl.col("split").n_unique())
    assert set(splits["split"]) == {1}, "a request has one split, whatever the step"


def test_splits_that_were_given_stay_though_the_shares_change(project: Project) -> None:
    before = dict(project.lake.read("qbawa", ["request_id", "split"]).iter_rows())
    datasets_stage.build_qbawa(reopened(project.home, CONFIG + "pairs: {splits: {test: 1.0}}"))
    after = dict(project.lake.read("qbawa", ["request_id", "split"]).iter_rows())
    assert after == before


def test_an_export_again_is_the_same_version_and_other_pairs_are_another(project: Project) -> None:
    first = project.lake.read("datasets")
    assert first["dataset"].to_list() == ["dpo"]
    again = datasets_stage.export_datasets(project, ["dpo"])
    assert again.rows["version"].to_list() == first["version"].to_list() and not again.refused
    assert project.lake.read("datasets").equals(first)
    other = datasets_stage.export_datasets(reopened(project.home, CONFIG + DATASETS.replace("0.8", "0.7")), ["dpo"])
    assert other.rows["version"].item() != first["version"].item()
    assert project.lake.read("datasets").height == 2
    assert {path.name for path in (project.home.exports / "dpo").iterdir()} == set(
        project.lake.read("datasets")["version"]
    )


def test_a_dataset_that_would_be_empty_is_refused_and_the_others_are_written(project: Project) -> None:
    exported = datasets_stage.export_datasets(project)
    assert exported.rows["dataset"].to_list() == ["dpo"]
    assert set(exported.refused) == {"sure"} and "would be empty" in exported.refused["sure"]
    with pytest.raises(InputError, match=r"declares no dataset 'dop'\. Declared: dpo, sure"):
        datasets_stage.export_datasets(project, ["dpo", "dop"])


def test_an_empty_home_turns_without_complaint(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.config.write_text("")
    project = open_project(home)
    turn(project)
    assert sum(read_status(project).rows.values()) == 0
    assert replay_stage.matrix_picture(project) is None and tournaments_stage.bracket_picture(project, "r1") is None
    assert surest_close_pair(project) is None and leaderboard(project).is_empty()


# ── what is skipped ──────────────────────────────────────────────────────────────────────────────────────────────────

READS, WRITES = ("matches", "verdicts"), "ratings"


def ran(project: Project, stage: str = "rate") -> None:
    Unchanged(project).note(stage, READS, WRITES)


def since(project: Project, stage: str = "rate") -> bool:
    return Unchanged(project).since(stage, READS, WRITES)


def touch(project: Project, table: str) -> None:
    project.lake.merge(table, frame(table, [{"block_id": "touched", project.lake.read(table).columns[0]: str(now())}]))


def test_a_stage_is_skipped_only_after_it_ran_on_what_is_there(project: Project) -> None:
    assert not since(project)
    ran(project)
    assert since(project) and not since(project, "another stage")
    touch(project, "feedback")
    assert since(project), "a table that it does not read"


@pytest.mark.parametrize("table", [*READS, WRITES])
def test_a_stage_runs_again_where_a_table_that_it_reads_or_writes_has_changed(project: Project, table: str) -> None:
    ran(project)
    touch(project, table)
    assert not since(project)
    ran(project)
    assert since(project)


def test_a_stage_runs_again_under_another_configuration(project: Project) -> None:
    ran(project)
    changed = reopened(project.home, CONFIG + DATASETS.replace("0.9", "0.91"))
    assert not since(changed)
    assert since(reopened(project.home, CONFIG + DATASETS + "# a remark\n"))


def test_a_stage_runs_again_under_another_version_of_qbawa(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    ran(project)
    monkeypatch.setattr(staleness, "__version__", "0.0.1")
    assert not since(project), "newer code may come to another result from the same tables"
    ran(project)
    assert since(project)


def test_what_is_written_while_a_stage_runs_is_seen_by_the_next_run(project: Project) -> None:
    unchanged = Unchanged(project)
    touch(project, "matches")  # by another process, after the stage has read
    touch(project, "ratings")  # by the stage itself
    unchanged.note("rate", READS, WRITES)
    assert not since(project)
    ran(project)
    assert since(project)


@pytest.mark.parametrize("content", [None, "", "not json", "[1]", '{"rate": 5}'])
def test_a_lost_or_broken_note_only_means_doing_it_once_more(project: Project, content: str | None) -> None:
    ran(project)
    path = project.home.root / "stages.json"
    path.unlink() if content is None else path.write_text(content)
    assert not since(project)
    ran(project)
    assert since(project) and [p.name for p in path.parent.glob("stages*")] == ["stages.json"]


# ── champions ────────────────────────────────────────────────────────────────────────────────────────────────────────


def field(wins: Mapping[tuple[str, str], tuple[int, int]]) -> pl.DataFrame:
    """Matches of the step `s`: (a, b) → how often a and b won; every match on a request of its own."""
    rows = []
    for (a, b), (for_a, for_b) in wins.items():
        for n in range(for_a + for_b):
            winner = "a" if n < for_a else "b"
            rows.append({"match_id": f"{a}{b}{n}", "request_id": f"r{n}", "step": "s", "strategy_a": a, "strategy_b": b,
                         "winner": winner, "p_a": float(winner == "a"), "verdicts": 1, "block_id": "r"})  # fmt: skip
    return frame("matches", rows)


def promoted(
    matches: pl.DataFrame,
    costs: Mapping[str, float] | None = None,
    reigning: Sequence[str] = (),
    **config: Any,
) -> list[dict[str, Any]]:
    fit = fit_ratings(matches)
    table = fit.table.with_columns(
        step=pl.lit("s"),
        mean_cost_usd=pl.col("strategy_id").replace_strict(costs or {}, default=1.0, return_dtype=pl.Float64),
        mean_latency_s=pl.lit(1.0),
    )
    champions = frame("champions", [{"step": "s", "strategy_id": name, "promoted_at": now()} for name in reigning])
    return list(promotions({"s": fit}, table, champions, ChampionConfig(**config)))


HERE = recorded_id("s")
CLEAR = {("best", HERE): (28, 2), ("best", "fair"): (24, 6), ("fair", HERE): (24, 6)}


def test_the_best_strategy_dethrones_production_where_it_is_surely_better() -> None:
    [row] = promoted(field(CLEAR))
    assert (row["step"], row["strategy_id"], row["beat_strategy_id"]) == ("s", "best", HERE)
    assert 0.95 <= row["p_better"] <= 1
    evidence = json.loads(row["evidence"])
    assert evidence["new"]["strategy_id"] == "best" and evidence["before"]["strategy_id"] == HERE
    assert evidence["new"]["strength"] > evidence["before"]["strength"]


def test_a_champion_stays_until_one_is_surely_better() -> None:
    assert promoted(field({("best", HERE): (4, 3)})) == []
    assert promoted(field(CLEAR), reigning=["best"]) == []
    [row] = promoted(field(CLEAR), reigning=["best", "fair"])
    assert (row["strategy_id"], row["beat_strategy_id"]) == ("best", "fair"), "the newest promotion reigns"
    assert promoted(field({("best", HERE): (10, 5)}), p_better=0.999) == []


def test_a_strategy_that_costs_too_much_is_passed_over_for_the_next() -> None:
    costs = {HERE: 1.0, "best": 5.0, "fair": 1.5}
    assert promoted(field(CLEAR), costs, max_cost_ratio=5.0)[0]["strategy_id"] == "best"
    assert promoted(field(CLEAR), costs, max_cost_ratio=2.0)[0]["strategy_id"] == "fair"
    assert promoted(field(CLEAR), costs, max_cost_ratio=1.0) == []


def test_a_champion_that_was_never_rated_is_replaced_by_none() -> None:
    assert promoted(field({("best", "fair"): (30, 0)})) == []
    assert promoted(field(CLEAR), reigning=["elsewhere"]) == []


def test_a_strategy_that_never_met_the_champion_replaces_none() -> None:
    apart = field({("best", "poor"): (30, 0), ("fair", HERE): (15, 15)})
    assert promoted(apart) == []


def test_promoting_twice_promotes_once(project: Project) -> None:
    champions = project.lake.read("champions")
    assert champions.height
    assert optimize_stage.promote(project).is_empty()
    assert project.lake.read("champions").equals(champions)
    board = leaderboard(project)
    crowned = board.filter("champion").select("step", "strategy_id").rows()
    assert sorted(crowned) == sorted(champions.select("step", "strategy_id").rows())


# ── status, doctor ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_status_says_what_the_lake_holds(project: Project) -> None:
    status = read_status(project)
    assert json.loads(json.dumps(status.as_json()))["rows"] == status.rows
    for table, count in status.rows.items():
        assert project.lake.read(table).height == count, table
    assert status.cells.rows() == [("summarise", REQUESTS * 5, 0, 0, 0), ("triage", REQUESTS * 3, 0, 0, 0)]
    assert status.cost_usd == 0 and status.home == str(project.home.root)
    for (_,), rows in status.leaderboard.group_by("step", maintain_order=True):
        assert rows["rank"].is_sorted() and rows["strength"].is_sorted(descending=True)
    project.lake.delete("replay_matrix", "request_id = 'demo-01'")
    assert read_status(project).cells["missing"].to_list() == [5, 3]


def test_the_pair_that_the_demo_shows_is_one_of_the_lakes(project: Project) -> None:
    pair = surest_close_pair(project)
    assert pair is not None
    row = project.lake.read("qbawa", keep=pl.col("pair_id") == pair["pair_id"]).row(0, named=True)
    assert {name: pair[name] for name in ("best_answer", "worse_answer", "p_best")} == {
        name: row[name] for name in ("best_answer", "worse_answer", "p_best")
    }
    assert pair["best_name"] and pair["worse_name"]


def findings(home: Home) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(home)}


def test_the_doctor_finds_a_missing_key_and_never_shows_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    home.config.write_text("models: {m: {api_key_env: QBAWA_TEST_KEY}, n: {free: true}}")
    monkeypatch.delenv("QBAWA_TEST_KEY", raising=False)
    missing = findings(home)["key of m"]
    assert missing.found == "$QBAWA_TEST_KEY is not set" and "export QBAWA_TEST_KEY=" in missing.cure
    monkeypatch.setenv("QBAWA_TEST_KEY", "sk-very-secret")
    found = findings(home)
    assert found["key of m"].cure == "" and "key of n" not in found
    assert not any("sk-very-secret" in str(finding) for finding in found.values())


def test_the_doctor_says_what_is_wrong_with_the_configuration_and_goes_on(tmp_path: Path) -> None:
    home = Home(tmp_path / "nowhere")
    found = findings(home)
    assert "There is no" in found["configuration"].found and "qbawa init" in found["configuration"].cure
    assert "deltalake" in found and not found["deltalake"].cure
    home.root.mkdir()
    home.config.write_text("budget: {usd_per_day: x}")
    found = findings(home)
    assert "budget.usd_per_day" in found["configuration"].found and found["configuration"].cure
    assert found["lake"].cure


def test_the_doctor_sees_a_port_in_use(tmp_path: Path) -> None:
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        [busy] = [finding for finding in examine(Home(tmp_path), port) if finding.what == "port of the UI"]
    assert "in use" in busy.found and busy.cure
