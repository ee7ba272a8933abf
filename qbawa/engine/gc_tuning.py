"""Python's garbage collector, kept from looking at what will not become garbage."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

# The collector is the process's, and engines in several threads may overlap: the last one out leaves it as the first found it.
_changing = threading.Lock()
_under_way = 0
_before: tuple[tuple[int, int, int], bool] | None = None


@contextlib.contextmanager
def gc_tuned() -> Iterator[None]:
    """While it lasts, the collector skips imported modules and looks at thousands of waiting calls only now and then.

    Without it a third of the CPU of a large run goes into looking at them again and again (docs/engine.md).
    An application that has frozen its own heap keeps it frozen.
    """
    global _under_way, _before
    with _changing:
        _under_way += 1
        if _before is None:
            _before = gc.get_threshold(), gc.get_freeze_count() == 0
            if _before[1]:
                gc.collect()  # garbage that is frozen would stay
                gc.freeze()
            gc.set_threshold(20_000, 20, 50)
    try:
        yield
    finally:
        with _changing:
            _under_way -= 1
            if not _under_way and _before is not None:
                threshold, freeze = _before
                _before = None
                gc.set_threshold(*threshold)
                if freeze:
                    gc.unfreeze()
