"""Calls that take dollars under a cap and wait for them, in one process."""

import asyncio

import pytest

from qbawa.engine.budget import Budget
from qbawa.errors import BudgetError


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


async def test_a_cap_can_be_spent_to_the_last_cent() -> None:
    budget = Budget(usd_per_run=1.0)
    for _ in range(2):
        budget.settle(await budget.reserve("s", lambda: 0.5), 0.5)
    with pytest.raises(BudgetError, match=r"cap of \$1 a run is reached: \$1.0000 are spent"):
        await budget.reserve("s", lambda: 0.01)
