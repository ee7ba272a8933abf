"""What the per-request formats share: which requests play now, and the draw of each bracket.

Round robin, elimination and Swiss play one bracket per sheet (a request in one order of showing). Sheets open in
waves, each a tenth as large as all before together, so that a tournament can stop early and still is mostly
parallel: 100 brackets take about 33 waves. Everything is derived from the board; nothing else is remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

import numpy as np

from qbawa.tournaments.board import NO_PAIRINGS, Board, Pairings, pairings

# The matches that a sheet's bracket needs next, as (a, b), given its entrants as drawn; empty when it is decided.
Bracket = Callable[[Board, int, list[int]], list[tuple[int, int]]]

_GROWTH = 0.10


def play_waves(board: Board, bracket: Bracket, orders: int, seed: int) -> Pairings:
    """The next round of every open bracket; opens the next wave of sheets when all open ones are decided."""
    sheets = board.sheets(orders)
    begun = board.begun[sheets]
    rows = _next_matches(board, bracket, sheets[begun], seed)
    waiting = sheets[~begun]
    while not rows and len(waiting):
        # A sheet that needs no verdict (too few answers) opens and closes at once.
        wave, waiting = next_wave(waiting, len(sheets))
        rows = _next_matches(board, bracket, wave, seed)
    return pairings(rows, board.requests) if rows else NO_PAIRINGS


def next_wave(waiting: np.ndarray, sheets: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the sheets still waiting: those that open now, and the rest."""
    size = max(1, round(_GROWTH * (sheets - len(waiting))))
    return waiting[:size], waiting[size:]


def advances(board: Board, a: int, b: int, sheet: int) -> bool | None:
    """Whether a goes on against b, None if they have yet to play. On a tie the first named does."""
    p = board.outcome(a, b, sheet)
    return None if p is None else p >= 0.5


def _next_matches(board: Board, bracket: Bracket, sheets: np.ndarray, seed: int) -> list[tuple[int, int, int]]:
    rows: list[tuple[int, int, int]] = []
    for sheet in map(int, sheets):
        if sheet in board.decided:
            continue
        if sheet not in board.draws:
            board.draws[sheet] = _draw(board, sheet, seed)
        wanted = bracket(board, sheet, board.draws[sheet])
        rows += [(a, b, sheet) for a, b in wanted]
        if not wanted:
            board.decided.add(sheet)
    return rows


def _draw(board: Board, sheet: int, seed: int) -> list[int]:
    """Entrants by lot: by a checksum of request and strategy, so a newcomer does not reshuffle the others."""
    order, request = divmod(sheet, board.requests)
    prefix = f"{seed}/{order}/{board.field.requests[request]}/"
    names = board.field.strategies
    return sorted(map(int, board.entrants(sheet)), key=lambda e: (crc32((prefix + names[e]).encode()), names[e]))
