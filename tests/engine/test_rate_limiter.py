"""The limiter: what leaves, when, and in which order. Time is a simulated clock of a real event loop."""

import asyncio
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_provider import FixedLoad, simulate

from qbawa.engine.calls import ModelCall
from qbawa.engine.rate_limiter import BURST_S, PACE, RateLimiter
from qbawa.engine.token_usage import TokenUsage
from qbawa.errors import NotMadeError


def departures(
    gate_settings: dict[str, Any], loads: list[tuple[float, float]], latency_s: float
) -> list[tuple[float, int, float]]:
    """(time, number, tokens used) of each call; a load is (tokens expected, tokens used)."""
    left: list[tuple[float, int, float]] = []

    async def run() -> None:
        limiter = RateLimiter(**gate_settings)

        async def one(number: int, expected: float, used: float) -> None:
            load = FixedLoad(expected)
            await limiter.acquire(load)
            left.append((asyncio.get_running_loop().time(), number, used))
            await asyncio.sleep(latency_s)
            limiter.release(load, (0.0, used))

        await asyncio.gather(*(one(n, *load) for n, load in enumerate(loads)))
        assert limiter.in_flight == limiter.waiting == 0

    simulate(run)
    return left


@settings(max_examples=60, deadline=None)
@given(
    rpm=st.floats(30, 60_000),
    calls=st.integers(1, 400),
    latency_s=st.floats(0, 20),
    max_in_flight=st.integers(1, 300),
)
def test_no_window_lets_more_requests_go_than_rate_and_burst_allow(
    rpm: float, calls: int, latency_s: float, max_in_flight: int
) -> None:
    left = departures({"requests_per_minute": rpm, "max_in_flight": max_in_flight}, [(1, 1)] * calls, latency_s)
    times = [at for at, _, _ in left]
    rate = rpm / 60 * PACE
    burst = max(1.0, rate * BURST_S)
    for first in range(0, calls, max(1, calls // 20)):
        for last in range(first, calls):
            assert last - first + 1 <= burst + rate * (times[last] - times[first]) + 1e-6
    assert [number for _, number, _ in left] == list(range(calls)), "first come, first served"


@settings(max_examples=40, deadline=None)
@given(
    tpm=st.floats(1_000, 1e7),
    loads=st.lists(st.tuples(st.floats(1, 3_000), st.floats(1, 3_000)), min_size=1, max_size=200),
    latency_s=st.floats(0, 5),
)
def test_reserved_tokens_stay_within_the_limit_where_estimates_are_right(
    tpm: float, loads: list[tuple[float, float]], latency_s: float
) -> None:
    loads = [(used, used) for _, used in loads]
    left = departures({"tokens_per_minute": tpm}, loads, latency_s)
    rate = tpm / 60 * PACE
    # One call may be larger than a burst; it waits for a full bucket and leaves a debt.
    slack = max(1.0, rate * BURST_S) + max(used for _, used in loads)
    total = 0.0
    for at, _, used in left:
        total += used
        assert total <= slack + rate * at + 1e-3


def test_the_whole_request_limit_is_used() -> None:
    left = departures({"requests_per_minute": 10_000, "max_in_flight": 5_000}, [(1, 1)] * 10_000, 7.0)
    minutes = left[-1][0] / 60
    assert 0.99 < 10_000 / minutes / 10_000 <= 1.0


def test_tokens_used_beyond_the_estimate_are_paid_back() -> None:
    # Every call uses twice what was expected, so calls leave half as often as the estimate alone would let them.
    left = departures({"tokens_per_minute": 60_000}, [(100, 200)] * 500, 0.5)
    assert 500 * 200 / left[-1][0] == pytest.approx(1_000 * PACE, rel=0.05)


def test_never_more_in_flight_than_allowed() -> None:
    async def run() -> int:
        limiter, most = RateLimiter(max_in_flight=7), 0

        async def one() -> None:
            nonlocal most
            load = FixedLoad(1)
            await limiter.acquire(load)
            most = max(most, limiter.in_flight)
            await asyncio.sleep(1)
            limiter.release(load, None)

        await asyncio.gather(*(one() for _ in range(50)))
        return most

    assert simulate(run) == 7


def test_limits_named_by_headers_count_where_they_are_lower() -> None:
    async def run() -> None:
        limiter = RateLimiter(requests_per_minute=600, tokens_per_minute=None)
        limiter.apply_limits(6_000, 60_000)
        await limiter.acquire(FixedLoad(1))
        assert limiter.requests_per_second == pytest.approx(10 * PACE)
        assert limiter.tokens_per_second == pytest.approx(1_000 * PACE)
        limiter.apply_limits(60, None)
        await limiter.acquire(FixedLoad(1))
        assert limiter.requests_per_second == pytest.approx(1 * PACE)

    simulate(run)


def test_retries_go_before_those_who_wait() -> None:
    async def run() -> list[str]:
        limiter, order = RateLimiter(requests_per_minute=60), []

        async def one(name: str, front: bool) -> None:
            await limiter.acquire(FixedLoad(1), front=front)
            order.append(name)

        async with asyncio.TaskGroup() as group:
            for name in ("first", "second", "third"):
                group.create_task(one(name, False))
            await asyncio.sleep(0.1)
            group.create_task(one("retry", True))
        return order

    assert simulate(run) == ["first", "retry", "second", "third"]


def test_a_permit_given_back_unused_is_the_next_ones() -> None:
    async def run() -> float:
        limiter = RateLimiter(requests_per_minute=60)
        for _ in range(5):
            load = FixedLoad(1)
            await limiter.acquire(load)
            limiter.cancel(load)
        await limiter.acquire(FixedLoad(1))
        return asyncio.get_running_loop().time()

    assert simulate(run) == 0.0


def test_a_first_short_answer_does_not_make_long_ones_look_short() -> None:
    usage = TokenUsage()
    call = ModelCall("m", ({"role": "user", "content": "x" * 400},), {"max_tokens": 1_000})
    before = usage.load(call).tokens
    load = usage.load(call)
    load.start()
    load.finish((100, 1))
    assert usage.load(call).tokens > 0.9 * before


def test_a_closed_limiter_turns_everybody_away_and_a_cancelled_waiter_costs_no_permit() -> None:
    async def run() -> None:
        limiter = RateLimiter(max_in_flight=1)
        inside = FixedLoad(1)
        await limiter.acquire(inside)
        waiting = asyncio.create_task(limiter.acquire(FixedLoad(1)))
        given_up = asyncio.create_task(limiter.acquire(FixedLoad(1)))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        limiter.close(NotMadeError("over"))
        with pytest.raises(NotMadeError):
            await waiting
        with pytest.raises(NotMadeError):
            await limiter.acquire(FixedLoad(1))
        limiter.release(inside, None)
        assert limiter.in_flight == 0

    simulate(run)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5_000), st.integers(1, 4_000), st.integers(0, 4_000)), min_size=1, max_size=60),
    st.data(),
)
def test_what_is_set_aside_always_sums_to_what_is_used_and_what_is_under_way(
    calls: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    """Whatever the order of endings: taken tokens = used by the ended + expected, as known now, of those under way."""
    token_usage = TokenUsage()
    taken = used_total = 0.0
    under_way = []
    for chars, tokens_in, tokens_out in calls:
        load = token_usage.load(ModelCall("m", ({"role": "user", "content": "x" * chars},)))
        taken += load.tokens
        load.start()
        under_way.append((load, (tokens_in, tokens_out)))
        if data.draw(st.booleans()):
            ended, used = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
            failed = data.draw(st.booleans())
            taken += ended.finish(None if failed else used)
            used_total += 0 if failed else sum(used)
    expected = used_total + sum(load.tokens for load, _ in under_way)
    assert math.isclose(taken, expected, rel_tol=1e-6, abs_tol=1e-3)
