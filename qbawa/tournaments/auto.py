"""The default: halving for a rough picture of who is good, then every verdict where the goal is still open."""

from __future__ import annotations

from qbawa.tournaments.board import Board, Pairings
from qbawa.tournaments.goals import Goal, Reading
from qbawa.tournaments.halving import propose_opening
from qbawa.tournaments.information import settle
from qbawa.tournaments.posterior import Posterior


def propose_auto(
    board: Board, posterior: Posterior, reading: Reading, goal: Goal, size: int, orders: int, seed: int
) -> Pairings:
    """The next round: a short halving where the top is wanted, then whatever settles the goal.

    For a whole order halving would look at the wrong end of the field, so that goes straight on to settling.
    """
    if goal.name in ("best", "top_k"):
        opening = propose_opening(board, posterior, orders, seed)
        if len(opening):
            return opening
    return settle(board, posterior, reading, size, orders)
