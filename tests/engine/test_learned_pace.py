"""What 429s do to the pace: nothing where they are lone, what is right where the provider grants less.

Calls go through a real limiter on an event loop whose clock jumps; the provider is simulated, by several seeds.
"""

import asyncio
import math
from collections.abc import Callable

import pytest
from simulated_provider import FixedLoad, SimulatedProvider, simulate, sweep

from qbawa.engine.rate_limiter import PACE, RateLimiter
from qbawa.errors import NotMadeError

pytestmark = pytest.mark.slow

SOLD = 10_000 / 60
SEEDS = pytest.mark.parametrize("seed", range(3))


def steady(per_second: float) -> Callable[[float], float]:
    return lambda now: per_second


def share_refused(provider: SimulatedProvider) -> float:
    return len(provider.refused) / (len(provider.refused) + len(provider.granted))


def one_by_one(limiter: RateLimiter, refused: Callable[[int], bool], calls: int, retry_after_s: float) -> list[float]:
    """When so many calls leave, those of which `refused` says so answered 429 at once."""

    async def run() -> list[float]:
        times = []
        for number in range(calls):
            load = FixedLoad(1)
            given = await limiter.acquire(load)
            times.append(asyncio.get_running_loop().time())
            if refused(number):
                limiter.refused(given, retry_after_s)
            limiter.release(load, None if refused(number) else (1, 0))
        return times

    return simulate(run)


def test_a_lone_429_holds_nobody_and_leaves_the_pace() -> None:
    limiter = RateLimiter(requests_per_minute=6_000)
    times = one_by_one(limiter, lambda number: number in (50, 150, 250), 300, retry_after_s=30.0)
    assert times[-1] < 300 / 100 + 0.1
    assert limiter.requests_per_second == pytest.approx(100 * PACE)
    assert limiter.limited == 3


def test_a_lone_429_at_the_very_first_call_leaves_the_pace() -> None:
    limiter = RateLimiter(requests_per_minute=6_000)
    times = one_by_one(limiter, lambda number: number == 0, 100, retry_after_s=30.0)
    assert times[-1] < 1.1


@SEEDS
@pytest.mark.parametrize(("stray", "least"), [(0.01, 0.97), (0.02, 0.95), (0.05, 0.85)])
def test_stray_429s_cost_only_their_own_calls(seed: int, stray: float, least: float) -> None:
    provider = SimulatedProvider(stray=stray, seed=seed)
    seconds = sweep(provider, 5_000, RateLimiter(10_000))
    assert len(provider.granted) == 5_000
    assert 5_000 / SOLD / seconds > least - 0.05  # the last call alone takes up to a second and a half
    assert 5_000 / SOLD / provider.granted[-1] > least - 0.02


@SEEDS
@pytest.mark.parametrize("refusal_s", [0.05, 3.0])
def test_429s_that_come_late_and_all_at_once_after_a_burst_are_still_stray(seed: int, refusal_s: float) -> None:
    provider = SimulatedProvider(stray=0.02, refusal_s=refusal_s, latency_s=(1, 10), seed=seed)
    sweep(provider, 5_000, RateLimiter(10_000))
    assert sum(at < 28 for at in provider.granted) / 28 / SOLD > 0.93


def test_429s_in_a_row_hold_everybody_for_as_long_as_asked() -> None:
    times = one_by_one(RateLimiter(requests_per_minute=6_000), lambda number: 20 <= number < 25, 30, retry_after_s=3.0)
    assert all(after - before < 0.1 for before, after in zip(times[:24], times[1:25], strict=True))
    assert times[25] >= times[24] + 3.0


@SEEDS
@pytest.mark.parametrize("configured", [10_000, None])
@pytest.mark.parametrize("stray", [0.0, 0.01])
def test_a_limit_lower_than_configured_is_found_and_used(seed: int, configured: float | None, stray: float) -> None:
    provider = SimulatedProvider(steady(0.6 * SOLD), stray=stray, seed=seed)
    sweep(provider, 6_000, RateLimiter(configured, max_in_flight=200), until=40)
    assert provider.share_granted(0, 40) > 0.97
    if configured and not stray:
        assert share_refused(provider) < 0.02


@SEEDS
def test_a_limit_is_found_though_the_token_limit_and_not_the_pace_of_requests_was_at_work(seed: int) -> None:
    # 83 calls a second leave by tokens, 167 would by requests, and 50 are granted.
    provider = SimulatedProvider(steady(50.0), seed=seed)
    sweep(provider, 4_000, RateLimiter(10_000, tokens_per_minute=5_000), until=60)
    assert provider.share_granted(10, 60) > 0.95
    assert share_refused(provider) < 0.05


@SEEDS
def test_a_limit_that_falls_at_once_is_followed_within_seconds(seed: int) -> None:
    provider = SimulatedProvider(lambda now: SOLD if now < 20 else SOLD / 2, seed=seed)
    sweep(provider, 8_000, RateLimiter(10_000), until=45)
    assert provider.share_granted(25, 45) > 0.95
    assert sum(at > 25 for at in provider.refused) < 0.05 * sum(at > 25 for at in provider.granted)


def test_a_passing_shortage_is_forgotten() -> None:
    provider = SimulatedProvider(lambda now: SOLD / 2 if 20 < now < 30 else SOLD)
    limiter = RateLimiter(10_000)
    sweep(provider, 14_000, limiter, until=90)
    assert provider.share_granted(70, 90) > 0.98
    assert limiter.requests_per_second == pytest.approx(SOLD * PACE)


@pytest.mark.parametrize("retry_after_s", [0.0, 0.05, 1.0, 20.0])
def test_a_provider_that_refuses_everything_is_not_hammered(retry_after_s: float) -> None:
    provider = SimulatedProvider(steady(1e-9), burst_s=0.0, retry_after_s=retry_after_s)
    sweep(provider, 2_000, RateLimiter(10_000), until=120)
    assert not provider.granted
    # 20,000 would leave at the configured pace.
    assert len(provider.refused) < 250
    late = sum(at > 60 for at in provider.refused)
    assert late < 60


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_that_share_a_limit_use_it_and_none_starves(seed: int, processes: int) -> None:
    provider = SimulatedProvider(steady(SOLD), seed=seed)
    limiters = [RateLimiter(10_000) for _ in range(processes)]
    sweep(provider, 6_000, *limiters, until=30)
    assert provider.share_granted(5, 30) > 0.95
    assert share_refused(provider) < 0.15
    assert min(limiter.sent - limiter.limited for limiter in limiters) > 0.02 * len(provider.granted)


def test_one_models_429s_leave_another_models_pace() -> None:
    async def run() -> tuple[float, float]:
        limited, other = RateLimiter(6_000), RateLimiter(6_000)
        for _ in range(40):
            load = FixedLoad(1)
            limited.refused(await limited.acquire(load), 0.1)
            limited.release(load, None)
        before = asyncio.get_running_loop().time()
        for _ in range(100):
            load = FixedLoad(1)
            await other.acquire(load)
            other.release(load, (1, 0))
        return asyncio.get_running_loop().time() - before, other.requests_per_second

    seconds, pace = simulate(run)
    assert seconds < 1.0
    assert pace == pytest.approx(100 * PACE)


def test_a_pause_ends_at_once_when_the_limiter_is_closed() -> None:
    async def run() -> float:
        limiter = RateLimiter(6_000)
        pausing = asyncio.create_task(limiter.pause(300))
        await asyncio.sleep(1)
        limiter.close(NotMadeError("over"))
        with pytest.raises(NotMadeError):
            await pausing
        with pytest.raises(NotMadeError):
            await limiter.pause(300)
        return asyncio.get_running_loop().time()

    assert simulate(run) == 1.0


def test_no_limit_and_no_429s_means_no_pace() -> None:
    limiter = RateLimiter()
    sweep(SimulatedProvider(), 500, limiter)
    assert limiter.requests_per_second == math.inf
