"""The default: halving for a rough picture of who is good, then every verdict where the goal is still open."""

from __future__ import annotations

from qbawa.tournaments.formats.goals import Goal, Reading
from qbawa.tournaments.formats.information_gain import choose_contrasts
from qbawa.tournaments.formats.posterior import Posterior
from qbawa.tournaments.formats.results_table import Pairings, Results
from qbawa.tournaments.formats.successive_halving import propose_opening


def propose_auto(
    results: Results, posterior: Posterior, reading: Reading, goal: Goal, size: int, orders: int, seed: int
) -> Pairings:
    """The next round: a short halving where the top is wanted, then whatever settles the goal.

    For a whole order halving would look at the wrong end of the field, so that goes straight on to settling.
    """
    if goal.name in ("best", "top_k"):
        opening = propose_opening(results, posterior, orders, seed)
        if len(opening):
            return opening
    return choose_contrasts(results, posterior, reading, size, orders)
