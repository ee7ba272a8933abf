"""What is said about judges."""

import json

import numpy as np
import polars as pl
import pytest
from anchor_data import ANCHORS, needs_anchors
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from qbawa.errors import InputError
from qbawa.tournaments.agreement.reliability import RELIABILITY_SCHEMA, audit, best_judges, gate, judge_reliability

VERDICTS = {
    "match_id": pl.String,
    "judge": pl.String,
    "judge_kind": pl.String,
    "shown_first": pl.String,
    "verdict": pl.String,
    "preference": pl.Float64,
}
LAW = settings(deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])


def said(*rows: tuple[str, str, str]) -> pl.DataFrame:
    """(match, judge, verdict); a judge whose name starts with p is a person; an order may follow the verdict: 'a/b'."""
    full = []
    for match, judge, verdict in rows:
        side, _, first = verdict.partition("/")
        full.append((match, judge, "human" if judge.startswith("p") else "llm", first or None, side, None))
    return pl.DataFrame(full, schema=VERDICTS, orient="row")


def played(*names: str, **more: list) -> pl.DataFrame:
    """Matches of strategies x and y, one request each."""
    columns = {"match_id": names, "request_id": [f"r-{n}" for n in names], "step": "s"}
    return pl.DataFrame({**columns, "strategy_a": "x", "strategy_b": "y"} | more)


def of(judge: str, table: pl.DataFrame) -> dict:
    return table.filter(pl.col("judge") == judge).row(0, named=True)


def test_agreement_is_the_chance_to_agree_with_a_person() -> None:
    table = judge_reliability(
        said(
            *[("1", "j", "a"), ("1", "p1", "a"), ("1", "p2", "b"), ("1", "p3", "a")],  # 2 of 3 people
            *[("2", "j", "b"), ("2", "p1", "b")],  # 1 of 1
            *[("3", "j", "tie"), ("3", "p1", "a")],  # a tie decides nothing
            *[("4", "j", "a"), ("4", "p1", "tie")],
            *[("5", "j", "unscored"), ("5", "p1", "a")],
        ),
        played("1", "2", "3", "4", "5"),
    )
    row = of("j", table)
    assert row["agreement_human"] == pytest.approx((2 / 3 + 1) / 2)
    assert row["agreement_low"] < row["agreement_human"] < row["agreement_high"]
    assert (row["verdicts"], row["unscored"]) == (5, 1)
    # Between people: match 1 alone has several; of its three pairs one agrees.
    assert row["human_human"] == pytest.approx(1 / 3)
    assert row["accuracy"] == 1.0, "against the majority: a in match 1, b in match 2"
    assert of("p1", table)["agreement_human"] == pytest.approx(1 / 2), "a person is compared with the other people"


def test_agreement_with_the_jury_leaves_the_judge_itself_out() -> None:
    table = judge_reliability(
        said(
            *[("1", "j", "a"), ("1", "k", "b"), ("1", "l", "b")],
            *[("2", "j", "a"), ("2", "k", "a"), ("2", "l", "a")],
            *[("3", "j", "a"), ("3", "k", "a"), ("3", "l", "b")],  # the others are split
        ),
        played("1", "2", "3"),
    )
    assert of("j", table)["agreement_jury"] == pytest.approx(1 / 2)
    assert of("j", table)["agreement_human"] is None and of("j", table)["accuracy"] is None
    assert of("j", table)["gate"] == "bootstrap"


def test_position_bias_is_what_the_first_place_wins_beyond_half() -> None:
    # Four matches in both orders; twice the judge names whatever came first.
    rows = [(m, "j", f"a/{first}") for m in "12" for first in "ab"] + [(m, "j", f"{f}/{f}") for m in "34" for f in "ab"]
    table = judge_reliability(said(*rows), played(*"1234"))
    assert of("j", table)["position_bias"] == pytest.approx((2 + 4) / 8 - 0.5)
    steady = judge_reliability(said(*[(m, "j", f"b/{f}") for m in "12" for f in "ab"]), played(*"12"))
    assert of("j", steady)["position_bias"] == 0


def test_planted_position_bias_is_found() -> None:
    """13 % of verdicts go by position, 60 % of those to the first: 1.3 points more than half."""
    rng = np.random.default_rng(3)
    n = 60_000
    first = rng.choice(["a", "b"], n)
    second = np.where(first == "a", "b", "a")
    by_position = np.where(rng.random(n) < 0.6, first, second)
    verdict = np.where(rng.random(n) < 0.13, by_position, rng.choice(["a", "b"], n))
    names = [f"m{k}" for k in range(n)]
    verdicts = pl.DataFrame(
        {"match_id": names, "judge": "j", "judge_kind": "llm", "shown_first": first, "verdict": verdict}
    )
    table = judge_reliability(verdicts, played(*names))
    assert of("j", table)["position_bias"] == pytest.approx(0.013, abs=0.008)


def test_length_bias_is_seen_in_the_judge_that_has_it() -> None:
    rng = np.random.default_rng(4)
    names = [f"m{k}" for k in range(900)]
    a, b = rng.integers(100, 1000, 900), rng.integers(100, 1000, 900)
    pairs = [rng.choice(3, 2, replace=False) for _ in names]
    matches = played(
        *names,
        strategy_a=[f"s{i}" for i, _ in pairs],
        strategy_b=[f"s{j}" for _, j in pairs],
        length_a=a.tolist(),
        length_b=b.tolist(),
    )
    longer = rng.random(900) < 1 / (1 + np.exp(-(a - b) / 300))
    rows = [(m, "wordy", "a" if up else "b") for m, up in zip(names, longer, strict=True)]
    rows += [(m, "even", str(rng.choice(["a", "b"]))) for m in names]
    table = judge_reliability(said(*rows), matches)
    assert of("wordy", table)["length_bias"] > 0.8
    assert abs(of("even", table)["length_bias"]) < 0.3
    assert of("even", judge_reliability(said(*rows), played(*names)))["length_bias"] is None


def test_self_preference_is_beyond_what_the_others_give() -> None:
    matches = played(*"1234", strategy_a=["own", "own", "own", "other"], strategy_b=["other"] * 3 + ["third"])
    rows = [(m, "j", "a") for m in "1234"] + [("1", "k", "a"), ("2", "k", "b"), ("3", "k", "tie"), ("4", "k", "b")]
    families = {"own": "acme", "other": "zeta", "third": "zeta"}
    table = judge_reliability(
        said(*rows), matches, strategy_families=families, judge_families={"j": "acme", "k": "none of them"}
    )
    assert of("j", table)["self_preference"] == pytest.approx(1 - 0.5)
    assert of("k", table)["self_preference"] is None


def test_dissent_is_the_share_against_the_winner() -> None:
    matches = played(*"1234", winner=["a", "b", "tie", None])
    table = judge_reliability(said(*[(m, "j", "a") for m in "1234"]), matches)
    assert of("j", table)["dissent"] == pytest.approx(1 / 2)


def test_labels_take_the_place_of_people_in_accuracy() -> None:
    labels = pl.DataFrame({"match_id": ["1", "2", "3"], "label": ["a", "b", "tie"]})
    table = judge_reliability(said(*[(m, "j", "a") for m in "123"]), played(*"123"), labels=labels)
    assert of("j", table)["accuracy"] == pytest.approx(1 / 2)


def test_matches_of_one_request_are_not_counted_as_many() -> None:
    rng = np.random.default_rng(5)
    names = [f"m{k}" for k in range(120)]
    agrees = np.repeat(rng.random(12) < 0.6, 10)  # all ten matches of a request agree, or none
    rows = [(m, "j", "a") for m in names] + [(m, "p", "a" if up else "b") for m, up in zip(names, agrees, strict=True)]
    apart = of("j", judge_reliability(said(*rows), played(*names)))
    together = of("j", judge_reliability(said(*rows), played(*names, request_id=[f"r{k // 10}" for k in range(120)])))
    width = [row["agreement_high"] - row["agreement_low"] for row in (apart, together)]
    assert width[1] > 2.5 * width[0]


@pytest.mark.slow
def test_agreement_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(6)
    held = []
    for _ in range(150):
        rate = np.clip(rng.normal(0.8, 0.15, 25), 0, 1)
        agree = rng.random((25, 4)) < rate[:, None]
        names = [f"m{k}" for k in range(100)]
        rows = [(m, "j", "a") for m in names]
        rows += [(m, "p", "a" if up else "b") for m, up in zip(names, agree.ravel(), strict=True)]
        row = of("j", judge_reliability(said(*rows), played(*names, request_id=[f"r{k // 4}" for k in range(100)])))
        held.append(row["agreement_low"] <= np.clip(0.8, 0, 1) - 0.008 <= row["agreement_high"])
    assert np.mean(held) >= 0.9


@pytest.mark.slow
@settings(LAW, max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("12345"),
            st.sampled_from(["j", "k", "p1", "p2"]),
            st.sampled_from(["a/a", "b/a", "tie/b", "a"]),
        ),
        min_size=1,
        max_size=30,
    ),
    st.lists(st.tuples(st.sampled_from("12345"), st.sampled_from(["j", "k"])), max_size=8),
)
def test_unscored_verdicts_are_counted_and_change_nothing_else(rows: list, more: list) -> None:
    unscored = [(match, judge, "unscored/a") for match, judge in more if judge in {row[1] for row in rows}]
    before = judge_reliability(said(*rows), played(*"12345"))
    after = judge_reliability(said(*rows, *unscored), played(*"12345"))
    assert before.drop("verdicts", "unscored").equals(after.drop("verdicts", "unscored"))
    assert after["unscored"].sum() == len(unscored)
    assert after.schema == pl.Schema(RELIABILITY_SCHEMA)
    for share in ("agreement_human", "agreement_low", "agreement_high", "accuracy", "dissent"):
        assert after[share].drop_nulls().is_between(0, 1).all()


def test_steps_are_reported_apart() -> None:
    matches = pl.concat([played("1"), played("2").with_columns(step=pl.lit("t"))])
    table = judge_reliability(said(("1", "j", "a"), ("2", "j", "b"), ("2", "k", "b")), matches)
    assert table.select("step", "judge").rows() == [("s", "j"), ("t", "j"), ("t", "k")]


def test_gate_opens_at_the_threshold_and_not_without_people() -> None:
    assert gate(0.75, 0.75) == "automatic"
    assert gate(0.7499, 0.75) == "bootstrap"
    assert gate(None, 0.0) == "bootstrap"
    names = [f"m{k}" for k in range(60)]
    rows = [(m, judge, "a") for m in names for judge in ("j", "p")]
    assert of("j", judge_reliability(said(*rows), played(*names)))["gate"] == "automatic"
    assert of("j", judge_reliability(said(*rows[:6]), played(*names)))["gate"] == "bootstrap"


@settings(LAW, max_examples=30)
@given(st.sets(st.text(max_size=8), max_size=40), st.text(max_size=5), st.floats(0, 1), st.floats(0, 1))
def test_audited_matches_stay_audited(ids: set[str], seed: str, one: float, other: float) -> None:
    few, many = (set(audit(ids, share, seed)) for share in sorted((one, other)))
    assert few <= many <= ids
    assert set(audit(ids, 1.0, seed)) == ids and not audit(ids, 0.0, seed)


def test_audit_takes_about_the_share_asked_for() -> None:
    ids = [f"match-{k}" for k in range(20_000)]
    assert len(audit(ids, 0.02)) == pytest.approx(400, abs=80)
    assert audit(ids, 0.02) != audit(ids, 0.02, "another seed")


def test_judges_are_ordered_by_what_people_say_then_as_the_user_lists_them() -> None:
    table = pl.DataFrame({"judge": ["d", "c", "b", "a"], "agreement_low": [None, 0.6, None, 0.7]})
    assert best_judges(table, ["d", "b"]) == ["a", "c", "d", "b"]
    assert best_judges(table) == ["a", "c", "b", "d"]


def test_unusable_tables_are_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match=r"`matches` lack the column\(s\) \['step'\]"):
        judge_reliability(said(("1", "j", "a")), played("1").drop("step"))


@needs_anchors
def test_real_people_agree_with_each_other_more_than_a_7b_judge_does() -> None:
    pairs = pl.read_parquet(ANCHORS / "pairs.parquet").filter(pl.col("human_votes").is_not_null())
    # A vote is 1 (A), 2 (B) or 0 (tie) in PandaLM; any other spelling would fail here.
    rows = [
        (pair, f"p{k}", {"1": "a", "2": "b", "0": "tie", "A": "a", "B": "b", "tie": "tie"}[str(vote)])
        for pair, votes in pairs.select("pair_id", "human_votes").iter_rows()
        for k, vote in enumerate(json.loads(votes))
    ]
    verdicts = pl.read_parquet(ANCHORS / "pair_verdicts.parquet").join(
        pairs.select("pair_id"), on="pair_id", how="semi"
    )
    rows += [
        (pair, judge, (verdict or "unscored").lower())
        for pair, judge, verdict in verdicts.select("pair_id", "judge", "verdict").iter_rows()
    ]
    verdicts = said(*rows).with_columns(
        judge_kind=pl.when(pl.col("judge").is_in(["p0", "p1", "p2"]))
        .then(pl.lit("human"))
        .otherwise(pl.lit("imported"))
    )
    table = judge_reliability(verdicts, played(*pairs["pair_id"].to_list()))
    small = of("pandalm-7b", table)
    assert small["agreement_low"] < small["agreement_human"] < small["agreement_high"] < small["human_human"]
    assert small["verdicts"] == 595
