"""Labels of people who were asked about split matches more often say what random labels would have said."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from qbawa.tournaments.agreement.calibration import Calibration, calibrate, fit
from qbawa.tournaments.agreement.reliability import best_judges, judge_reliability
from qbawa.tournaments.agreement.stratification import effective_number, strata, weigh
from qbawa.tournaments.humans import in_turn
from qbawa.tournaments.scores import scored_verdicts

LAW = settings(deadline=None, max_examples=80, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
SCHEMA = ["match_id", "judge", "judge_kind", "shown_first", "verdict", "preference"]
MATCHES = 600
SEEDS = range(12)

sides = st.sampled_from(["a", "b", "tie", "unscored"])
models = st.lists(st.tuples(st.sampled_from("123456"), st.sampled_from("jkl"), st.just("llm"), sides), max_size=20)
people = st.lists(st.tuples(st.sampled_from("123456"), st.sampled_from("pq"), st.just("human"), sides), max_size=20)
populations = st.lists(st.booleans(), max_size=40)


def frame(rows: list[tuple[str, str, str, str]]) -> pl.DataFrame:
    return pl.DataFrame(
        [(match, judge, kind, "a", verdict, None) for match, judge, kind, verdict in rows],
        schema=dict.fromkeys(SCHEMA[:-1], pl.String) | {"preference": pl.Float64},
        orient="row",
    )


def population(split: list[bool]) -> pl.DataFrame:
    return pl.DataFrame(
        {"match_id": [f"m{k}" for k in range(len(split))], "split": split},
        schema={"match_id": pl.String, "split": pl.Boolean},
    )


@dataclass(frozen=True)
class World:
    """Two planted judges on MATCHES matches, and a person who is always right."""

    truth: np.ndarray
    said: dict[str, np.ndarray]
    lot: np.ndarray

    @classmethod
    def of(cls, seed: int) -> "World":
        rng = np.random.default_rng(seed)
        truth = rng.random(MATCHES) < 0.5
        said = {judge: truth == (rng.random(MATCHES) < right) for judge, right in (("main", 0.98), ("two", 0.72))}
        return cls(truth, said, rng.permutation(MATCHES))

    def labelled(self, count: int, split_share: float | None) -> pl.DataFrame:
        """All verdicts, with labels on so many matches; None draws them at random."""
        chosen = list(self.lot[:count])
        if split_share is not None:
            split = self.said["main"] != self.said["two"]
            apart = int(count * split_share)
            chosen = [k for k in self.lot if split[k]][:apart] + [k for k in self.lot if not split[k]][: count - apart]
        rows = [(f"m{k}", "ann", "human", "a" if self.truth[k] else "b") for k in chosen]
        for judge, sides_a in self.said.items():
            rows += [(f"m{k}", judge, "llm", "a" if side else "b") for k, side in enumerate(sides_a)]
        return frame(rows)

    def reliability(self, verdicts: pl.DataFrame) -> dict[str, dict]:
        names = [f"m{k}" for k in range(MATCHES)]
        columns = {"match_id": names, "request_id": names, "step": "s", "strategy_a": "x", "strategy_b": "y"}
        return {row["judge"]: row for row in judge_reliability(verdicts, pl.DataFrame(columns)).iter_rows(named=True)}


def only_labelled(verdicts: pl.DataFrame) -> pl.DataFrame:
    """What there would be to learn from without the matches that nobody labelled: every label counts one."""
    return verdicts.join(verdicts.filter(judge_kind="human"), on="match_id", how="semi")


def weight_of(judge: str, calibration: Calibration) -> float:
    return float(calibration.weights[calibration.features.index((judge, "verdict"))])


# ── strata ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@LAW
@given(models, people)
def test_people_do_not_move_a_match_between_strata(by_models: list, by_people: list) -> None:
    alone = strata(scored_verdicts(frame(by_models)))
    both = strata(scored_verdicts(frame(by_models + by_people)))
    assert both.join(alone, on="match_id", how="semi").sort("match_id").equals(alone.sort("match_id"))
    assert not both.join(alone, on="match_id", how="anti")["split"].any()


def test_a_match_is_split_where_two_models_name_different_answers() -> None:
    said = [("split", "j", "a"), ("split", "k", "b"), ("tied", "j", "a"), ("tied", "k", "tie"), ("alone", "j", "a")]
    rows = [(match, judge, "llm", verdict) for match, judge, verdict in said]
    rows += [
        ("flip", "j", "llm", "a"),
        ("flip", "j", "llm", "b"),
        ("read", "j", "llm", "a"),
        ("read", "k", "llm", "unscored"),
    ]
    found = strata(scored_verdicts(frame(rows)))
    assert dict(found.iter_rows()) == {"split": True, "tied": False, "alone": False, "flip": False, "read": False}


@LAW
@given(populations, st.sets(st.integers(0, 39)))
def test_weighted_labels_have_the_shares_of_all_matches(split: list[bool], labelled: set[int]) -> None:
    everywhere = population(split)
    sample = weigh(everywhere, pl.DataFrame({"match_id": [f"m{k}" for k in labelled]}, schema={"match_id": pl.String}))
    weights = sample.weights["weight"].to_numpy()
    known = [k for k in labelled if k < len(split)]
    assert sample.weights.height == len(known) and (weights > 0).all()
    if known:
        assert weights.sum() == pytest.approx(len(known))
        assert 0 < effective_number(weights) <= len(known) + 1e-9
        strata_known = {split[k] for k in known}
        assert sample.covered == pytest.approx(np.mean([side in strata_known for side in split]))
        if len(strata_known) == 2:
            assert weights[sample.weights["split"].to_numpy()].sum() / len(known) == pytest.approx(np.mean(split))
    if len(known) == len(split):
        assert (weights == 1).all() and sample.covered == 1


def test_labels_that_random_ones_might_be_are_not_one_sided() -> None:
    everywhere = population([True] * 2 + [False] * 98)
    few = weigh(everywhere, everywhere.filter(~pl.col("split")).head(50))
    assert few.covered == 0.98 and not few.one_sided, "36 % of random samples of 50 hold no split match"
    assert weigh(everywhere, everywhere.filter("split")).one_sided


# ── the order in which people are asked ──────────────────────────────────────────────────────────────────────────────


@LAW
@given(populations)
def test_every_second_match_asked_about_is_split_while_there_are_both(split: list[bool]) -> None:
    everywhere = population(split)
    asked = in_turn(everywhere.select("match_id"), everywhere.filter("split"))
    assert sorted(asked["match_id"]) == sorted(everywhere["match_id"]), "each once"
    both = 2 * min(sum(split), len(split) - sum(split))
    assert asked["split"].to_list()[:both] == [True, False] * (both // 2)
    again = in_turn(everywhere.select("match_id").reverse(), everywhere)
    assert again["match_id"].to_list() == asked["match_id"].to_list()


def test_within_a_stratum_the_order_is_a_lot_that_does_not_know_the_other() -> None:
    everywhere = population([k % 3 == 0 for k in range(300)])
    alone = in_turn(everywhere.filter("split").select("match_id"), everywhere)["match_id"].to_list()
    among = in_turn(everywhere.select("match_id"), everywhere).filter("split")["match_id"].to_list()
    assert alone == among
    places = [int(match[1:]) for match in among]
    assert abs(np.corrcoef(places, range(len(places)))[0, 1]) < 0.3


# ── what is learnt ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize("split_share", [0.5, 0.8])
def test_oversampled_labels_give_the_true_agreement(split_share: float) -> None:
    covered, plain, weighted = [], [], []
    for seed in SEEDS:
        world = World.of(seed)
        verdicts = world.labelled(120, split_share)
        found, counted = world.reliability(verdicts), world.reliability(only_labelled(verdicts))
        for judge, said in world.said.items():
            true = float(np.mean(said == world.truth))
            covered.append(found[judge]["agreement_low"] <= true <= found[judge]["agreement_high"])
            weighted.append(found[judge]["agreement_human"] - true)
            plain.append(counted[judge]["agreement_human"] - true)
            assert found[judge]["accuracy"] == pytest.approx(found[judge]["agreement_human"])
    assert np.mean(covered) >= 0.93
    assert abs(np.mean(weighted)) < 0.01 and np.abs(weighted).max() < 0.06
    assert np.mean(plain) < -0.08, "labels that all count one call a fair judge worse than it is"


def weights_of_two(split_share: float) -> tuple[float, float, float]:
    """Mean weight of judge `two` by random labels, by oversampled ones, and by oversampled ones that all count one."""
    found = []
    for seed in range(24):
        world = World.of(seed)
        verdicts = world.labelled(150, split_share)
        by = calibrate(world.labelled(150, None)), calibrate(verdicts), fit(only_labelled(verdicts))
        found.append([weight_of("two", calibration) for calibration in by if calibration is not None])
        assert calibrate(verdicts).labels == 150  # type: ignore[union-attr]
    at_random, weighted, plain = np.mean(found, axis=0)
    return at_random, weighted, plain


@pytest.mark.slow
def test_the_mix_that_people_are_asked_gives_the_weights_of_random_labels() -> None:
    at_random, weighted, _ = weights_of_two(0.5)
    assert weighted == pytest.approx(at_random, abs=0.25)


@pytest.mark.slow
def test_labels_mostly_on_split_matches_come_near_the_weights_of_random_ones() -> None:
    at_random, weighted, plain = weights_of_two(0.9)
    assert abs(weighted - at_random) < abs(plain - at_random) / 2


def test_labels_on_split_matches_alone_neither_open_the_gate_nor_calibrate() -> None:
    world = World.of(1)
    split = float(np.mean(world.said["main"] != world.said["two"]))
    verdicts = world.labelled(100, 1.0)
    found = world.reliability(verdicts)
    for judge in ("main", "two"):
        row = found[judge]
        assert row["agreement_human"] is None and row["accuracy"] is None and row["gate"] == "bootstrap"
        true = float(np.mean(world.said[judge] == world.truth))
        assert row["agreement_low"] <= min(split, true) and row["agreement_high"] >= max(1 - split, true)
    assert calibrate(verdicts) is None
    rows = pl.DataFrame([found[judge] for judge in ("two", "main")])
    assert best_judges(rows, ["two", "main"]) == ["main", "two"], "where both name the same answer neither is better"


def test_labels_on_unanimous_matches_alone_do_not_calibrate() -> None:
    assert calibrate(World.of(1).labelled(100, 0.0)) is None


def test_one_label_in_a_stratum_does_not_open_the_gate_for_it() -> None:
    found = World.of(2).reliability(World.of(2).labelled(100, 0.99))
    assert found["main"]["agreement_human"] > 0.9 and found["main"]["gate"] == "bootstrap"


def test_labels_of_a_single_judge_count_one_each() -> None:
    verdicts = World.of(3).labelled(80, 0.9).filter(pl.col("judge") != "main")
    assert calibrate(verdicts) is not None
    np.testing.assert_array_equal(fit(verdicts).weights, fit(only_labelled(verdicts)).weights)
    one, other = (World.of(3).reliability(some)["two"] for some in (verdicts, only_labelled(verdicts)))
    assert [one[name] for name in one if name.startswith("a")] == [
        other[name] for name in other if name.startswith("a")
    ]
