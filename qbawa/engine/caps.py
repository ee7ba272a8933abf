"""What a run's own dollar cap and those of qbawa.yaml come to together, in sentences."""

from collections.abc import Iterator

from qbawa.config import BudgetConfig


def cap_notes(budget: BudgetConfig, usd: float | None, spent_today_usd: float = 0.0) -> Iterator[str]:
    """Where the file's caps stop a run before `usd` does: which one, and what to change. Nothing where they do not."""
    if usd is not None and budget.usd_per_run is not None and usd > budget.usd_per_run:
        yield (
            f"qbawa.yaml's cap applies: budget.usd_per_run is ${budget.usd_per_run:g}, below the ${usd:g} that were asked "
            "for. Raise it there to spend more."
        )
    if budget.usd_per_day is None:
        return
    left = max(0.0, budget.usd_per_day - spent_today_usd)
    spent = f", of which ${spent_today_usd:.4f} are spent today (UTC)" if spent_today_usd else ""
    if usd is not None and usd > left:
        yield (
            f"qbawa.yaml's cap applies: budget.usd_per_day is ${budget.usd_per_day:g}{spent}, so at most ${left:.4f} of the "
            f"${usd:g} that were asked for can be spent. Raise it there to spend more."
        )
    elif not left:
        yield (
            f"The cap of a day is used up: budget.usd_per_day is ${budget.usd_per_day:g}{spent}. Until tomorrow (UTC), or "
            "until it is raised in qbawa.yaml, nothing more is paid for."
        )
