"""SIGTERM and Ctrl-C end a run as leaving it does: what is in flight is waited for and journalled first."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDING = (signal.SIGTERM, signal.SIGINT)
"""Dagster cancels a run by a SIGINT too."""


@contextmanager
def ending_on_signals(end: Callable[[], None], give_up: Callable[[], None]) -> Iterator[None]:
    """Call `end` on the event loop when one of ENDING comes, `give_up` when another follows.

    At the block's end the first is passed on to whoever had it before. Only in the main thread, where Python lets signals
    be handled; elsewhere, and on loops that cannot, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, before = asyncio.get_running_loop(), {number: signal.getsignal(number) for number in ENDING}
    came: list[signal.Signals] = []

    def note(number: signal.Signals) -> None:
        came.append(number)
        end() if len(came) == 1 else give_up()

    try:
        for number in ENDING:
            loop.add_signal_handler(number, note, number)
    except (NotImplementedError, RuntimeError, ValueError):
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if came:
            os.kill(os.getpid(), came[0])
