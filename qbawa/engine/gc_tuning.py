"""Python's garbage collector, kept from looking at what will not become garbage."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def gc_tuned() -> Iterator[None]:
    """While it lasts, the collector skips imported modules and looks at thousands of waiting calls only now and then.

    Without it a third of the CPU of a large run goes into looking at them again and again (docs/engine.md).
    An application that has frozen its own heap keeps it frozen.
    """
    before = gc.get_threshold()
    freeze = gc.get_freeze_count() == 0
    if freeze:
        gc.collect()  # garbage that is frozen would stay
        gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if freeze:
            gc.unfreeze()
