"""Python's garbage collector during a run: out of the way, and afterwards as it was found."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from qbawa.engine import gc_tuning
from qbawa.engine.gc_tuning import gc_tuned


class Node:
    """Garbage once nobody knows it, since it knows itself."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def as_in_a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is frozen, which this test run itself has seen to; no engine that another test has left open counts."""
    monkeypatch.setattr(gc_tuning, "_under_way", 0)
    monkeypatch.setattr(gc_tuning, "_before", None)
    before = gc.get_threshold()
    gc.unfreeze()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)
    gc.freeze()


def test_what_was_there_is_not_looked_at_and_the_rest_seldom() -> None:
    before = gc.get_threshold()
    with gc_tuned():
        assert gc.get_freeze_count() > 10_000
        assert all(now > then for now, then in zip(gc.get_threshold(), before, strict=True))
    assert gc.get_freeze_count() == 0 and gc.get_threshold() == before


def test_garbage_is_collected_before_and_during_it() -> None:
    earlier, during = Node(), Node()
    gone = [weakref.ref(earlier)]
    del earlier
    with gc_tuned():
        assert gone[0]() is None
        during = Node()
        gone.append(weakref.ref(during))
        del during
        gc.collect()
        assert gone[1]() is None


def test_a_failure_within_it_leaves_the_collector_as_it_was() -> None:
    before = gc.get_threshold()
    with pytest.raises(ZeroDivisionError), gc_tuned():
        1 / 0  # noqa: B018
    assert gc.get_freeze_count() == 0 and gc.get_threshold() == before


def test_two_that_overlap_leave_the_collector_as_the_first_found_it() -> None:
    before = gc.get_threshold()
    first, second = gc_tuned(), gc_tuned()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold() != before, "one of them is still under way"
    second.__exit__(None, None, None)
    assert gc.get_threshold() == before and gc.get_freeze_count() == 0


def test_a_heap_that_an_application_has_frozen_stays_frozen_and_grows_by_nothing() -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    with gc_tuned():
        assert abs(gc.get_freeze_count() - frozen) < 100
    assert frozen - 100 < gc.get_freeze_count() <= frozen
