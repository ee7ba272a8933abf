"""How a step's verdict budget stands, and what there is to say of it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from qbawa.config import JudgeConfig
from qbawa.text import shorten


def verdicts_per_match(jury: Iterable[JudgeConfig]) -> int:
    """Verdicts that a jury gives on one match: one a judge, two where it is asked in both orders."""
    return sum(1 + (judge.order == "both" and judge.kind != "pointwise") for judge in jury)


@dataclass(frozen=True, slots=True)
class StepBudget:
    """How a step's verdict budget stands."""

    step: str
    verdicts: int
    """That count now."""
    budget: int
    """The verdict budget of qbawa.yaml."""
    for_newcomers: int
    """Verdicts beyond it, for strategies that came when it was used up."""
    used_up: bool
    """Not even one more match has room in both."""
    unjudged: tuple[str, ...]
    """Names of the strategies with answers of which no verdict counts."""

    def lines(self) -> Iterator[str]:
        """What there is to say: nothing while there is room and everybody was judged."""
        if self.used_up:
            yield (
                f"Step '{self.step}': the verdict budget is used up: {self.verdicts:,} of {self.budget:,} verdicts are given. "
                "New strategies get a share of their own; to go on with the others raise tournament.verdict_budget in qbawa.yaml."
            )
        elif self.for_newcomers:
            yield (
                f"Step '{self.step}': the verdict budget of {self.budget:,} was used up before the newest strategies came; "
                f"they have {self.for_newcomers:,} verdicts besides."
            )
        if self.unjudged:
            several = f"{len(self.unjudged)} strategies were" if len(self.unjudged) > 1 else "1 strategy was"
            yield f"Step '{self.step}': {several} answered by and never judged: {shorten(', '.join(self.unjudged), 300)}."
