"""What a match's verdicts come to: one tally, whoever asks, against plain counting; and where definitions part."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from qbawa.datasets.pairs.evidence import weigh
from qbawa.tournaments.agreement.calibration import fit
from qbawa.tournaments.decide import combine, decide_by_first_judge, decide_matches, tally, unweighted

LAW = settings(deadline=None, max_examples=80, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
SCHEMA = {
    "match_id": pl.String,
    "judge": pl.String,
    "judge_kind": pl.String,
    "shown_first": pl.String,
    "verdict": pl.String,
    "preference": pl.Float64,
    "cost_usd": pl.Float64,
}
NAMED = {"a": 1.0, "tie": 0.5, "b": 0.0}
Row = tuple[str, str, str, str | None, str, float | None, float]


@st.composite
def verdicts(draw: st.DrawFn, contradictory: bool = False, one_judge: bool = False) -> list[Row]:
    """Verdicts with a preference on the side of the name, or none; `contradictory` ones lean as they like."""
    rows = []
    for _ in range(draw(st.integers(1, 30))):
        name = draw(st.sampled_from(["a", "b", "tie", "unscored"]))
        leaning = {"a": (0.5625, 1.0), "b": (0.0, 0.4375), "tie": (0.5, 0.5)}
        low, high = (0.0, 1.0) if contradictory else leaning.get(name, (0.0, 0.0))
        soft = None if name == "unscored" else draw(st.none() | st.sampled_from(sorted({low, (low + high) / 2, high})))
        judge = "only" if one_judge else draw(st.sampled_from(["strict", "kind", "blind"]))
        match, first = draw(st.sampled_from(["m1", "m2", "m3"])), draw(st.sampled_from(["a", "b", None]))
        rows.append((match, judge, "llm", first, name, soft, 0.25))
    return rows


def frame(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def counted(rows: list[Row]) -> dict[str, dict[str, Any]]:
    """The same by plain counting."""
    by_match = defaultdict(list)
    for row in rows:
        by_match[row[0]].append(row)
    found = {}
    for match, of_match in by_match.items():
        scored = [(row[4], NAMED[row[4]] if row[5] is None else row[5]) for row in of_match if row[4] != "unscored"]
        p_a = sum(p for _, p in scored) / len(scored) if scored else None
        winner = None if p_a is None else "a" if p_a > 0.5 else "b" if p_a < 0.5 else "tie"
        against = [(p < 0.5) if winner == "a" else (p > 0.5) for _, p in scored]
        found[match] = {
            "p_a": p_a,
            "winner": winner,
            "verdicts": len(scored),
            "unscored": len(of_match) - len(scored),
            "dissent": sum(against) / len(scored) if winner in ("a", "b") else None,
            "cost_usd": 0.25 * len(of_match),
        }
    return found


def by_match(rows: pl.DataFrame) -> dict[str, dict[str, Any]]:
    return {row.pop("match_id"): row for row in rows.iter_rows(named=True)}


@pytest.mark.slow
@LAW
@given(st.booleans().flatmap(lambda contradictory: verdicts(contradictory)))
def test_verdicts_that_count_alike_come_to_their_mean(rows: list[Row]) -> None:
    found = by_match(unweighted(frame(rows)))
    assert list(found) == list(dict.fromkeys(row[0] for row in rows))
    for match, wanted in counted(rows).items():
        for name, value in wanted.items():
            exact = value is None or isinstance(value, str | int)
            assert found[match][name] == (value if exact else pytest.approx(value)), name


@pytest.mark.slow
@LAW
@given(verdicts(one_judge=True))
def test_one_judge_alone_and_all_alike_are_the_same(rows: list[Row]) -> None:
    alone, alike = by_match(combine(frame(rows))), by_match(unweighted(frame(rows)))
    for match, wanted in alike.items():
        for name in ("winner", "verdicts", "unscored", "dissent"):
            assert alone[match][name] == wanted[name]
        assert alone[match]["p_a"] == (None if wanted["p_a"] is None else pytest.approx(wanted["p_a"]))


@pytest.mark.slow
@LAW
@given(verdicts())
def test_pairs_count_verdicts_as_matches_do(rows: list[Row]) -> None:
    table = frame(rows)
    decided = unweighted(table)
    matches = decided.select(
        "match_id", "p_a", "verdicts", "dissent", request_id="match_id", strategy_a=pl.lit("x"), strategy_b=pl.lit("y")
    )
    found = by_match(weigh(matches, table).matches)
    wanted = {match: row for match, row in by_match(decided).items() if row["p_a"] is not None}
    assert found.keys() == wanted.keys()
    for match, row in wanted.items():
        assert found[match]["p_a"] == row["p_a"] and found[match]["weight"] == pytest.approx(row["verdicts"] ** 0.7)
        judges = sorted({judge for m, judge, _, _, name, _, _ in rows if m == match and name != "unscored"})
        assert found[match]["judges"] == judges
        if row["winner"] != "tie":
            assert found[match]["dissent"] == pytest.approx(row["dissent"])


def test_a_word_that_its_probabilities_contradict_is_for_b_in_the_match_and_for_a_in_the_pair() -> None:
    table = frame([("m", "j", "llm", "a", "a", 0.4, 0.0), ("m", "k", "llm", "a", "b", None, 0.0)])
    assert tally(table).select("for_a", "for_b").row(0) == (0, 2)
    assert tally(table, by="name").select("for_a", "for_b").row(0) == (1, 1)
    matches = pl.DataFrame({"match_id": "m", "request_id": "r", "strategy_a": "x", "strategy_b": "y", "p_a": 0.2})
    assert weigh(matches, table).matches["dissent"].to_list() == [0.5]
    assert unweighted(table)["dissent"].to_list() == [0.0]


def test_judges_of_another_evaluation_count_alike_until_there_is_a_calibration() -> None:
    rng = np.random.default_rng(3)
    better = rng.random(120) < 0.5
    rows: list[Row] = []
    for k, a_is_better in enumerate(better):
        for judge, right in (("good", 0.95), ("poor", 0.55)):
            name = "a" if a_is_better == (rng.random() < right) else "b"
            rows.append((f"m{k}", judge, "imported", None, name, None, 0.0))
        rows.append((f"m{k}", "anna", "human", None, "a" if a_is_better else "b", None, 0.0))
    theirs: list[Row] = [
        ("x", "good", "imported", None, "a", None, 0.0),
        ("x", "poor", "imported", None, "b", None, 0.0),
    ]
    table = frame(rows + theirs)
    before = by_match(decide_matches(table, None, ["good"]))
    assert before["x"] == by_match(unweighted(table).drop("cost_usd"))["x"] and before["x"]["winner"] == "tie"
    assert before["m0"]["winner"] == ("a" if better[0] else "b"), "where a person has judged, the person decides"
    after = by_match(decide_matches(table, fit(table), ["good"]))
    assert after["x"]["winner"] == "a" and after["x"]["p_a"] > 0.8


def test_nothing_decided_of_nothing_and_of_what_cannot_be_read() -> None:
    assert decide_matches(frame([]), None, ["j"]).is_empty()
    table = frame([("m", "j", "llm", "a", "unscored", None, 0.0)])
    assert decide_matches(table, None, ["j"]).row(0, named=True) == {
        "match_id": "m", "p_a": None, "winner": None, "dissent": None, "verdicts": 0, "unscored": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "flips"),
    [(("a", "b"), 1), (("b", "a"), 1), (("a", "a"), 0), (("b", "b"), 0), (("tie", "b"), 0), (("a", "unscored"), 0)],
)
def test_a_judge_flips_where_it_names_one_answer_in_one_order_and_the_other_in_the_other(
    said: tuple[str, str], flips: int
) -> None:
    rows: list[Row] = [("m", "j", "llm", first, name, None, 0.0) for first, name in zip("ab", said, strict=True)]
    assert combine(frame(rows))["flips"].to_list() == [flips]


@LAW
@given(verdicts(contradictory=True), st.permutations(["strict", "kind", "blind", "gone"]), st.integers(0, 4))
def test_the_plain_case_decided_row_by_row_comes_to_the_same(rows: list[Row], judges: list[str], listed: int) -> None:
    """No calibration and no people, as in most rounds: judges that are not listed decide after those that are."""
    rows.append(("m4", "strict", "llm", "a", "b", float("nan"), 0.25))
    table = frame(rows)
    by_row = decide_by_first_judge(table.to_dicts(), judges[:listed])
    assert list(by_row.values()) == decide_matches(table, None, judges[:listed]).to_dicts()
    assert list(by_row) == [row["match_id"] for row in by_row.values()]
