"""Wilson's interval and the bias of place, each written once: against published figures and against each other."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.special import ndtri
from scipy.stats import binomtest

from qbawa.tournaments.agreement.intervals import wilson
from qbawa.tournaments.agreement.position_bias import position_bias, position_biases
from qbawa.tournaments.scores import scored_verdicts

Z95 = float(ndtri(0.975))


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_that_of_newcombe_1998(successes: int, n: int, low: float, high: float) -> None:
    """Statistics in Medicine 17, 857-872, table I, method 3: the score interval without continuity correction."""
    assert wilson(successes / n, n, Z95) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_wilsons_interval_is_scipys(confidence: float) -> None:
    for n in (1, 2, 7, 40, 1000):
        for successes in {0, 1, n // 3, n - 1, n}:
            theirs = binomtest(successes, n).proportion_ci(confidence, method="wilson")
            ours = wilson(successes / n, n, float(ndtri((1 + confidence) / 2)))
            assert ours == (pytest.approx(theirs.low, abs=1e-12), pytest.approx(theirs.high, abs=1e-12))


def judged(rng: np.random.Generator, orders: str) -> pl.DataFrame:
    """One judge's verdicts on 60 matches in the orders named, or, for '?', in one drawn order each."""
    shown = [(m, first) for m in range(60) for first in (rng.choice(["a", "b"]) if orders == "?" else orders)]
    names = rng.choice(["a", "b", "tie", "unscored"], len(shown))
    soft = [{"a": 0.8, "b": 0.3}.get(name) if rng.random() < 0.5 else None for name in names]
    return pl.DataFrame(
        {
            "match_id": [f"m{m}" for m, _ in shown],
            "judge": "j",
            "judge_kind": "llm",
            "shown_first": [str(first) for _, first in shown],
            "verdict": names,
            "preference": pl.Series(soft, dtype=pl.Float64),
        }
    )


@pytest.mark.parametrize("seed", range(20))
def test_the_bias_in_the_table_is_that_of_the_check_where_each_match_was_seen_once(seed: int) -> None:
    table = judged(np.random.default_rng(seed), "?")
    [checked] = position_biases(table, ["j"])
    assert checked.bias == pytest.approx(position_bias(scored_verdicts(table)))
    won = {"a": 1.0, "b": 0.0, "tie": 0.5}
    each = [
        (won[name] if p is None else p) if first == "a" else 1 - (won[name] if p is None else p)
        for name, p, first in table.select("verdict", "preference", "shown_first").iter_rows()
        if name != "unscored"
    ]
    assert checked.bias == pytest.approx(np.mean(each) - 0.5) and checked.matches == len(each)


def test_a_match_in_both_orders_counts_twice_in_the_table_and_once_in_the_interval() -> None:
    rows = [("1", "a", "a"), ("1", "b", "b"), ("2", "a", "b")]
    table = pl.DataFrame(rows, schema=["match_id", "shown_first", "verdict"], orient="row").with_columns(
        judge=pl.lit("j"), judge_kind=pl.lit("llm"), preference=pl.lit(None, pl.Float64)
    )
    assert position_bias(scored_verdicts(table)) == pytest.approx(2 / 3 - 1 / 2)
    [checked] = position_biases(table, ["j"])
    assert checked.bias == pytest.approx(0) and checked.matches == 2
