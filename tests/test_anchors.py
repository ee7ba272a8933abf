"""Real answers and preferences through import, ratings, reliability and pairs: a slice of what benchmarks/anchors.py runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import anchors
import polars as pl
import pytest
from anchor_data import ANCHORS, needs_anchors

from qbawa.cli.status_report import leaderboard
from qbawa.datasets import stage as datasets_stage
from qbawa.optimize import stage as optimize_stage
from qbawa.project import Home, Project, open_project
from qbawa.replay import stage as replay_stage
from qbawa.replay.stage import replay, wanted_cells
from qbawa.tournaments import stage as tournaments_stage
from qbawa.tournaments.stage import play

pytestmark = [needs_anchors, pytest.mark.slow]
MODELS, REQUESTS = 6, 40


@pytest.fixture(scope="module")
def tables() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Answers, preferences and what is published of six models from worst to best, and of the baseline."""
    answers, preferences, models = anchors.read_tables(ANCHORS, quick=False)
    judged = models.join(preferences.select("model").unique(), on="model", how="semi").drop_nulls("ae2_win_rate")
    ranked = judged.filter(~pl.col("model").is_in(preferences["baseline"].unique().implode())).sort("ae2_win_rate")
    chosen = ranked[[round(k * (ranked.height - 1) / (MODELS - 1)) for k in range(MODELS)]]["model"]
    preferences = preferences.filter(pl.col("model").is_in(chosen.implode()))
    requests = preferences["request_id"].unique().sort().head(REQUESTS)
    preferences = preferences.filter(pl.col("request_id").is_in(requests.implode()))
    both = pl.concat([chosen, preferences["baseline"].unique()])
    answers = answers.filter(
        pl.col("request_id").is_in(requests.implode()) & pl.col("model").is_in(both.unique().implode())
    )
    assert answers.height >= MODELS * REQUESTS and preferences.height >= MODELS * REQUESTS * 0.9
    return answers, preferences, models


@pytest.fixture(scope="module")
def turned(tables: tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]) -> Iterator[Project]:
    with TemporaryDirectory() as folder:
        home = Home(Path(folder))
        home.config.write_text(anchors.CONFIG.format(requests=REQUESTS))
        project = open_project(home)
        anchors.import_all(project, *tables[:2])
        turn(project)
        yield project


def turn(project: Project) -> None:
    replay_stage.choose_requests(project)
    replay_stage.declare_strategies(project)
    report = replay(project, wanted_cells(project.lake), run_id="turn")
    assert report.calls_paid == report.failed == report.missing == 0
    play(project, run_id="turn")
    tournaments_stage.rate_strategies(project)
    tournaments_stage.rate_judges(project)
    datasets_stage.build_qbawa(project)
    datasets_stage.export_datasets(project)
    optimize_stage.promote(project)


def test_every_answer_becomes_a_cell_and_every_preference_a_verdict(
    turned: Project, tables: tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]
) -> None:
    answers, preferences, _ = tables
    given = answers.select("request_id", "model", "output").rows()
    held = turned.lake.query(
        "SELECT request_id, name, answer FROM replay_matrix JOIN strategies USING (strategy_id) WHERE status = 'ok'"
    )
    assert sorted(held.rows()) == sorted(given)
    verdicts = turned.lake.read("verdicts")
    assert verdicts.height == preferences.height and set(verdicts["judge_kind"]) == {"imported"}
    assert turned.lake.read("replay_set").height == REQUESTS


def test_ratings_order_models_as_published(
    turned: Project, tables: tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]
) -> None:
    _, preferences, models = tables
    published, _ = anchors.compare(turned, preferences, models, ANCHORS)
    assert published >= 0.7, "of all 805 requests; six models on forty of them cannot do much better"
    wins = preferences.group_by("model").agg(rate=pl.col("p_model_wins").mean())
    ours = leaderboard(turned).join(wins, left_on="name", right_on="model")
    assert ours.height == MODELS and ours["rate"].is_sorted(descending=True), ours
    board = leaderboard(turned)
    assert board.height >= MODELS + 1
    assert board["matches"].min() >= REQUESTS * 0.9  # type: ignore[operator]
    assert (board["low"] < board["strength"]).all() and (board["strength"] < board["high"]).all()


def test_pairs_hold_real_answers_the_better_one_first(turned: Project) -> None:
    pairs = turned.lake.read("qbawa")
    assert pairs.height > REQUESTS and pairs["p_best"].min() >= 0.6  # type: ignore[operator]
    answers = set(turned.lake.read("replay_matrix")["answer"])
    assert set(pairs["best_answer"]) | set(pairs["worse_answer"]) <= answers
    strength = dict(turned.lake.read("ratings", ["strategy_id", "strength"]).iter_rows())
    ahead = [strength[b] > strength[w] for b, w in pairs.select("best_strategy", "worse_strategy").iter_rows()]
    assert sum(ahead) / len(ahead) > 0.6


def test_a_second_import_and_turn_change_nothing(
    turned: Project, tables: tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]
) -> None:
    versions = turned.lake.versions()
    anchors.import_all(turned, *tables[:2])
    turn(turned)
    assert turned.lake.versions() == versions
