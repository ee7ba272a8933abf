"""Calls that wait for dollars under a cap, in one process."""

import asyncio

from qbawa.engine.budget import Budget


async def until_idle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_call_that_waits_for_dollars_keeps_its_place_before_cheaper_ones() -> None:
    budget = Budget(usd_per_run=10.0)
    first, second, third = [await budget.reserve("s", lambda cost=cost: cost) for cost in (4.0, 3.0, 3.0)]
    through: list[str] = []

    async def wait_for(name: str, cost_usd: float) -> None:
        await budget.reserve("s", lambda: cost_usd)
        through.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(wait_for("costly", 6.0))
        await until_idle()
        group.create_task(wait_for("cheap", 3.0))
        for done, so_far in ((second, []), (third, ["costly"]), (first, ["costly", "cheap"])):
            await until_idle()
            budget.settle(done, 0.0)
            await until_idle()
            assert through == so_far
