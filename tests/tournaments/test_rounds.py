"""What single rounds ask, on fields small enough to follow by hand."""

from __future__ import annotations

import pytest

from qbawa.tournaments.formats import Field, Match, Result, Tournament, make_tournament

ONE_REQUEST = ["r0"]


def bracket(format: str, strategies: int) -> Tournament:
    """On one request, shown in one order."""
    field = Field.full([f"s{k}" for k in range(strategies)], ONE_REQUEST)
    return make_tournament(field, format=format, confidence=None, orders=1)


def players(matches: list[Match]) -> set[str]:
    return {name for match in matches for name in (match.a, match.b)}


def play_round(tournament: Tournament) -> list[Match]:
    """This round's matches, which the higher number has won."""
    matches = tournament.next_matches()
    tournament.record([Result(match, float(match.a > match.b)) for match in matches])
    return matches


@pytest.mark.parametrize("strategies", [6, 7, 8])
def test_in_swiss_winners_meet_winners_next_and_a_bye_is_a_win(strategies: int) -> None:
    tournament = bracket("swiss", strategies)
    first = play_round(tournament)
    rested = set(tournament.field.strategies) - players(first)
    assert len(rested) == strategies % 2
    won = rested | {max(match.a, match.b) for match in first}
    mixed = [match for match in tournament.next_matches() if (match.a in won) != (match.b in won)]
    assert len(mixed) == len(won) % 2, "only the odd one out of the winners meets a loser"


@pytest.mark.parametrize("format", ["single_elimination", "double_elimination"])
def test_who_had_a_bye_plays_in_the_next_round(format: str) -> None:
    tournament = bracket(format, 5)
    rested = set(tournament.field.strategies) - players(play_round(tournament))
    assert len(rested) == 1 and rested < players(tournament.next_matches())


def test_a_goal_is_reached_only_where_two_looks_in_a_row_are_sure() -> None:
    tournament = make_tournament(Field.full(["a", "b", "c"], [f"r{k}" for k in range(40)]), confidence=0.8)
    looks = []
    while tournament.done is None:
        play_round(tournament)
        looks.append(tournament.reading.confidence)
    assert tournament.done.reason == "goal"
    sure = [look >= 0.8 for look in looks]
    assert sure == [False] * (len(looks) - 2) + [True, True]


def test_the_last_verdicts_of_a_budget_are_spent() -> None:
    field = Field.full(["a", "b", "c", "d"], ONE_REQUEST)
    tournament = make_tournament(field, format="round_robin", confidence=None, verdicts_per_match=3, verdict_budget=9)
    asked = []
    while tournament.done is None:
        asked.append(tournament.next_matches())
        tournament.record([Result(match, 1.0, verdicts=3) for match in asked[-1]])
    assert [len(matches) for matches in asked] == [2, 1] and tournament.verdicts == 9


def test_newcomers_alone_play_only_once_the_budget_cannot_pay_a_match() -> None:
    field = Field.full(["a", "b", "c", "d"], ONE_REQUEST)
    tournament = make_tournament(
        field,
        format="round_robin",
        confidence=None,
        orders=1,
        verdict_budget=1,
        newcomers=["b"],
        newcomer_verdicts=2,
    )
    (last_paid,) = play_round(tournament)
    assert (last_paid.a, last_paid.b) == ("a", "d")
    late = tournament.next_matches()
    assert late and all("b" in (match.a, match.b) for match in late)


def test_ties_of_identical_answers_need_no_budget() -> None:
    answers = {(name, "r0"): name for name in "abef"} | {("c", "r0"): "the same", ("d", "r0"): "the same"}
    tournament = make_tournament(Field.of(answers), format="round_robin", confidence=None, orders=1, verdict_budget=1)
    assert [(match.a, match.b) for match in tournament.next_matches()] == [("a", "f")]
    assert [(match.a, match.b) for match in tournament.take_ties()] == [("c", "d")], "after one that cannot be paid"
