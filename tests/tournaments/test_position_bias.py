"""What place has to do with verdicts: juries that saw different orders, both orders, judges that decide by position alone."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from qbawa.errors import InputError
from qbawa.tournaments.agreement.position_bias import order_of_matches, position_biases
from qbawa.tournaments.ratings import Effect, fit_ratings
from qbawa.tournaments.ratings.newton import maximise
from qbawa.tournaments.ratings.rows import Rows
from qbawa.tournaments.stage import Rated
from qbawa_assets.checks import rating_checks

SIDES = np.array(["b", "a"])


def said(*rows: tuple[str, str, str | None, str], kind: str = "llm") -> pl.DataFrame:
    """(match, judge, shown first, verdict)"""
    schema = ["match_id", "judge", "shown_first", "verdict"]
    return pl.DataFrame(rows, schema=dict.fromkeys(schema, pl.String), orient="row").with_columns(
        judge_kind=pl.lit(kind), preference=pl.lit(None, pl.Float64)
    )


def juries(
    rng: np.random.Generator, judges: int, pull: float, requests: int = 150
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Verdicts and matches of four equal strategies under judges who each draw their own order; log-odds `pull` to the first."""
    a, b = np.triu_indices(4, 1)
    request, pair = np.divmod(np.arange(requests * len(a)), len(a))
    first = rng.integers(0, 2, (len(pair), judges))
    won = rng.random(first.shape) < 1 / (1 + np.exp(-pull * (first - 0.5)))
    match = [f"m{k}" for k in range(len(pair))]
    verdicts = pl.concat(
        said(*zip(match, [f"j{j}"] * len(pair), SIDES[first[:, j]], SIDES[won[:, j].astype(int)], strict=True))
        for j in range(judges)
    )
    matches = pl.DataFrame(
        {
            "match_id": match,
            "request_id": [f"r{k}" for k in request],
            "strategy_a": [f"s{k}" for k in a[pair]],
            "strategy_b": [f"s{k}" for k in b[pair]],
            "p_a": won.mean(1),
        }
    )
    return verdicts, matches


def check(effect: Effect | None, verdicts: pl.DataFrame, jury: list[str]) -> tuple[bool, str]:
    """What the asset check says of one step."""
    cancelled = order_of_matches(verdicts, jury).filter(pl.col("order") == 0).height
    rated = Rated(
        pl.DataFrame(),
        order_effects={"s": effect},
        cancelled={"s": cancelled},
        position_biases={"s": position_biases(verdicts, jury)},
    )
    [result] = [result for result in rating_checks(rated) if result.check_name == "order_effect"]
    return result.passed, str(result.metadata["s"].value)


def test_the_order_of_a_match_is_the_mean_over_its_verdicts() -> None:
    orders = order_of_matches(
        said(
            *[("1", "j", "a", "a"), ("1", "k", "a", "b"), ("1", "l", "b", "a")],
            *[("2", "j", "a", "a"), ("2", "j", "b", "b")],  # both orders
            *[("3", "j", "b", "tie"), ("3", "k", None, "a")],  # a pointwise judge saw no order
            *[("4", "j", "a", "unscored"), ("4", "k", "b", "a")],
            *[("5", "gone", "a", "a"), ("5", "j", "b", "a")],  # no longer on the jury
            ("6", "k", None, "a"),
        ),
        ["j", "k", "l"],
    )
    assert dict(orders.iter_rows()) == {"1": pytest.approx(1 / 3), "2": 0, "3": -1, "4": -1, "5": -1}


def test_people_count_whoever_is_on_the_jury() -> None:
    people = said(("1", "anna", "a", "a"), kind="human")
    assert order_of_matches(people, ["j"]).height == 1
    assert position_biases(people, ["j"]) == []


@pytest.mark.parametrize("judges", [1, 3, 4])
def test_the_pull_of_the_first_place_is_found_whatever_orders_a_jury_saw(judges: int) -> None:
    verdicts, matches = juries(np.random.default_rng(judges), judges, pull=0.8)
    effect = fit_ratings(matches.join(order_of_matches(verdicts, ()), on="match_id")).order_effect
    assert effect is not None and effect.low < 0.8 < effect.high and effect.high - effect.low < 0.8
    assert effect.points_low < effect.points < effect.points_high
    orders = order_of_matches(verdicts, ())["order"]
    assert effect.matches == (orders != 0).sum() > 500
    passed, text = check(effect, verdicts, [])
    assert not passed and f"{effect.points:+.2f}" in text and f"from {effect.matches:,} matches" in text


def test_a_jury_without_pull_passes_and_the_number_of_its_matches_is_said() -> None:
    verdicts, matches = juries(np.random.default_rng(5), 3, pull=0.0)
    effect = fit_ratings(matches.join(order_of_matches(verdicts, ()), on="match_id")).order_effect
    passed, text = check(effect, verdicts, [])
    assert passed and effect is not None and f"from {effect.matches:,} matches: not known yet" in text
    # Two judges who saw opposite orders cancel.
    verdicts, matches = juries(np.random.default_rng(5), 2, pull=0.0)
    effect = fit_ratings(matches.join(order_of_matches(verdicts, ()), on="match_id")).order_effect
    assert effect is not None and 0 < effect.matches < 900
    assert f"matches (in {900 - effect.matches} others position cancels)" in check(effect, verdicts, [])[1]


@pytest.mark.parametrize(
    ("low", "high", "passed", "word"),
    [
        (-0.03, 0.03, True, "within 1 point"),
        (-0.5, 0.9, True, "not known yet"),
        (0.1, 0.9, False, "too much"),
        (-0.9, -0.1, False, "too much"),
        (0.01, 0.9, True, "not known yet"),  # surely not 0, but perhaps less than a point
    ],
)
def test_the_check_fails_where_the_interval_lies_beyond_a_point(
    low: float, high: float, passed: bool, word: str
) -> None:
    found, text = check(Effect((low + high) / 2, low, high, 7), said(("1", "j", "a", "a")), [])
    assert found == passed and f"7 matches: {word}" in text


@pytest.mark.parametrize("judges", [["always1"], ["always1", "k", "l"]])
def test_a_judge_that_always_names_the_first_place_in_both_orders_is_found(judges: list[str]) -> None:
    """Its order effect cancels match by match, which is why the fit cannot see it."""
    rows = [(f"m{k}", j, s, s if j == "always1" else "a") for k in range(20) for j in judges for s in "ab"]
    matches = pl.DataFrame(
        {
            "match_id": [f"m{k}" for k in range(20)],
            "request_id": [f"r{k % 5}" for k in range(20)],
            "strategy_a": "x",
            "strategy_b": "y",
            "p_a": 0.5,
        }
    )
    effect = fit_ratings(matches.join(order_of_matches(said(*rows), judges), on="match_id")).order_effect
    assert effect is None
    passed, text = check(effect, said(*rows), judges)
    assert not passed
    assert (
        "position cancels" in text and "always1: position_bias +0.500" in text and text.endswith("by position: always1")
    )
    assert check(None, said(*[row for row in rows if row[1] != "always1"]), [])[0]


def test_a_step_whose_judges_saw_no_order_passes_and_says_so() -> None:
    assert check(None, said(("1", "k", None, "a")), ["k"]) == (True, "no judge saw answers in an order")


def test_few_matches_convict_no_judge() -> None:
    passed, text = check(None, said(*[(f"m{k}", "j", s, s) for k in range(3) for s in "ab"]), ["j"])
    assert passed and "3 matches" in text


def test_counting_equal_orders_together_changes_no_fit() -> None:
    """Newton on rows per (pair, order) is Newton on rows per match, for fractions too."""
    verdicts, matches = juries(np.random.default_rng(3), 3, pull=0.5, requests=20)
    rows = Rows.of(matches.join(order_of_matches(verdicts, ()), on="match_id"), False)
    together, played = rows.aggregate()[0], np.ones(len(rows.outcome))
    assert len(together.values[0]) == 4 * 6
    np.testing.assert_allclose(
        maximise(*rows.aggregate(), firth=False).theta,
        maximise(rows.design(), rows.outcome, played, firth=False).theta,
        atol=1e-9,
    )


def test_an_order_beyond_one_is_refused() -> None:
    _, matches = juries(np.random.default_rng(3), 1, pull=0.0, requests=2)
    with pytest.raises(InputError, match="order must lie in -1 to 1"):
        fit_ratings(matches.with_columns(order=pl.lit(1.5)))
