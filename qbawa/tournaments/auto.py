"""The default: one pass of halving for a rough picture, then every verdict where the goal is still open."""

from __future__ import annotations

from qbawa.tournaments.board import Board, Pairings
from qbawa.tournaments.goals import Reading
from qbawa.tournaments.halving import first_pass, propose_halving
from qbawa.tournaments.information import settle
from qbawa.tournaments.posterior import Posterior


def propose_auto(
    board: Board, posterior: Posterior, reading: Reading, size: int, orders: int, seed: int
) -> Pairings:
    """The next round."""
    if board.verdicts < first_pass(board.strategies):
        opening = propose_halving(board, posterior, orders, seed)
        if len(opening):
            return opening
    return settle(board, posterior, reading, size, orders)
