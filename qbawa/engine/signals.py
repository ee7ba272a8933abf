"""SIGTERM ends a run as leaving it does: what is in flight is waited for and journalled first."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def ending_on_sigterm(end: Callable[[], None]) -> Iterator[None]:
    """Call `end` on the event loop when SIGTERM comes; at the block's end pass the signal on to whoever had it before.

    Only in the main thread, where Python lets signals be handled; elsewhere, and on loops that cannot, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    came = False

    def note() -> None:
        nonlocal came
        if not came:
            came = True
            end()

    try:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, note)
    except (NotImplementedError, RuntimeError, ValueError):
        yield
        return
    try:
        yield
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
        if came:
            os.kill(os.getpid(), signal.SIGTERM)
