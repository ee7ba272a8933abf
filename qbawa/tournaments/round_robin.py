"""Round robin: everyone meets everyone on each request. The yardstick: unbiased whatever the judge does, and dear."""

from __future__ import annotations

import numpy as np

from qbawa.tournaments.board import NO_PAIRINGS, Board, Pairings
from qbawa.tournaments.brackets import next_wave


def propose_round_robin(board: Board, orders: int) -> Pairings:
    """All matches not yet asked on the next wave of requests."""
    a, b = np.triu_indices(board.strategies, 1)
    present = board.field.present
    sheets = board.sheets(orders)
    waiting = sheets[~np.isin(sheets, list(board.decided))]
    while len(waiting):
        wave, waiting = next_wave(waiting, len(sheets))
        batch = []
        for sheet in map(int, wave):
            order, request = divmod(sheet, board.requests)
            wanted = present[a, request] & present[b, request] & ~board.asked_on(sheet)[a, b]
            rows = np.empty((int(wanted.sum()), 4), dtype=np.int64)
            rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3] = a[wanted], b[wanted], request, order
            batch.append(rows)
            if not len(rows):
                board.decided.add(sheet)
        table = np.concatenate(batch)
        if len(table):
            return table
    return NO_PAIRINGS
