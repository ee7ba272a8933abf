"""Long work says how far it is from its first second on; what is quick says nothing."""

from __future__ import annotations

import pytest

from qbawa.engine.counted import Counted


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def said(total: int, seconds_each: float) -> list[tuple[float, str]]:
    """When and what work of so many pieces says."""
    clock = Clock()
    lines: list[tuple[float, str]] = []
    work = Counted(lambda line: lines.append((clock.now - 100.0, line)), "drawing", total, "brackets", clock=clock)
    for _ in range(total):
        clock.now += seconds_each
        work.advance()
    return lines


def test_work_of_less_than_a_second_says_nothing() -> None:
    assert said(100, 0.009) == []


def test_the_first_line_comes_after_a_second_with_rate_and_time_left() -> None:
    lines = said(100, 0.25)
    assert lines[0] == (1.0, "drawing 4/100 brackets · 4/s · 24 s left")
    assert lines[-1] == (25.0, "drawing 100/100 brackets in 25 s")


@pytest.mark.parametrize("seconds_each", [0.05, 0.3, 2.0])
def test_there_is_never_a_long_silence(seconds_each: float) -> None:
    lines = said(200, seconds_each)
    moments = [0.0, *(at for at, _ in lines)]
    gaps = [after - before for before, after in zip(moments, moments[1:], strict=False)]
    assert max(gaps) <= 5.0 + seconds_each and len(lines) <= 200 * seconds_each / 5 + 3
