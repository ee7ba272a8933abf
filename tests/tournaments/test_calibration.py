"""What a jury's verdicts come to, with and without people's labels."""

import numpy as np
import polars as pl
import pytest
from anchor_data import ANCHORS, needs_anchors
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from qbawa.errors import InputError
from qbawa.tournaments.agreement.calibration import MIN_HUMAN_VERDICTS, Calibration, calibrate, fit, human_labels
from qbawa.tournaments.decide import combine

SCHEMA = {
    "match_id": pl.String,
    "judge": pl.String,
    "judge_kind": pl.String,
    "shown_first": pl.String,
    "verdict": pl.String,
    "preference": pl.Float64,
    "length_a": pl.Int64,
    "length_b": pl.Int64,
}
SWAP = {"a": "b", "b": "a"}
LAW = settings(deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])

verdict_rows = st.tuples(
    st.sampled_from([f"m{k}" for k in range(6)]),
    st.sampled_from(["strict", "kind", "blind"]),
    st.sampled_from(["llm", "llm", "imported"]),
    st.sampled_from(["a", "b", None]),
    st.sampled_from(["a", "b", "tie", "unscored"]),
    st.none(),
    st.integers(1, 900),
    st.integers(1, 900),
)


def frame(rows: list[tuple]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def swapped(verdicts: pl.DataFrame) -> pl.DataFrame:
    return verdicts.with_columns(
        pl.col("shown_first", "verdict").replace(SWAP),
        preference=1 - pl.col("preference"),
        length_a=pl.col("length_b"),
        length_b=pl.col("length_a"),
    )


def jury(
    seed: int, matches: int, labelled: int, accuracy: dict[str, float], *, likes_first: float = 0.0, orders: str = "ab"
) -> tuple[pl.DataFrame, np.ndarray]:
    """Verdicts of judges that are right with the given chance (or name the answer shown first), and people on some."""
    rng = np.random.default_rng(seed)
    a_is_better = rng.random(matches) < 0.5
    rows = []
    for m, truth in enumerate(a_is_better):
        for judge, right in accuracy.items():
            for first in orders:
                side = "a" if truth == (rng.random() < right) else "b"
                if rng.random() < likes_first:
                    side = first
                rows.append((f"m{m}", judge, "llm", first, side, None, 100, 100))
        if m < labelled:
            rows.append((f"m{m}", "ann", "human", None, "a" if truth else "b", None, 100, 100))
    return frame(rows), a_is_better


@pytest.fixture(scope="module")
def trained() -> tuple[pl.DataFrame, np.ndarray]:
    return jury(1, 600, 200, {"strict": 0.85, "kind": 0.6, "blind": 0.5}, likes_first=0.15)


@pytest.mark.slow
@settings(LAW, max_examples=60)
@given(st.lists(verdict_rows, min_size=1, max_size=40), st.booleans())
def test_swapping_answers_swaps_the_probability(rows: list[tuple], use_length: bool) -> None:
    train, _ = jury(2, 80, 80, {"strict": 0.9, "kind": 0.7, "blind": 0.5}, likes_first=0.2)
    train = train.with_columns(length_a=pl.int_range(pl.len()) % 7 * 100)
    calibration = fit(train, use_length=use_length)
    verdicts = frame(rows).unique(["match_id"], keep="first", maintain_order=True)
    one, other = calibration.p_a(verdicts), calibration.p_a(swapped(verdicts))
    assert one["match_id"].to_list() == other["match_id"].to_list()
    np.testing.assert_allclose(one["p_a"], 1 - other["p_a"].to_numpy(), atol=1e-12)


@settings(LAW, max_examples=40)
@given(st.lists(verdict_rows, min_size=1, max_size=30))
def test_swapping_answers_swaps_the_verdict_of_the_jury(rows: list[tuple]) -> None:
    one, other = combine(frame(rows)), combine(swapped(frame(rows)))
    assert one["winner"].replace(SWAP).to_list() == other["winner"].to_list()
    assert one["dissent"].to_list() == other["dissent"].to_list()


def test_fitting_on_swapped_answers_gives_the_same_weights(trained: tuple[pl.DataFrame, np.ndarray]) -> None:
    verdicts, _ = trained
    one, other = fit(verdicts), fit(swapped(verdicts))
    assert one.features == other.features
    np.testing.assert_allclose(one.weights, other.weights, atol=1e-6)


@settings(LAW, max_examples=40)
@given(st.lists(verdict_rows, min_size=1, max_size=30), st.lists(verdict_rows, max_size=8))
def test_an_unscored_verdict_is_counted_and_changes_nothing_else(rows: list[tuple], more: list[tuple]) -> None:
    before = frame(rows)
    unscored = frame(more).with_columns(verdict=pl.lit("unscored"), preference=pl.lit(None, dtype=pl.Float64))
    unscored = unscored.filter(pl.col("match_id").is_in(before["match_id"].to_list()))
    plain = combine(before).sort("match_id")
    both = combine(pl.concat([before, unscored])).sort("match_id")
    assert plain.drop("unscored").equals(both.drop("unscored"))
    assert both["unscored"].sum() - plain["unscored"].sum() == unscored.height


def test_a_match_without_a_readable_verdict_is_unscored_not_a_tie() -> None:
    row = combine(frame([("m", "strict", "llm", "a", "unscored", None, 1, 1)])).row(0, named=True)
    assert row["p_a"] is None and row["winner"] is None and row["dissent"] is None
    assert (row["verdicts"], row["unscored"]) == (0, 1)


def test_without_labels_the_best_judge_decides_and_dissent_is_kept() -> None:
    verdicts = frame(
        [
            ("m", "strict", "llm", "a", "a", None, 1, 1),
            ("m", "kind", "llm", "a", "b", None, 1, 1),
            ("m", "blind", "llm", "b", "b", None, 1, 1),
            ("n", "strict", "llm", "a", "unscored", None, 1, 1),
            ("n", "kind", "llm", "b", "b", None, 1, 1),
        ]
    )
    decided = {row["match_id"]: row for row in combine(verdicts, None, ["strict", "kind"]).iter_rows(named=True)}
    assert decided["m"]["winner"] == "a" and decided["m"]["decided_by"] == "strict"
    assert decided["m"]["dissent"] == pytest.approx(2 / 3)
    assert decided["n"]["winner"] == "b" and decided["n"]["decided_by"] == "kind", "the next judge where the best fails"


def test_a_judge_that_flips_with_the_order_has_no_winner() -> None:
    rows = [("m", "strict", "llm", first, first, None, 1, 1) for first in "ab"]
    row = combine(frame(rows), None, "strict").row(0, named=True)
    assert (row["p_a"], row["winner"], row["dissent"], row["flips"]) == (0.5, "tie", None, 1)
    steady = combine(frame([("m", "strict", "llm", first, "a", None, 1, 1) for first in "ab"]))
    assert steady["flips"].to_list() == [0]


def test_a_soft_preference_counts_by_its_size() -> None:
    rows = [("m", "strict", "llm", "a", "a", 0.8, 1, 1), ("m", "strict", "llm", "b", "a", 0.6, 1, 1)]
    assert combine(frame(rows), None, "strict")["p_a"][0] == pytest.approx(0.7)


def test_people_overrule_an_uncalibrated_judge() -> None:
    rows = [("m", "strict", "llm", "a", "a", None, 1, 1), ("m", "ann", "human", "a", "b", None, 1, 1)]
    row = combine(frame(rows), None, "strict").row(0, named=True)
    assert row["winner"] == "b" and row["decided_by"] == "people"
    assert row["p_a"] == pytest.approx(1 - 0.89) and row["dissent"] == 0.5


def test_calibration_needs_fifty_human_verdicts() -> None:
    verdicts, _ = jury(3, 100, MIN_HUMAN_VERDICTS, {"strict": 0.8})
    calibration = calibrate(verdicts)
    assert calibration is not None and calibration.labels == MIN_HUMAN_VERDICTS
    one_less = verdicts.filter((pl.col("judge_kind") != "human") | (pl.col("match_id") != "m0"))
    assert calibrate(one_less) is None


def test_human_verdicts_that_no_judge_shares_do_not_calibrate() -> None:
    alone = frame([(f"m{k}", "ann", "human", None, "a", None, 1, 1) for k in range(60)])
    assert calibrate(alone) is None
    with pytest.raises(InputError, match="None of the 60 labelled matches"):
        fit(alone)


def test_calibrated_jury_beats_its_majority(trained: tuple[pl.DataFrame, np.ndarray]) -> None:
    verdicts, truth = trained
    judged = verdicts.filter(pl.col("judge_kind") != "human")
    p = fit(verdicts).p_a(judged)["p_a"].to_numpy()[200:]
    votes = (
        judged.group_by("match_id", maintain_order=True)
        .agg(side=pl.col("verdict").replace_strict({"a": 1, "b": -1}).sum())["side"]
        .to_numpy()[200:]
    )
    calibrated = np.mean((p > 0.5) == truth[200:])
    majority = np.mean(np.where(votes == 0, 0.5, (votes > 0) == truth[200:]))
    assert calibrated > majority + 0.02
    # Its probabilities mean what they say.
    said = np.maximum(p, 1 - p)
    assert abs(said.mean() - calibrated) < 0.05


def test_a_judge_that_guesses_gets_no_say() -> None:
    verdicts, _ = jury(4, 400, 400, {"strict": 0.9, "blind": 0.5})
    calibration = fit(verdicts)
    weight = {judge: 0.0 for judge, _ in calibration.features}
    for (judge, _), w in zip(calibration.features, calibration.weights, strict=True):
        weight[judge] += float(w)
    assert abs(weight["blind"]) < 0.35 < 1.2 < weight["strict"]


def test_a_liking_for_the_first_place_is_taken_out() -> None:
    """Two verdicts in five name the first, the rest are right in 80 %: the log-odds follow from Bayes' rule."""
    odd = pl.col("match_id").str.slice(1).cast(pl.Int64) % 2 == 1
    shown_a, _ = jury(5, 4000, 4000, {"strict": 0.8}, likes_first=0.4, orders="a")
    shown_b, _ = jury(6, 4000, 4000, {"strict": 0.8}, likes_first=0.4, orders="b")
    calibration = fit(pl.concat([shown_a.filter(odd), shown_b.filter(~odd)]))
    weights = dict(zip([signal for _, signal in calibration.features], calibration.weights, strict=True))
    named_first, named_second = np.log(0.88 / 0.52), np.log(0.48 / 0.12)
    assert weights["verdict"] == pytest.approx((named_first + named_second) / 2, abs=0.12)
    assert weights["shown_first"] == pytest.approx((named_first - named_second) / 2, abs=0.12)


def test_few_labels_give_modest_probabilities() -> None:
    few, _ = jury(7, 20, 8, {"strict": 1.0})
    many, _ = jury(7, 400, 400, {"strict": 1.0})
    certain = [fit(v).p_a(v)["p_a"].max() for v in (few, many)]
    assert certain[0] < 0.95 < certain[1]


@pytest.mark.parametrize(("weight", "sd"), [(1.0, 0.0), (1.0, 1.0), (2.5, 1.5), (4.0, 3.0), (0.3, 4.0)])
def test_a_probability_averages_over_what_the_weights_may_be(weight: float, sd: float) -> None:
    """Against the integral that MacKay's approximation stands for, which is good to a few hundredths."""
    doubtful = Calibration((("strict", "verdict"),), np.array([weight]), np.array([[sd**2]]), 1.0, 0.0, 8)
    verdicts = frame([(side, "strict", "llm", None, side, None, 1, 1) for side in "ab"])
    p = dict(doubtful.p_a(verdicts).select("match_id", "p_a").iter_rows())
    at, share = np.polynomial.hermite_e.hermegauss(80)
    averaged = float((share / share.sum()) @ (1 / (1 + np.exp(-(weight + sd * at)))))
    assert p["a"] == pytest.approx(averaged, abs=0.02) and p["b"] == pytest.approx(1 - averaged, abs=0.02)


def test_an_undecided_jury_is_a_tie() -> None:
    verdicts, _ = jury(8, 150, 150, {"one": 0.8, "two": 0.7})
    # Each judge also gives the other's verdicts on a second set of matches, so that neither is better.
    other = {"one": "two", "two": "one"}
    mirrored = verdicts.with_columns(pl.col("judge").replace(other), match_id=pl.lit("again-") + pl.col("match_id"))
    calibration = fit(pl.concat([verdicts, mirrored]))
    split = [
        ("m", judge, "llm", first, side, None, 1, 1) for judge, side in (("one", "a"), ("two", "b")) for first in "ab"
    ]
    row = combine(frame(split), calibration).row(0, named=True)
    assert row["winner"] == "tie" and row["p_a"] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(("p", "winner"), [(0.5, "tie"), (0.54, "tie"), (0.56, "a"), (0.46, "tie"), (0.44, "b")])
def test_a_calibrated_jury_names_a_winner_from_five_points_on(p: float, winner: str) -> None:
    weight = np.log(p / (1 - p))
    sure = Calibration((("strict", "verdict"),), np.array([weight]), np.zeros((1, 1)), 1.0, 0.0, 60)
    row = combine(frame([("m", "strict", "llm", None, "a", None, 1, 1)]), sure).row(0, named=True)
    assert row["p_a"] == pytest.approx(p) and row["winner"] == winner and row["decided_by"] == "calibration"


def test_a_persons_vote_decides_what_a_calibrated_jury_left_open() -> None:
    open_ = Calibration((("strict", "verdict"),), np.zeros(1), np.zeros((1, 1)), 1.0, 0.0, 60)
    judged = [("m", "strict", "llm", None, "b", None, 1, 1)]
    row = combine(frame([*judged, ("m", "ann", "human", None, "a", None, 1, 1)]), open_).row(0, named=True)
    assert (row["winner"], row["decided_by"]) == ("a", "people") and row["p_a"] == pytest.approx(0.89)
    both = [*judged, *(("m", who, "human", None, side, None, 1, 1) for who, side in (("ann", "a"), ("ben", "b")))]
    assert combine(frame(both), open_)["winner"].to_list() == ["tie"], "people who disagree leave it open"


def test_majority_of_people_is_the_label() -> None:
    votes = [("m", f"p{k}", "human", None, side, None, 1, 1) for k, side in enumerate(["a", "b", "a"])]
    votes += [("n", f"p{k}", "human", None, side, None, 1, 1) for k, side in enumerate(["a", "b", "tie"])]
    assert human_labels(frame(votes)).sort("match_id").rows() == [("m", 3, "a"), ("n", 3, "tie")]


@needs_anchors
def test_on_real_verdicts_calibration_is_not_below_the_best_judge() -> None:
    """One source, one split; benchmarks/judges.py has them all."""
    pairs = pl.read_parquet(ANCHORS / "pairs.parquet").filter(pl.col("source") == "judgebench")
    said = pl.read_parquet(ANCHORS / "pair_verdicts.parquet").join(pairs.select("pair_id"), on="pair_id", how="semi")
    verdicts = said.select(
        match_id="pair_id",
        judge="judge",
        judge_kind=pl.lit("imported"),
        shown_first=pl.when(pl.col("swapped") == 0).then(pl.lit("a")).otherwise(pl.lit("b")),
        verdict=pl.col("verdict").str.to_lowercase().fill_null("unscored"),
    )
    labels = pairs.select(match_id="pair_id", label=pl.col("label").str.to_lowercase()).sort("match_id")
    fold = np.random.default_rng(0).permutation(labels.height) % 5
    score = (
        pl.when(pl.col("winner") == "tie").then(0.5).otherwise((pl.col("winner") == pl.col("label")).cast(pl.Float64))
    )
    calibrated, single = [], []
    for k in range(5):
        train, held = labels.filter(pl.Series(fold != k)), labels.filter(pl.Series(fold == k))
        new = verdicts.join(held, on="match_id", how="semi")
        best = new.filter(pl.col("judge").str.starts_with("o1-mini"))
        for judged, calibration, out in ((new, fit(verdicts, train), calibrated), (best, None, single)):
            out.append(combine(judged, calibration).join(held, on="match_id").select("match_id", right=score))
    both = pl.concat(single).join(pl.concat(calibrated), on="match_id", suffix="_calibrated")
    error = float(both["right_calibrated"].to_numpy().std()) / both.height**0.5
    assert both["right_calibrated"].to_numpy().mean() >= both["right"].to_numpy().mean() - error
