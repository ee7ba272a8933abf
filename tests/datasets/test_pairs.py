"""Pairs: what is kept, what is removed and why, and whether p_best is what it says."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbawa import ids
from qbawa.config import PairsConfig
from qbawa.datasets.pairs.build import PairsReport, build_pairs
from qbawa.datasets.pairs.evidence import weigh
from qbawa.datasets.pairs.pair_ids import pair_ids
from qbawa.datasets.pairs.policy import choose
from qbawa.datasets.pairs.posterior import Evidence, fit_posterior, people_say
from qbawa.tournaments.agreement.calibration import fit

STEP = "answer"


def config(**settings_: Any) -> PairsConfig:
    return PairsConfig.model_validate({"p_best": 0.5, "max_per_request": 10_000} | settings_)


def tables(
    answers: dict[tuple[str, str], str | None], played: list[tuple[str, str, str, float]], judge: str = "judy"
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Matches, verdicts, cells and questions of answers {(request, strategy): text} and matches (request, a, b, p_a)."""
    cells = pl.DataFrame(
        [
            {
                "cell_id": ids.cell_id(r, STEP, s),
                "request_id": r,
                "step": STEP,
                "strategy_id": s,
                "sample": 0,
                "answer": text,
                "status": "failed" if text is None else "ok",
            }
            for (r, s), text in answers.items()
        ],
        schema={n: pl.String for n in ("cell_id", "request_id", "step", "strategy_id")}
        | {"sample": pl.Int64, "answer": pl.String, "status": pl.String},
    )
    matches = pl.DataFrame(
        [
            {
                "match_id": ids.match_id(r, STEP, a, b),
                "request_id": r,
                "step": STEP,
                "strategy_a": a,
                "strategy_b": b,
                "p_a": p,
            }
            for r, a, b, p in played
        ],
        schema={n: pl.String for n in ("match_id", "request_id", "step", "strategy_a", "strategy_b")}
        | {"p_a": pl.Float64},
    )
    verdicts = matches.select(
        "match_id",
        "step",
        "request_id",
        judge=pl.lit(judge),
        judge_kind=pl.lit("llm"),
        shown_first=pl.lit("a"),
        verdict=pl.when(pl.col("p_a") > 0.5)
        .then(pl.lit("a"))
        .when(pl.col("p_a") < 0.5)
        .then(pl.lit("b"))
        .otherwise(pl.lit("tie")),
        preference="p_a",
    )
    requests = sorted({r for r, _ in answers})
    questions = pl.DataFrame(
        {
            "request_id": requests,
            "step": STEP,
            "question": [json.dumps([{"role": "user", "content": f"asked by {r}"}]) for r in requests],
            "cluster": requests,
        }
    )
    return matches, verdicts, cells, questions


def built(*args: Any, **settings_: Any) -> PairsReport:
    return build_pairs(*tables(*args), config(**settings_))


TWO = {("r", "s1"): "a fine answer", ("r", "s2"): "a poor answer"}


def test_the_judged_winner_is_the_best_answer_with_its_match_and_judges() -> None:
    pair = built(TWO, [("r", "s1", "s2", 0.0)]).pairs.row(0, named=True)
    assert (pair["best_answer"], pair["worse_answer"]) == ("a poor answer", "a fine answer")
    assert pair["basis"] == "direct" and pair["judges"] == ["judy"] and pair["dissent"] == 0.0
    assert pair["match_ids"] == [ids.match_id("r", STEP, "s1", "s2")]
    assert pair["p_best"] > 0.5 and pair["margin"] > 0


def test_swapping_who_is_called_a_changes_nothing() -> None:
    answers = {("r", s): f"text of {s}" for s in ("s1", "s2", "s3")}
    one = built(answers, [("r", "s1", "s2", 0.9), ("r", "s2", "s3", 0.7)]).pairs
    other = built(answers, [("r", "s2", "s1", 0.1), ("r", "s3", "s2", 0.3)]).pairs
    columns = ["pair_id", "best_answer", "worse_answer", "basis"]
    assert one.select(columns).sort("pair_id").equals(other.select(columns).sort("pair_id"))
    assert np.allclose(one.sort("pair_id")["p_best"], other.sort("pair_id")["p_best"])


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.permutations(range(12)), st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=12, max_size=12))
def test_the_order_of_rows_changes_no_pair(order: list[int], outcomes: list[float]) -> None:
    names = ["s1", "s2", "s3"]
    answers = {(f"r{k}", s): f"{s} on {k}" for k in range(4) for s in names}
    played = [
        (f"r{k}", a, b, outcomes[3 * k + n])
        for k in range(4)
        for n, (a, b) in enumerate((("s1", "s2"), ("s1", "s3"), ("s2", "s3")))
    ]
    first = built(answers, played).pairs.sort("pair_id")
    second = built(answers, [played[k] for k in order]).pairs.sort("pair_id")
    assert first.select("pair_id", "best_cell", "match_ids").equals(second.select("pair_id", "best_cell", "match_ids"))
    assert np.allclose(first["p_best"], second["p_best"])


def test_what_never_met_is_inferred_from_what_did() -> None:
    answers = {(f"r{k}", s): f"{s} on {k}" for k in range(30) for s in ("s1", "s2", "s3")}
    played = [(f"r{k}", a, b, 1.0) for k in range(30) for a, b in (("s1", "s2"), ("s2", "s3"))]
    pairs = built(answers, played).pairs.filter(pl.col("basis") == "inferred")
    assert pairs.height == 30
    assert set(pairs["best_strategy"]) == {"s1"} and set(pairs["worse_strategy"]) == {"s3"}
    assert (pairs["p_best"] > 0.95).all()
    assert pairs["dissent"].null_count() == 30
    own = {ids.match_id("r7", STEP, *pair) for pair in (("s1", "s2"), ("s2", "s3"))}
    assert set(pairs.filter(pl.col("request_id") == "r7")["match_ids"][0]) == own
    assert built(answers, played, "judy", inferred=False).removed["never judged"] == 30


def test_a_pair_far_from_any_verdict_is_no_surer_than_a_coin() -> None:
    pair = built(TWO, []).pairs
    assert pair["p_best"].to_list() == [0.5]
    assert built(TWO, [], "judy", p_best=0.6).removed == {"not sure enough": 1}


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("Paris.", "  PARIS ", "equal answers"),
        ("Paris.", "   ", "empty answer"),
        *(("Paris.", nothing, "empty answer") for nothing in ("null", '""', "{}", " [] ")),
        ("Paris.", None, "failed answer"),
        ("Paris.", "I'm sorry, but I cannot help with that.", "refusal against answer"),
        ("Paris.", "As an AI language model I can not answer.", "refusal against answer"),
    ],
)
def test_trivial_pairs_are_removed_and_counted(first: str, second: str | None, reason: str) -> None:
    report = built({("r", "s1"): first, ("r", "s2"): second}, [("r", "s1", "s2", 1.0)])
    assert report.pairs.is_empty()
    assert report.removed == {reason: 1}


def test_refusals_are_kept_where_wanted_and_an_apology_before_an_answer_is_none() -> None:
    answers = {("r", "s1"): "Paris.", ("r", "s2"): "I'm sorry, I cannot say."}
    assert built(answers, [("r", "s1", "s2", 1.0)], "judy", keep_refusals=True).pairs.height == 1
    answers = {("r", "s1"): "Paris.", ("r", "s2"): "Paris is the capital. I'm sorry if that is short."}
    assert built(answers, [("r", "s1", "s2", 1.0)]).pairs.height == 1


@pytest.mark.parametrize(("length", "refuses"), [(600, True), (601, False), (5_000, False)])
def test_a_long_answer_that_opens_with_an_apology_has_answered(length: int, refuses: bool) -> None:
    apology = "I'm sorry, but I cannot give an exact figure. About"
    answers = {("r", "s1"): "Paris.", ("r", "s2"): apology + " two million people live there;" * 200}
    answers[("r", "s2")] = str(answers[("r", "s2")])[: length - 1] + "."
    report = built(answers, [("r", "s1", "s2", 1.0)])
    assert report.removed == ({"refusal against answer": 1} if refuses else {})
    assert report.pairs.height == (0 if refuses else 1)


def test_equal_answers_of_two_strategies_make_one_pair() -> None:
    answers = {("r", "s1"): "good", ("r", "s2"): "Good!", ("r", "s3"): "bad"}
    report = built(answers, [("r", "s1", "s3", 1.0), ("r", "s2", "s3", 1.0)])
    assert report.pairs.height == 1
    assert report.removed == {"equal answers": 1, "duplicate": 1}


def test_of_pairs_that_read_alike_the_judged_one_speaks_and_then_the_surest() -> None:
    answers = {("r", "s1"): "good", ("r", "s2"): "Good!", ("r", "s3"): "bad"}
    only = built(answers, [("r", "s2", "s3", 1.0)]).pairs.row(0, named=True)
    assert (only["best_strategy"], only["basis"]) == ("s2", "direct")
    for sure, unsure in (("s1", "s2"), ("s2", "s1")):
        pair = built(answers, [("r", sure, "s3", 1.0), ("r", unsure, "s3", 0.6)]).pairs.row(0, named=True)
        assert pair["best_strategy"] == sure, "its own match says more"


def test_further_samples_of_a_cell_are_no_answers() -> None:
    matches, verdicts, cells, questions = tables(TWO, [("r", "s1", "s2", 0.0)])
    again = cells.with_columns(sample=pl.lit(1, pl.Int64), answer=pl.lit("another sample"))
    pair = build_pairs(matches, verdicts, pl.concat([again, cells]), questions, config()).pairs.row(0, named=True)
    assert (pair["best_answer"], pair["worse_answer"]) == ("a poor answer", "a fine answer")


def test_a_tie_between_equal_answers_is_no_verdict() -> None:
    matches, verdicts, *_ = tables(TWO, [("r", "s1", "s2", 0.5)])
    assert weigh(matches.with_columns(origin=pl.lit("tournament")), verdicts).matches.height == 1
    assert weigh(matches.with_columns(origin=pl.lit(None, pl.String)), verdicts).matches.height == 1
    nothing = weigh(matches.with_columns(origin=pl.lit("identical")), verdicts.clear())
    assert (nothing.matches.height, nothing.unscored, nothing.never_trained_on) == (0, 0, 0)


def test_one_question_asked_twice_gives_each_pair_once() -> None:
    matches, verdicts, cells, questions = tables(
        {(r, s): s for r in ("r1", "r2") for s in ("s1", "s2")}, [("r1", "s1", "s2", 1.0), ("r2", "s1", "s2", 1.0)]
    )
    report = build_pairs(matches, verdicts, cells, questions.with_columns(question=pl.lit("same")), config())
    assert report.pairs["request_id"].to_list() == ["r1"]
    assert report.removed == {"duplicate of another request": 1}


def test_llmonpys_verdicts_never_reach_training_data() -> None:
    report = built(TWO, [("r", "s1", "s2", 1.0)], "llmonpy:gpt-4")
    assert report.removed == {"judged by LLMonPy alone": 1}
    assert report.pairs["p_best"].to_list() == [0.5]


def test_llmonpys_share_of_a_mixed_match_is_taken_out() -> None:
    matches, verdicts, cells, questions = tables(TWO, [("r", "s1", "s2", 0.5)])
    mixed = pl.concat(
        [
            verdicts.with_columns(judge=pl.lit("llmonpy:x"), verdict=pl.lit("a"), preference=pl.lit(1.0)),
            verdicts.with_columns(verdict=pl.lit("b"), preference=pl.lit(0.0)),
        ]
    )
    pair = build_pairs(matches, mixed, cells, questions, config()).pairs.row(0, named=True)
    assert pair["best_strategy"] == "s2" and pair["judges"] == ["judy"]


def test_verdicts_on_one_match_err_together_and_count_for_less_than_as_many_matches() -> None:
    """o1-mini on JudgeBench is right on 75.9 % in one order and on 86.4 % where both agree: log-odds 1.147 and 1.849."""
    matches, verdicts, *_ = tables({}, [("r1", "s1", "s2", 1.0), ("r2", "s1", "s2", 1.0), ("r4", "s1", "s2", 1.0)])
    given = pl.concat([verdicts, verdicts[1:], verdicts[2:], verdicts[2:]])
    one, two, four = weigh(matches, given).matches.sort("request_id")["weight"]
    assert one == 1.0
    assert two == pytest.approx(1.849 / 1.147, abs=0.03)
    assert four == pytest.approx(two**2)


def test_a_calibrated_match_is_one_statement_however_many_judges_made_it() -> None:
    matches, verdicts, *_ = tables({}, [(f"r{k}", "s1", "s2", float(k % 2)) for k in range(40)])
    calibration = fit(
        verdicts, matches.select("match_id", label=pl.when(pl.col("p_a") > 0).then(pl.lit("a")).otherwise(pl.lit("b")))
    )
    several = pl.concat([verdicts, verdicts[:10]])
    assert weigh(matches, several).matches["weight"].max() > 1.0
    assert weigh(matches, several, calibration).matches["weight"].unique().to_list() == [1.0]


@pytest.mark.parametrize("variance", [0.0, 0.5, 2.0, 9.0])
@pytest.mark.parametrize("gap", [-3.0, 0.0, 0.7, 4.0])
def test_what_people_say_is_averaged_over_what_the_gap_may_be(gap: float, variance: float) -> None:
    """Against the integral that MacKay's approximation stands for."""
    at, share = np.polynomial.hermite_e.hermegauss(80)
    averaged = float((share / share.sum()) @ (1 / (1 + np.exp(-(gap + variance**0.5 * at)))))
    assert float(people_say(np.array(gap), variance)) == pytest.approx(averaged, abs=0.02)


def field(strategies: int = 6, requests: int = 40, seed: int = 0) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    names = [f"s{k}" for k in range(strategies)]
    strength = np.linspace(1.5, -1.5, strategies)
    theta = strength[:, None] + 0.5 * rng.standard_normal((strategies, requests))
    answers = {(f"r{r}", s): f"{s} says on {r}" for r in range(requests) for s in names}
    played = []
    for r in range(requests):
        for i in range(strategies):
            for j in range(i + 1, strategies):
                if rng.random() < 0.5:
                    won = rng.random() < 1 / (1 + np.exp(theta[j, r] - theta[i, r]))
                    played.append((f"r{r}", names[i], names[j], float(won)))
    return theta, answers, played


def test_p_best_is_calibrated_on_a_simulated_field() -> None:
    right, said = [], []
    for seed in range(6):
        theta, answers, played = field(seed=seed)
        pairs = built(answers, played).pairs
        at = pairs.select(
            b=pl.col("best_strategy").str.slice(1).cast(pl.Int64),
            w=pl.col("worse_strategy").str.slice(1).cast(pl.Int64),
            r=pl.col("request_id").str.slice(1).cast(pl.Int64),
        )
        b, w, r = (at[c].to_numpy() for c in ("b", "w", "r"))
        right.append(theta[b, r] > theta[w, r])
        said.append(pairs["p_best"].to_numpy())
    p, good = np.concatenate(said), np.concatenate(right)
    error = 0.0
    for low, high in ((0.5, 0.7), (0.7, 0.85), (0.85, 0.95), (0.95, 1.01)):
        here = (p >= low) & (p < high)
        gap = p[here].mean() - good[here].mean()
        assert gap < 0.05, (low, high)
        error += here.mean() * abs(gap)
    assert error < 0.05


@pytest.mark.slow
def test_a_lone_calibrated_verdict_keeps_its_probability() -> None:
    """Where nothing else is known of a pair, p_best is what the calibration says."""
    rng = np.random.default_rng(1)
    answers, played, labels = {}, [], []
    for k in range(300):
        better = bool(rng.random() < 0.5)
        said = better if rng.random() < 0.8 else not better
        answers |= {(f"r{k}", f"a{k}"): f"one {k}", (f"r{k}", f"b{k}"): f"two {k}"}
        played.append((f"r{k}", f"a{k}", f"b{k}", float(said)))
        labels.append("a" if better else "b")
    matches, verdicts, cells, questions = tables(answers, played)
    calibration = fit(verdicts, matches.select("match_id", label=pl.Series(labels)))
    expected = calibration.p_a(verdicts)
    pairs = build_pairs(matches, verdicts, cells, questions, config(), calibration).pairs
    got = pairs.select(match_id=pl.col("match_ids").list.first(), p="p_best").join(expected, on="match_id")
    assert got.height == 300
    assert np.allclose(got["p"], np.maximum(got["p_a"], 1 - got["p_a"]), atol=0.01)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.5, 0.97), st.floats(0.3, 8.0))
def test_evidence_takes_an_unknown_gap_to_the_probability_it_stands_for(p: float, variance: float) -> None:
    evidence = Evidence(*(np.array([k]) for k in (0, 0, 1)), np.array([p]), np.array([1.0]), calibrated=True)
    precision, shift = evidence.site(np.array([0]), np.zeros(1), variance)
    after = 1 / (1 / variance + precision)
    assert abs(float(people_say(shift * after, after)[0]) - p) < 0.005


def test_without_matches_the_posterior_is_the_prior() -> None:
    none = np.zeros(0, dtype=np.int64)
    posterior = fit_posterior(Evidence(none, none, none, np.zeros(0), np.zeros(0)), 4, 2)
    (answers,) = posterior.answers([np.arange(4), np.arange(4)])
    assert np.allclose(answers.mean, 0)
    assert np.allclose(np.diag(answers.covariance[0]), posterior.field**2 + posterior.effect**2)


def test_at_most_k_pairs_a_request_with_every_strategy_getting_its_turn() -> None:
    _, answers, played = field()
    report = built(answers, played, "judy", max_per_request=6)
    counts = report.pairs.group_by("request_id").len()["len"]
    assert counts.max() == 6 and report.removed["more than max_per_request"] > 0
    used = pl.concat([report.pairs["best_strategy"], report.pairs["worse_strategy"]]).value_counts()["count"]
    assert used.min() > 0.3 * used.max()


def test_under_a_limit_a_strategy_waits_until_others_had_as_many_pairs() -> None:
    said = [("a", "b", 0.99), ("a", "c", 0.98), ("a", "d", 0.97), ("e", "f", 0.6)]
    pairs = pl.DataFrame(said, schema=["best_strategy", "worse_strategy", "p_best"], orient="row").with_columns(
        request_id=pl.lit("r"),
        best_cell="best_strategy",
        worse_cell="worse_strategy",
        margin="p_best",
        basis=pl.lit("direct"),
    )
    for policy in ("all", "hardest"):
        assert set(choose(pairs, policy, 2)["best_strategy"]) == {"a", "e"}


def test_policies_keep_what_they_say() -> None:
    _, answers, played = field()
    pairs = built(answers, played, "judy", p_best=0.7).pairs
    best = choose(pairs, "best_vs_all")
    assert best.group_by("request_id").agg(pl.col("best_cell").n_unique())["best_cell"].max() == 1
    adjacent = choose(pairs, "adjacent")
    nearest = pairs.group_by("best_cell").agg(pl.col("margin").min())
    assert adjacent.select("best_cell", "margin").sort("best_cell").equals(nearest.sort("best_cell"))
    hard, sure = choose(pairs, "hardest", 3), choose(pairs, "all", 3)
    assert hard["margin"].mean() < sure["margin"].mean()
    assert choose(pairs, "all").equals(pairs)


def test_the_best_answer_against_all_others_is_the_one_that_wins_most() -> None:
    answers = {("r", s): f"text of {s}" for s in ("s1", "s2", "s3", "s4")}
    played = [("r", "s1", other, 1.0) for other in ("s2", "s3", "s4")] + [("r", "s2", "s3", 1.0)]
    pairs = built(answers, played, "judy", policy="best_vs_all").pairs
    assert set(pairs["best_strategy"]) == {"s1"} and set(pairs["worse_strategy"]) == {"s2", "s3", "s4"}


def test_the_hardest_pairs_are_kept_where_a_request_has_too_many() -> None:
    _, answers, played = field()
    margins = {
        policy: built(answers, played, "judy", policy=policy, max_per_request=2).pairs["margin"].mean()
        for policy in ("all", "hardest")
    }
    assert margins["hardest"] < 0.5 * margins["all"]


@pytest.mark.parametrize("effect", [0.0, 0.8, 1.6])
def test_what_an_answer_owes_to_its_request_is_found(effect: float) -> None:
    """Planted strengths and effects; where there are none, the least that any field has had."""
    rng = np.random.default_rng(3)
    theta = np.linspace(1.2, -1.2, 6)[:, None] + effect * rng.standard_normal((6, 600))
    i, j = np.triu_indices(6, 1)
    request = np.repeat(np.arange(600), len(i))
    a, b = np.tile(i, 600), np.tile(j, 600)
    won = (rng.random(len(a)) < 1 / (1 + np.exp(theta[b, request] - theta[a, request]))).astype(float)
    found = fit_posterior(Evidence(request, a, b, won, np.ones(len(a))), 6, 600).effect
    assert found == (0.4 if effect == 0.0 else pytest.approx(effect, rel=0.15))


def test_pair_ids_in_bulk_are_the_ids_one_by_one() -> None:
    texts = ['quote " and \\', "ünïcode — 漢字 😀", "line\nbreak\ttab", "plain"]
    rows = pl.DataFrame(
        {"request_id": ["r1", "r2", "ü", "r"], "step": STEP, "best_answer": texts, "worse_answer": texts[::-1]}
    )
    one_by_one = [ids.pair_id(*row) for row in rows.select("request_id", "step", "best_answer", "worse_answer").rows()]
    assert pair_ids(rows).to_list() == one_by_one
