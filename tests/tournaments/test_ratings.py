"""Bradley–Terry strengths, their intervals, and what is said about ranks."""

import numpy as np
import polars as pl
import pytest
from anchor_data import ANCHORS, needs_anchors
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from qbawa.errors import DisconnectedError, InputError
from qbawa.tournaments.ratings import bradley_terry, fit_ratings, rate
from qbawa.tournaments.ratings.design import Design
from qbawa.tournaments.ratings.intervals import clustered
from qbawa.tournaments.ratings.newton import maximise
from qbawa.tournaments.ratings.rows import Rows

SCHEMA = {
    "request_id": pl.String,
    "strategy_a": pl.String,
    "strategy_b": pl.String,
    "p_a": pl.Float64,
    "shown_first": pl.String,
    "length_a": pl.Int64,
    "length_b": pl.Int64,
}

# Explaining a failure takes minutes here and says little.
LAW = settings(deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])

match_rows = st.tuples(
    st.sampled_from([f"r{k}" for k in range(5)]),
    st.sampled_from("vwxyz"),
    st.sampled_from("vwxyz"),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.sampled_from(["a", "b", None]),
    st.integers(1, 500),
    st.integers(1, 500),
).filter(lambda row: row[1] != row[2])
fields = st.lists(match_rows, min_size=1, max_size=40).map(lambda rows: pl.DataFrame(rows, schema=SCHEMA, orient="row"))


def simulate(
    rng: np.random.Generator,
    strength: np.ndarray,
    requests: int,
    *,
    order: float = 0.0,
    length: float = 0.0,
    luck: float = 0.0,
    padded: int = 0,
) -> pl.DataFrame:
    """Every pair once a request; the first strategy's answers are `padded` characters longer."""
    size = len(strength)
    i, j = np.triu_indices(size, 1)
    quality = strength + rng.normal(0, luck, (requests, size))
    lengths = rng.integers(200, 1800, (requests, size)) + padded * (np.arange(size) == 0)
    first = rng.choice([0.5, -0.5], (requests, len(i)))
    gap = lengths[:, i] - lengths[:, j]
    logit = quality[:, i] - quality[:, j] + order * first + length * np.tanh(gap / np.sqrt(np.mean(gap**2.0)))
    won = rng.random(logit.shape) < 1 / (1 + np.exp(-logit))
    request, pair = np.nonzero(np.ones_like(won))
    return pl.DataFrame(
        {
            "request_id": [f"r{k}" for k in request],
            "strategy_a": [f"s{k}" for k in i[pair]],
            "strategy_b": [f"s{k}" for k in j[pair]],
            "p_a": won.ravel().astype(float),
            "shown_first": np.where(first.ravel() > 0, "a", "b"),
            "length_a": lengths[:, i].ravel(),
            "length_b": lengths[:, j].ravel(),
        }
    )


def same(left: pl.DataFrame, right: pl.DataFrame) -> None:
    left, right = left.sort("strategy_id"), right.sort("strategy_id")
    assert left["strategy_id"].to_list() == right["strategy_id"].to_list()
    for column in ("strength", "low", "high", "win_rate"):
        np.testing.assert_allclose(left[column], right[column], atol=2e-4, rtol=2e-4)
    assert left["component"].to_list() == right["component"].to_list()


# Home and away wins of the American League's eastern division, 1987: Agresti, Categorical Data Analysis, 2nd ed.,
# tables 10.10 and 10.11; strengths and home advantage as fitted there and in the BradleyTerry2 package's vignette.
TEAMS = ["Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore"]
HOME = [
    "--- 4-3 4-2 4-3 6-1 4-2 6-0",
    "3-3 --- 4-2 4-3 6-0 6-1 4-3",
    "2-5 4-3 --- 2-4 4-3 4-2 6-0",
    "3-3 5-1 2-5 --- 4-3 4-2 6-1",
    "5-1 2-5 3-3 4-2 --- 5-2 6-0",
    "2-5 3-3 3-4 4-3 4-2 --- 2-4",
    "2-5 1-5 1-6 2-4 1-6 3-4 ---",
]
PUBLISHED = [1.5814, 1.4364, 1.2945, 1.2476, 1.1077, 0.6839, 0.0]
PUBLISHED_AT_HOME = [1.6196, 1.4754, 1.3271, 1.2813, 1.1438, 0.7047, 0.0]


def baseball() -> list[tuple[int, int, float, float]]:
    """(home, away, home wins, games)."""
    rows = []
    for home, line in enumerate(HOME):
        for away, cell in enumerate(line.split()):
            if home != away:
                won, lost = map(int, cell.split("-"))
                rows.append((home, away, float(won), float(won + lost)))
    return rows


def test_strengths_of_the_1987_league_are_those_published() -> None:
    wins = np.zeros((7, 7))
    for home, away, won, games in baseball():
        wins[home, away] += won
        wins[away, home] += games - won
    rating = bradley_terry(wins)
    assert [TEAMS[k] for k in rating.order] == TEAMS
    np.testing.assert_allclose(rating.strength - rating.strength[-1], PUBLISHED, atol=6e-5)
    assert abs(rating.strength.mean()) < 1e-12


def test_home_advantage_of_the_1987_league_is_the_one_published() -> None:
    home, away, won, games = (np.array(column) for column in zip(*baseball(), strict=True))
    at_home = (np.zeros(len(home), dtype=np.int64), np.ones(len(home)))
    design = Design.of_pairs(home, away, 7, at_home, ridge=np.zeros(1))
    fit = maximise(design, won, games, firth=False)
    np.testing.assert_allclose(fit.theta[:7] - fit.theta[6], PUBLISHED_AT_HOME, atol=6e-5)
    assert abs(fit.theta[7] - 0.3023) < 6e-5


@settings(LAW, max_examples=40)
@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_newton_agrees_with_evalica(size: int, seed: int) -> None:
    import evalica  # with it pandas: no other test need wait for them

    rng = np.random.default_rng(seed)
    i, j = np.triu_indices(size, 1)
    a, b = np.tile(i, 20), np.tile(j, 20)
    won = rng.choice([0.0, 0.5, 1.0], len(a))
    wins = np.full((size, size), 0.0)
    np.add.at(wins, (a, b), won)
    np.add.at(wins, (b, a), 1 - won)
    if bradley_terry(wins).separated:
        return
    winners = [{0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw, 1.0: evalica.Winner.X}[w] for w in won.tolist()]
    names = [chr(97 + k) for k in range(size)]
    scores = evalica.bradley_terry(
        [names[k] for k in a], [names[k] for k in b], winners, tie_weight=0.5, tolerance=1e-10, limit=100_000
    ).scores.sort_index()
    theirs = np.log(scores.to_numpy())
    np.testing.assert_allclose(bradley_terry(wins).strength, theirs - theirs.mean(), atol=1e-4)


def test_fields_that_never_met_are_refused_by_name() -> None:
    wins = np.zeros((4, 4))
    wins[0, 1] = wins[1, 0] = wins[2, 3] = wins[3, 2] = 1
    with pytest.raises(DisconnectedError, match=r"\[2, 3\].*2 separate fields"):
        bradley_terry(wins)


def test_who_won_everything_has_a_finite_strength() -> None:
    wins = np.array([[0, 10, 10], [0, 0, 5], [0, 5, 0]], dtype=float)
    rating = bradley_terry(wins)
    assert rating.separated and rating.order[0] == 0
    assert 2 < rating.strength[0] - rating.strength[1] < 6


@settings(LAW, max_examples=40)
@given(fields, st.randoms(use_true_random=False), st.booleans())
def test_order_of_matches_does_not_change_a_rating(matches: pl.DataFrame, random: object, length: bool) -> None:
    rows = list(range(matches.height))
    random.shuffle(rows)  # type: ignore[attr-defined]
    same(rate(matches, length_effect=length), rate(matches[rows], length_effect=length))


@settings(LAW, max_examples=40)
@given(fields, st.booleans())
def test_swapping_a_and_b_does_not_change_a_rating(matches: pl.DataFrame, length: bool) -> None:
    swapped = matches.select(
        "request_id",
        strategy_a="strategy_b",
        strategy_b="strategy_a",
        p_a=1 - pl.col("p_a"),
        shown_first=pl.col("shown_first").replace({"a": "b", "b": "a"}),
        length_a="length_b",
        length_b="length_a",
    )
    same(rate(matches, length_effect=length), rate(swapped, length_effect=length))


@settings(LAW, max_examples=30)
@given(fields)
def test_reversing_every_result_reverses_the_strengths(matches: pl.DataFrame) -> None:
    plain = matches.drop("shown_first")
    forward, back = rate(plain).sort("strategy_id"), rate(plain.with_columns(p_a=1 - pl.col("p_a"))).sort("strategy_id")
    np.testing.assert_allclose(forward["strength"], -back["strength"], atol=1e-5)


@settings(LAW, max_examples=30)
@given(fields, st.lists(match_rows, max_size=10))
def test_an_unscored_match_changes_nothing(matches: pl.DataFrame, more: list[tuple]) -> None:
    unscored = pl.DataFrame(more, schema=SCHEMA, orient="row").with_columns(p_a=pl.lit(None, dtype=pl.Float64))
    assert rate(pl.concat([unscored, matches])).equals(rate(matches))


@settings(LAW, max_examples=30)
@given(fields)
def test_what_is_said_about_ranks_is_consistent(matches: pl.DataFrame) -> None:
    table = rate(matches)
    assert (table["low"] <= table["strength"]).all() and (table["strength"] <= table["high"]).all()
    assert (table["rank_low"] <= table["rank"]).all() and (table["rank"] <= table["rank_high"]).all()
    assert table["win_rate"].is_between(0, 1).all()
    for _, field in table.group_by("component"):
        ranked = field.sort("rank")
        assert ranked["rank"].to_list() == list(range(1, field.height + 1))
        assert (np.diff(ranked["strength"].to_numpy()) <= 1e-8).all()
        assert abs(float(np.mean(ranked["strength"].to_numpy()))) < 1e-9
        assert ranked["separable_group"][0] == 1
        best = ranked.filter(pl.col("separable_group") == 1)
        assert (best["rank_low"] <= best.height).all()


def test_a_tie_is_half_a_win_and_half_a_loss() -> None:
    ties = np.array([[0, 3.5, 1], [1.5, 0, 2], [2, 2, 0]])
    as_tie = [("x", "y", 0.5)] + [("x", "y", 1.0)] * 3 + [("y", "x", 1.0)] + [("x", "z", 1.0)] + [("z", "x", 1.0)] * 2
    as_tie += [("y", "z", 1.0)] * 2 + [("z", "y", 1.0)] * 2
    wins = np.zeros((3, 3))
    for a, b, p in as_tie:
        wins["xyz".index(a), "xyz".index(b)] += p
        wins["xyz".index(b), "xyz".index(a)] += 1 - p
    np.testing.assert_array_equal(wins, ties)
    assert bradley_terry(np.full((3, 3), 0.5) - np.eye(3) / 2).strength == pytest.approx([0, 0, 0])


def test_planted_order_effect_is_recovered_and_does_not_bend_the_strengths() -> None:
    rng = np.random.default_rng(5)
    strength = np.array([0.6, 0.2, -0.2, -0.6])
    fit = fit_ratings(simulate(rng, strength, 600, order=0.5))
    assert fit.order_effect is not None
    assert fit.order_effect.low < 0.5 < fit.order_effect.high
    assert fit.order_effect.high - fit.order_effect.low < 0.5
    assert fit.order_effect.points == pytest.approx(100 / (1 + np.exp(-0.25)) - 50, abs=2)
    np.testing.assert_allclose(fit.strength, strength, atol=0.12)


def test_a_strategy_does_not_win_by_being_shown_second() -> None:
    rng = np.random.default_rng(6)
    matches = simulate(rng, np.zeros(2), 1500, order=-1.0)
    # s0 is shown second four times out of five.
    seldom = matches.filter((pl.col("shown_first") == "b") | (pl.int_range(pl.len()) % 4 == 0))
    blind = rate(seldom.drop("shown_first")).sort("strategy_id")
    fair = rate(seldom).sort("strategy_id")
    assert blind["low"][0] > 0, "without the order it seems better"
    assert fair["low"][0] < 0 < fair["high"][0]


def test_planted_length_effect_is_recovered_and_padding_does_not_win() -> None:
    rng = np.random.default_rng(7)
    matches = simulate(rng, np.zeros(4), 400, length=1.0, padded=800)
    raw, even = fit_ratings(matches), fit_ratings(matches, length_effect=True)
    assert raw.length_effect is None and even.length_effect is not None
    assert even.length_effect.low < 1.0 < even.length_effect.high
    assert raw.table["strategy_id"][0] == "s0" and raw.table["low"][0] > 0.3
    padded = even.table.filter(pl.col("strategy_id") == "s0")
    assert padded["low"][0] < 0 < padded["high"][0]


def test_length_effect_that_is_not_there_is_not_found() -> None:
    matches = simulate(np.random.default_rng(8), np.array([0.5, 0, -0.5]), 400)
    effect = fit_ratings(matches, length_effect=True).length_effect
    assert effect is not None and effect.low < 0 < effect.high


def test_matches_without_lengths_are_left_out_of_a_length_fit() -> None:
    matches = simulate(np.random.default_rng(9), np.zeros(3), 20)
    lacking = matches.with_columns(length_a=pl.when(pl.col("request_id") == "r0").then(None).otherwise("length_a"))
    same(rate(lacking, length_effect=True), rate(matches.filter(pl.col("request_id") != "r0"), length_effect=True))


def test_intervals_grow_where_requests_share_luck() -> None:
    rng = np.random.default_rng(10)
    matches = simulate(rng, np.zeros(8), 60, luck=1.5)
    alone = matches.with_columns(request_id=pl.int_range(pl.len()).cast(pl.String))
    width = [(t["high"] - t["low"]).mean() for t in (rate(matches), rate(alone))]
    assert width[0] > 1.3 * width[1]


@pytest.mark.parametrize(("requests", "least"), [(6, 0.90), (60, 0.92)])
def test_intervals_cover_the_truth(requests: int, least: float) -> None:
    rng = np.random.default_rng(11)
    held = []
    for _ in range(120):
        table = rate(simulate(rng, np.zeros(6), requests, luck=1.0).drop("shown_first"))
        held.append(((table["low"] <= 0) & (table["high"] >= 0)).mean())
    assert least <= np.mean(held) <= 0.99


def test_rank_ranges_of_equal_strategies_hold_every_rank() -> None:
    rng = np.random.default_rng(12)
    whole = []
    for _ in range(60):
        table = rate(simulate(rng, np.zeros(6), 40, luck=0.5))
        whole.append(((table["rank_low"] == 1) & (table["rank_high"] == 6)).mean())
    assert np.mean(whole) >= 0.93


def test_clearly_different_strategies_are_separated() -> None:
    table = rate(simulate(np.random.default_rng(13), np.array([2.0, 0.0, 0.0, -2.0]), 200))
    assert table["strategy_id"][0] == "s0" and table["strategy_id"][3] == "s3"
    assert table["separable_group"].to_list() == [1, 2, 2, 3]
    assert table["rank_low"].to_list() == [1, 2, 2, 4] and table["rank_high"].to_list() == [1, 3, 3, 4]


def test_leaving_out_one_request_is_what_the_jackknife_says() -> None:
    """The iteration gives the same change as solving for each fold: (1 − V I_g) d = V u_g."""
    rows = Rows.of(simulate(np.random.default_rng(14), np.array([0.5, 0.0, -0.5]), 7, order=0.3), False)
    design = rows.design()
    fit = maximise(*rows.aggregate())
    x = np.zeros((len(rows.a), design.width))
    for column, value in design.terms:
        x[np.arange(len(value)), column] += value
    p = 1 / (1 + np.exp(-x @ fit.theta))
    meat = np.zeros_like(fit.covariance)
    for g in range(7):
        here = rows.request == g
        own = (x[here].T * (p * (1 - p))[here]) @ x[here]
        score = x[here].T @ (rows.outcome - p)[here]
        d = np.linalg.solve(np.eye(design.width) - fit.covariance @ own, fit.covariance @ score)
        meat += np.outer(d, d)
    expected = meat * 6 / 7 + fit.covariance @ fit.prior_meat @ fit.covariance
    np.testing.assert_allclose(clustered(design, fit, rows.outcome).covariance, expected, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("length", [False, True])
def test_how_many_requests_fit_in_memory_changes_nothing(length: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    matches = simulate(np.random.default_rng(18), np.array([0.5, 0.0, 0.0, -0.5]), 40, order=0.3, length=0.5)
    matches = pl.concat(
        [matches, matches.filter(pl.col("strategy_a") == "s0").with_columns(pl.col("request_id") + "x")]
    )
    whole = rate(matches, length_effect=length)
    monkeypatch.setattr("qbawa.tournaments.ratings.design.BLOCK", 60)
    same(whole, rate(matches, length_effect=length))


def test_fields_that_never_met_are_rated_apart_and_said_to_be() -> None:
    one = simulate(np.random.default_rng(15), np.array([1.0, 0.0, -1.0]), 30)
    other = one.with_columns(pl.col("strategy_a", "strategy_b").str.replace("s", "t")).filter(
        (pl.col("strategy_a") != "t2") & (pl.col("strategy_b") != "t2")
    )
    table = rate(pl.concat([one, other]))
    assert dict(table.select("strategy_id", "component").iter_rows()) == {
        **{f"s{k}": 1 for k in range(3)},
        **{f"t{k}": 2 for k in range(2)},
    }
    assert table.filter(pl.col("component") == 2)["rank"].to_list() == [1, 2]
    assert rate(one)["component"].unique().to_list() == [0]
    with pytest.raises(DisconnectedError, match="'s0' and 't0' never met"):
        fit_ratings(pl.concat([one, other])).p_better("s0", "t0")


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_a_single_match_is_rated_with_a_wide_interval(p: float) -> None:
    table = rate(pl.DataFrame({"request_id": ["r"], "strategy_a": ["x"], "strategy_b": ["y"], "p_a": [p]}))
    assert np.isfinite(table.select("strength", "low", "high").to_numpy()).all()
    assert (table["rank_low"] == 1).all() and (table["rank_high"] == 2).all()


def test_winning_every_match_leaves_doubt() -> None:
    matches = pl.DataFrame(
        {"request_id": [f"r{k}" for k in range(8)], "strategy_a": "x", "strategy_b": "y", "p_a": 1.0}
    )
    table = rate(matches)
    assert table["strategy_id"][0] == "x" and table["strength"].is_finite().all()
    assert table["high"][0] - table["low"][0] > 1.0


def test_an_order_that_goes_with_the_strategy_is_not_taken_for_certainty() -> None:
    matches = simulate(np.random.default_rng(16), np.array([0.5, -0.5]), 200)
    mixed, always = rate(matches), rate(matches.with_columns(shown_first=pl.lit("a")))
    assert (always["high"] - always["low"])[0] > 5 * (mixed["high"] - mixed["low"])[0]


def test_no_match_gives_no_rating() -> None:
    empty = pl.DataFrame(schema=SCHEMA)
    assert rate(empty).height == 0 and "rank_low" in rate(empty).columns


def test_probability_of_being_better_follows_the_gap() -> None:
    fit = fit_ratings(simulate(np.random.default_rng(17), np.array([1.0, 0.0, 0.0]), 100))
    assert fit.p_better("s0", "s1") > 0.99
    assert fit.p_better("s1", "s0") == pytest.approx(1 - fit.p_better("s0", "s1"))
    with pytest.raises(InputError, match="Strategy 'nobody' has no scored match"):
        fit.p_better("nobody", "s1")


def test_unusable_matches_are_refused_with_the_reason() -> None:
    good = {"request_id": ["r"], "strategy_a": ["x"], "strategy_b": ["y"], "p_a": [1.0]}
    with pytest.raises(InputError, match="lack the column"):
        rate(pl.DataFrame(good).drop("p_a"))
    with pytest.raises(InputError, match="p_a must lie in 0 to 1, received 7.0"):
        rate(pl.DataFrame(good | {"p_a": [7.0]}))
    with pytest.raises(InputError, match=r"no value in \['strategy_b'\]"):
        rate(pl.DataFrame(good | {"strategy_b": pl.Series([None], dtype=pl.String)}))
    with pytest.raises(InputError, match="'x' is matched against itself"):
        rate(pl.DataFrame(good | {"strategy_b": ["x"]}))


@pytest.fixture(scope="module")
def preferences() -> pl.DataFrame:
    """The soft judge's preferences of each model against the common baseline."""
    lengths = pl.read_parquet(ANCHORS / "outputs.parquet").select("model", "request_id", "n_chars")
    return (
        pl.read_parquet(ANCHORS / "preferences.parquet")
        .filter(pl.col("annotator") == "weighted_alpaca_eval_gpt4_turbo", pl.col("model") != pl.col("baseline"))
        .join(lengths.rename({"n_chars": "length_a"}), on=["model", "request_id"])
        .join(lengths.rename({"model": "baseline", "n_chars": "length_b"}), on=["baseline", "request_id"])
        .select(
            *["request_id", "length_a", "length_b"],
            strategy_a="model",
            strategy_b="baseline",
            p_a="p_model_wins",
            shown_first=pl.col("order_shown").replace_strict({"model_first": "a", "baseline_first": "b"}, default=None),
        )
    )


def spearman_with(table: pl.DataFrame, column: str) -> float:
    models = pl.read_parquet(ANCHORS / "models.parquet").filter(pl.col(column).is_not_null())
    both = table.join(models, left_on="strategy_id", right_on="model")
    return float(spearmanr(both["strength"], both[column]).statistic)


@needs_anchors
def test_real_preferences_give_the_published_length_controlled_order(preferences: pl.DataFrame) -> None:
    assert spearman_with(rate(preferences, length_effect=True), "ae2_lc_win_rate") >= 0.97
    assert spearman_with(rate(preferences), "ae2_win_rate") >= 0.95
