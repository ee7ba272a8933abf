"""Tournaments: laws that hold for every format, whatever the field and the verdicts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal
from zlib import crc32

import numpy as np
import pytest
import tournaments as benchmark  # noqa: E402
from _anchors_sim import LogOdds, SimulatedJudge, draw_field  # noqa: E402
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qbawa.errors import InputError
from qbawa.tournaments.formats import FORMATS, GOALS, Field, Goal, Match, Result, Tournament, fit, make_tournament
from qbawa.tournaments.formats.posterior import fit_posterior
from qbawa.tournaments.formats.results_table import Results

Judge = Callable[[Match], Result]

LAW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def draw(*content: object) -> float:
    """A number in [0, 1) that depends on the content alone."""
    return crc32(repr(content).encode()) / 2**32


def capricious(match: Match) -> Result:
    """Any verdict at all: wins, ties, halves of a jury, unscored. The same match always gets the same."""
    p = [0.0, 0.0, 1.0, 1.0, 0.5, 2 / 3, None][int(7 * draw(match.request, match.a, match.b, match.swapped))]
    return Result(match, p)


def favouring(strength: dict[str, float], noise: float = 0.0) -> Judge:
    """The stronger wins, but for a share of verdicts that go the other way."""

    def judge(match: Match) -> Result:
        odd = draw(match.request, match.a, match.b, match.swapped) < noise
        return Result(match, float((strength[match.a] > strength[match.b]) != odd))

    return judge


def play(
    tournament: Tournament, judge: Judge, *, limit: int | None = None, shuffle: random.Random | None = None
) -> list[Result]:
    """Plays to the end; all results in the order in which they were recorded, free ties included."""
    results: list[Result] = [Result(match, 0.5, 0) for match in tournament.take_ties()]
    while tournament.done is None:
        matches = tournament.next_matches(limit)
        assert matches, "a tournament that is not done asks for something"
        batch = [judge(match) for match in matches]
        if shuffle:
            shuffle.shuffle(batch)
        tournament.record(batch)
        results += batch + [Result(match, 0.5, 0) for match in tournament.take_ties()]
    return results


def identity(match: Match) -> tuple[str, str, str, bool]:
    return match.request, match.a, match.b, match.swapped


@st.composite
def fields(draw_: st.DrawFn) -> Field:
    """Small fields with failed cells and identical answers."""
    strategies, requests = draw_(st.integers(1, 7)), draw_(st.integers(1, 4))
    cells = draw_(
        st.lists(st.integers(-1, 3), min_size=strategies * requests, max_size=strategies * requests).map(
            lambda numbers: np.array(numbers, dtype=np.int32).reshape(strategies, requests)
        )
    )
    return Field(tuple(f"s{k}" for k in range(strategies)), tuple(f"r{k}" for k in range(requests)), cells)


formats = pytest.mark.parametrize("format", FORMATS)


@pytest.mark.slow
@formats
@LAW
@given(field=fields(), goal=st.sampled_from(GOALS), orders=st.sampled_from([1, 2]), budget=st.integers(0, 60))
def test_every_tournament_ends_within_budget_and_never_asks_twice(
    format: str, field: Field, goal: str, orders: Literal[1, 2], budget: int
) -> None:
    tournament = make_tournament(field, format=format, goal=goal, orders=orders, verdict_budget=budget)
    results = play(tournament, capricious)
    assert max(Counter(identity(r.match) for r in results).values(), default=1) == 1
    assert sum(r.verdicts for r in results) == tournament.verdicts <= budget
    row = {name: k for k, name in enumerate(field.strategies)}
    column = {name: k for k, name in enumerate(field.requests)}
    for result in results:
        match = result.match
        a, b = field.answers[row[match.a], column[match.request]], field.answers[row[match.b], column[match.request]]
        assert match.a < match.b
        assert a >= 0 and b >= 0, "a failed cell plays no match"
        assert (a == b) == (result.verdicts == 0), "identical answers, and only they, are tied for free"


@pytest.mark.slow
@formats
@LAW
@given(field=fields(), goal=st.sampled_from(GOALS), cut=st.integers(0, 10_000), limit=st.integers(1, 20))
def test_a_tournament_cut_off_anywhere_goes_on_as_if_it_had_not_been(
    format: str, field: Field, goal: str, cut: int, limit: int
) -> None:
    def make(past: Iterable[Result] = ()) -> Tournament:
        return make_tournament(field, format=format, goal=goal, verdict_budget=36, past_results=past, confidence=0.8)

    whole = make()
    results = play(whole, capricious, limit=limit)
    kept = results[: cut % (len(results) + 1)]
    resumed = make(kept)
    rest = play(resumed, capricious)
    asked = {identity(r.match) for r in rest if r.verdicts}
    assert not asked & {identity(r.match) for r in kept}, "nothing is paid twice"
    assert {(r.match, r.p_a) for r in kept + rest} == {(r.match, r.p_a) for r in results}
    assert resumed.done == whole.done
    assert resumed.standings == whole.standings


@pytest.mark.slow
@formats
@LAW
@given(field=fields(), seed=st.integers(0, 99))
def test_the_order_and_portions_of_results_do_not_matter(format: str, field: Field, seed: int) -> None:
    at_once = make_tournament(field, format=format, verdict_budget=40)
    bit_by_bit = make_tournament(field, format=format, verdict_budget=40)
    one = play(at_once, capricious)
    other = play(bit_by_bit, capricious, limit=1 + seed % 5, shuffle=random.Random(seed))
    assert {r.match for r in one} == {r.match for r in other}
    assert at_once.standings == bit_by_bit.standings


@pytest.mark.slow
@formats
def test_the_stronger_strategy_is_found_though_a_tenth_of_verdicts_is_wrong(format: str) -> None:
    strength = {f"s{k:02d}": float((k * 7) % 13) for k in range(13)}
    field = Field.full(list(strength), [f"r{k:02d}" for k in range(30)])
    tournament = make_tournament(field, format=format, goal="best", confidence=0.95)
    play(tournament, favouring(strength, noise=0.1))
    assert tournament.done is not None and tournament.done.reason == "goal"
    assert tournament.answer == [max(strength, key=lambda name: strength[name])]


@pytest.mark.slow
@pytest.mark.parametrize("goal", GOALS)
def test_auto_serves_every_goal(goal: str) -> None:
    strength = {f"s{k:02d}": float((k * 7) % 13) for k in range(13)}
    field = Field.full(list(strength), [f"r{k:02d}" for k in range(60)])
    tournament = make_tournament(field, goal=Goal(goal, k=3))
    play(tournament, favouring(strength, noise=0.1))
    truth = sorted(strength, key=lambda name: -strength[name])
    assert tournament.done is not None and tournament.done.reason == "goal"
    asked = {"best": 1, "top_k": 3}.get(goal, 13)
    assert len(tournament.answer) == asked
    if goal in ("best", "top_k"):
        assert set(tournament.answer) == set(truth[:asked])
    else:
        place = {name: k for k, name in enumerate(truth)}
        assert sum(abs(place[name] - k) for k, name in enumerate(tournament.answer)) <= 6


@pytest.mark.parametrize("strategies", [1, 2, 3, 5, 8, 13])
def test_brackets_have_the_matches_of_their_format(strategies: int) -> None:
    strength = {f"s{k:02d}": float(k) for k in range(strategies)}
    field = Field.full(list(strength), ["r0", "r1", "r2"])
    for format, low, high in [
        ("round_robin", strategies * (strategies - 1) // 2, strategies * (strategies - 1) // 2),
        ("single_elimination", strategies - 1, strategies - 1),
        # Second meetings of a pair are never played, so a few matches may be missing.
        ("double_elimination", strategies - 1, max(0, 2 * strategies - 2)),
        ("swiss", 0, (strategies // 2) * int(np.ceil(np.log2(strategies)))),
    ]:
        tournament = make_tournament(field, format=format, orders=1, confidence=None)
        results = play(tournament, favouring(strength))
        for request in field.requests:
            bracket = [r for r in results if r.match.request == request]
            assert low <= len(bracket) <= high
            defeats = Counter(r.match.b if r.p_a else r.match.a for r in bracket)
            if strategies > 1:
                assert defeats[f"s{strategies - 1:02d}"] == 0
            if format == "single_elimination":
                assert all(defeats[name] == 1 for name in field.strategies[:-1])
            if format == "double_elimination":
                # Once only where the second defeat would have been by the same opponent.
                assert all(1 <= defeats[name] <= 2 for name in field.strategies[:-1])


def test_the_other_order_is_asked_only_where_a_pair_has_met_on_all_requests() -> None:
    field = Field.full(["a", "b", "c"], ["r0", "r1"])
    for format in FORMATS:
        tournament = make_tournament(field, format=format, confidence=None)
        plain: Counter[tuple[str, str]] = Counter()
        for result in play(tournament, capricious):
            if not result.match.swapped:
                plain[result.match.a, result.match.b] += 1
            elif format not in ("single_elimination", "double_elimination", "swiss"):
                assert plain[result.match.a, result.match.b] == 2
        once = make_tournament(field, format=format, confidence=None, orders=1)
        assert not any(r.match.swapped for r in play(once, capricious))


@formats
def test_only_the_requests_of_a_partition_are_asked(format: str) -> None:
    field = Field.full([f"s{k}" for k in range(6)], ["r0", "r1", "r2"])
    tournament = make_tournament(field, format=format, only_requests=["r1"], confidence=None)
    results = play(tournament, capricious)
    assert results and {r.match.request for r in results} == {"r1"}
    with pytest.raises(InputError, match="r9"):
        make_tournament(field, only_requests=["r9"])


@formats
def test_a_newcomer_is_played_without_asking_again_what_is_known(format: str) -> None:
    requests = [f"r{k}" for k in range(5)]
    before = make_tournament(Field.full(["a", "b", "c", "d"], requests), format=format, verdict_budget=24)
    past = play(before, capricious)
    after = make_tournament(
        Field.full(["a", "b", "c", "d", "e"], requests), format=format, past_results=past, confidence=None
    )
    new = play(after, capricious)
    assert not {identity(r.match) for r in new} & {identity(r.match) for r in past}
    assert any("e" in (r.match.a, r.match.b) for r in new)
    assert after.verdicts == sum(r.verdicts for r in past + new)


@pytest.mark.parametrize("goal", GOALS)
def test_two_strategies_with_the_same_answers_do_not_keep_a_goal_from_being_reached(goal: str) -> None:
    answers = {(name, f"r{k}"): f"{name[0]} says {k}" for name in ("one", "other", "two", "x", "y") for k in range(60)}
    strength = {"one": 5.0, "other": 5.0, "two": 4.0, "x": 3.0, "y": 2.0}
    tournament = make_tournament(Field.of(answers), goal=Goal(goal, k=2), verdict_budget=1_200)
    play(tournament, favouring(strength, noise=0.2))
    assert tournament.done is not None and tournament.done.reason == "goal"


@pytest.mark.slow
@pytest.mark.parametrize("budget", [5, 23, 40, 77])
@pytest.mark.parametrize("format", FORMATS)
def test_a_newcomer_is_played_within_the_budget(format: str, budget: int) -> None:
    names, requests = ["a", "b", "c", "d"], [f"r{k}" for k in range(8)]
    before = make_tournament(Field.full(names, requests), format=format, verdict_budget=budget, confidence=None)
    past = play(before, capricious)
    larger = Field.full([*names, "e"], requests)
    for allowed in (budget, budget + 7):
        after = make_tournament(larger, format=format, verdict_budget=allowed, confidence=None, past_results=past)
        new = play(after, capricious)
        assert after.verdicts == sum(result.verdicts for result in past + new) <= max(allowed, before.verdicts)


def test_a_reached_goal_is_reached_for_each_request_alone() -> None:
    field = Field.full(["a", "b", "c"], [f"r{k}" for k in range(40)])
    judge = favouring({"a": 9, "b": 2, "c": 1}, noise=0.1)
    whole = make_tournament(field)
    past = play(whole, judge)
    assert whole.done is not None and whole.done.reason == "goal"
    for request in field.requests:
        alone = make_tournament(field, past_results=past, only_requests=[request])
        assert alone.done == whole.done


@pytest.mark.slow
def test_auto_asks_nothing_more_when_the_contenders_have_met_everyone() -> None:
    strength = {"a": 99.0, "b": 99.0} | {f"weak{k}": float(k) for k in range(10)}
    field = Field.full(list(strength), [f"r{k}" for k in range(12)])

    def judge(match: Match) -> Result:
        if (match.a, match.b) == ("a", "b"):
            return Result(match, 0.5)
        return favouring(strength)(match)

    tournament = make_tournament(field, goal=Goal("best", margin=0.0), confidence=0.99)
    play(tournament, judge)
    assert tournament.done is not None and tournament.done.reason == "exhausted"
    assert 0.4 < tournament.done.confidence < 0.6
    assert tournament.verdicts < 0.6 * 2 * 12 * 66


@pytest.mark.slow
@pytest.mark.parametrize("goal", GOALS)
def test_hundreds_of_strategies_get_their_first_matches(goal: str) -> None:
    tournament = make_tournament(Field.full([f"s{k:03d}" for k in range(300)], ["r0", "r1"]), goal=goal)
    assert len(tournament.next_matches()) >= 150


def test_unscored_matches_cost_and_tell_nothing() -> None:
    field = Field.full(["a", "b", "c"], ["r0", "r1"])
    tournament = make_tournament(field, format="round_robin", confidence=None)
    results = play(tournament, lambda match: Result(match, None))
    assert tournament.verdicts == len(results) == 12
    assert [s.strength for s in tournament.standings] == [0, 0, 0]
    assert results[0].winner is None


def test_identical_answers_end_a_tournament_without_a_verdict() -> None:
    cells = {(s, r): "Paris." for s in ("a", "b", "c") for r in ("r0", "r1")}
    tournament = make_tournament(Field.of(cells), format="round_robin", confidence=None)
    ties = tournament.take_ties()
    assert tournament.done is not None and tournament.verdicts == 0
    assert len(ties) == 6


def test_a_jury_counts_as_many_verdicts_as_it_has_judges() -> None:
    field = Field.full(["a", "b", "c"], ["r0", "r1"])
    tournament = make_tournament(field, confidence=None, verdicts_per_match=3, verdict_budget=10)
    results = play(tournament, lambda match: Result(match, 1.0, verdicts=3))
    assert len(results) == 3 and tournament.verdicts == 9
    assert tournament.done is not None and tournament.done.reason == "budget"


def test_recording_what_was_not_asked_says_so() -> None:
    field = Field.full(["a", "b"], ["r0", "r1"])
    tournament = make_tournament(field, format="round_robin")
    (match,) = tournament.next_matches(1)
    with pytest.raises(InputError, match="not waiting"):
        tournament.record([Result(Match("r7", "a", "b", 0, 0), 1.0)])
    tournament.record([Result(match, 1.0)])
    with pytest.raises(InputError, match="not waiting"):
        tournament.record([Result(match, 1.0)])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"format": "elo"}, "round_robin"),
        ({"goal": "worst"}, "top_k"),
        ({"confidence": 95}, "confidence"),
        ({"verdict_budget": -1}, "verdict_budget"),
        ({"verdicts_per_match": 0}, "verdicts_per_match"),
    ],
)
def test_a_wrong_argument_is_named_with_what_would_be_right(arguments: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        make_tournament(Field.full(["a", "b"], ["r0"]), **arguments)


# ── the posterior ────────────────────────────────────────────────────────────────────────────────────────────────


@LAW
@given(
    st.integers(2, 8).flatmap(
        lambda n: st.lists(st.integers(0, 9), min_size=n * n, max_size=n * n).map(
            lambda counts: np.array(counts, dtype=float).reshape(n, n)
        )
    )
)
def test_reversing_all_verdicts_reverses_all_strengths(wins: np.ndarray) -> None:
    np.fill_diagonal(wins, 0)
    one, other = fit(wins), fit(wins.T)
    assert np.allclose(one.mean, -other.mean, atol=1e-6)
    assert (np.linalg.eigvalsh(one.covariance) > 0).all()


def test_strategies_that_never_met_keep_the_prior() -> None:
    wins = np.zeros((4, 4))
    wins[0, 1] = 20
    posterior = fit(wins)
    assert posterior.mean[0] > 1 and posterior.mean[1] < -1
    assert np.allclose(posterior.mean[2:], 0)
    assert np.isclose(posterior.covariance[3, 3], posterior.prior_spread**2)


@pytest.mark.parametrize(("repeats", "low", "high"), [(True, 0.0, 0.1), (False, 0.85, 1.0)])
def test_the_other_order_counts_for_what_it_teaches(repeats: bool, low: float, high: float) -> None:
    """A judge that says the same in both orders gave one opinion; one that tosses a coin again gave two."""
    rng = np.random.default_rng(8)
    a, b = np.triu_indices(6, 1)
    a, b, request = np.repeat(a, 60), np.repeat(b, 60), np.tile(np.arange(60), 15)
    table = Results(Field.full([f"s{k}" for k in range(6)], [f"r{k:02d}" for k in range(60)]))
    first = rng.integers(0, 2, len(a)).astype(float)
    second = first if repeats else rng.integers(0, 2, len(a)).astype(float)
    table.add(np.stack([a, b, request, np.zeros_like(a)], axis=1), first, len(a))
    before = fit_posterior(table)
    table.add(np.stack([a, b, request, np.ones_like(a)], axis=1), second, len(a))
    after = fit_posterior(table)
    assert low <= after.second_order <= high
    if repeats:
        assert np.allclose(after.mean, before.mean, atol=0.02)
    assert table.verdicts == 1800


def test_intervals_of_the_posterior_cover_planted_strengths() -> None:
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(60):
        truth = rng.normal(size=10)
        p = 0.05 + 0.9 / (1 + np.exp(truth[None, :] - truth[:, None]))
        wins = np.triu(rng.binomial(12, p), 1).astype(float)
        wins += np.tril(12 - wins.T, -1)
        posterior = fit(wins)
        # Only differences are told apart by matches; the level is the prior's.
        error = (posterior.mean[0] - posterior.mean[1]) - (truth[0] - truth[1])
        variance = posterior.covariance[0, 0] + posterior.covariance[1, 1] - 2 * posterior.covariance[0, 1]
        inside.append(abs(error) < 1.96 * np.sqrt(variance))
    assert np.mean(inside) >= 0.87  # 95 % in truth: fewer than 52 of 60 has probability 0.7 %


# ── the benchmark's simulation ───────────────────────────────────────────────────────────────────────────────────


def planted_log_odds() -> LogOdds:
    rng = np.random.default_rng(0)
    values = np.linspace(-12, -5, 32)[:, None] + 5 * rng.standard_normal((32, 150))
    return LogOdds(tuple(f"m{k:02d}" for k in range(32)), tuple(f"r{k:03d}" for k in range(150)), values)


def test_the_simulated_judge_answers_the_same_when_asked_again_and_mirrored() -> None:
    judge = SimulatedJudge(draw_field(planted_log_odds(), 8, 1.0, seed=4), seed=4)
    rng = np.random.default_rng(1)
    a, b = rng.integers(8, size=(2, 4000))
    a, b = a[a != b], b[a != b]
    request, first = rng.integers(100, size=len(a)), rng.random(len(a)) < 0.5
    said = judge.a_wins(a, b, request, first)
    assert (said == judge.a_wins(a, b, request, first)).all()
    assert (said != judge.a_wins(b, a, request, ~first)).all()
    other_judge = SimulatedJudge(judge.field, seed=5)
    assert (said != other_judge.a_wins(a, b, request, first)).any()


def test_the_simulated_judge_favours_the_first_as_often_as_it_says() -> None:
    field = draw_field(planted_log_odds(), 32, 0.25, seed=2)
    judge = SimulatedJudge(field, seed=2)
    a, b = np.triu_indices(32, 1)
    a, b, request = np.repeat(a, 100), np.repeat(b, 100), np.tile(np.arange(100), len(a))
    first = judge.a_wins(a, b, request, np.ones(len(a), bool)).mean()
    second = judge.a_wins(a, b, request, np.zeros(len(a), bool)).mean()
    assert abs(first - second - 0.13 * (0.6 - 0.4)) < 0.009
    expected = 0.87 * field.preference(a, b, request).mean() + 0.13 / 2
    assert abs((first + second) / 2 - expected) < 0.005


def test_a_field_larger_than_the_data_keeps_their_spread() -> None:
    log_odds = planted_log_odds()
    field = draw_field(log_odds, 128, 1.0, seed=1)
    means, real = field.theta.mean(axis=1).std(), 0.72 * log_odds.means.std()
    assert 0.8 < means / real < 1.25
    assert 0.8 < (field.theta - field.theta.mean(axis=1, keepdims=True)).std() / (0.227 * 5) < 1.2
    assert len(np.unique(field.win_rate)) == 128


def test_verdicts_until_reads_a_monotone_fit() -> None:
    assert np.allclose(benchmark._isotonic(np.array([0.0, 0.9, 0.7, 1.0])), [0, 0.8, 0.8, 1])
    verdicts = np.array([10.0, 100.0, 150.0])

    def run(*best: float) -> benchmark.Run:
        nothing = np.zeros(3)
        return benchmark.Run(verdicts, np.array(best), nothing, nothing, "budget", 0.5)

    until = benchmark.verdicts_until([run(0, 1, 1), run(0, 1, 1)], "best", 1000)
    assert until is not None and 100 <= until <= 105
    assert benchmark.verdicts_until([run(0, 1, 1), run(0, 1, 0)], "best", 1000) is None
