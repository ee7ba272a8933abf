"""Tournaments: the best strategy, the order of all, or the most training pairs, for the fewest verdicts.

field = Field.of({("terse", "r1"): "Paris.", ("long", "r1"): "It is Paris.", ...})
tournament = make_tournament(field, goal="best", verdict_budget=2_000)
while not tournament.done:
    matches = tournament.next_matches(limit=500)
    tournament.record([Result(match, p_a=judge(match)) for match in matches])
tournament.answer, tournament.done.confidence
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from qbawa.errors import InputError
from qbawa.tournaments.formats.goals import GOALS, Goal, GoalName, Reading
from qbawa.tournaments.formats.posterior import Posterior, fit
from qbawa.tournaments.formats.results_table import Field, Match, Result, Winner
from qbawa.tournaments.formats.tournament import FORMATS, FormatName, Standing, Stop, Tournament, round_size

__all__ = [
    "FORMATS", "GOALS", "Field", "FormatName", "Goal", "GoalName", "Match", "Posterior", "Reading", "Result",
    "Standing", "Stop", "Tournament", "Winner", "fit", "make_tournament", "round_size",
]  # fmt: skip


def make_tournament(
    field: Field,
    *,
    format: FormatName = "auto",
    goal: GoalName | Goal = "best",
    confidence: float | None = 0.95,
    verdict_budget: int | None = None,
    verdicts_per_match: int = 1,
    orders: Literal[1, 2] = 2,
    seed: int = 0,
    past_results: Iterable[Result] = (),
    only_requests: Sequence[str] | None = None,
    newcomers: Collection[str] = (),
    newcomer_verdicts: int = 0,
) -> Tournament:
    """A tournament, new or resumed: what it asks depends on these arguments and on results alone.

    confidence None plays on until the budget is spent or no match is left. `verdict_budget` counts all verdicts,
    `past_results` included. `verdicts_per_match` is the size of the jury. `orders` 2 lets a pair that has met on all
    requests be judged again the other way round; 1 forbids that. `only_requests` restricts new matches to these
    requests (the Dagster asset has one partition each); results elsewhere still inform. Once the budget is spent,
    `newcomer_verdicts` more go to matches in which one of the strategies `newcomers` plays.
    Raises InputError, naming the argument, for values that make no sense.
    """
    if format not in FORMATS:
        raise InputError(f"Received invalid value `format={format}`. Valid values are: {', '.join(FORMATS)}.")
    if confidence is not None and not 0.5 <= confidence < 1:
        raise InputError(f"`confidence` is a probability from 0.5 to below 1, or None; received {confidence}.")
    if verdict_budget is not None and verdict_budget < 0:
        raise InputError(f"`verdict_budget` is a count ≥ 0, or None; received {verdict_budget}.")
    if verdicts_per_match < 1 or orders not in (1, 2) or seed < 0:
        raise InputError(
            "`verdicts_per_match` must be ≥ 1, `orders` 1 or 2 and `seed` ≥ 0; received "
            f"{verdicts_per_match}, {orders} and {seed}."
        )
    wanted = Goal(goal) if isinstance(goal, str) else goal
    return Tournament(
        field, format, wanted, confidence, verdict_budget, verdicts_per_match, orders, seed, past_results, only_requests,
        newcomers, newcomer_verdicts,
    )  # fmt: skip
