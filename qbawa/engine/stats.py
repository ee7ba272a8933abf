"""What an engine has done so far, and who is shown it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from qbawa.engine.engine import Engine


@dataclass(slots=True)
class Stats:
    """Counts since the engine was made."""

    asked: int = 0
    cached: int = 0
    """Answered by the ledger, or by a call that was under way for someone else."""
    answered: int = 0
    """Paid and journalled."""
    attempts: int = 0
    limited: int = 0
    """429s."""
    retries: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    """Final failures by reason."""
    not_made: int = 0
    raced: int = 0
    """Paid although another process had claimed the call, since it took too long."""
    cost_usd: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0


class Watcher(Protocol):
    """Shows progress while an engine runs; see `qbawa.engine.progress`."""

    async def watch(self, engine: Engine) -> None:
        """Show progress until cancelled."""

    def cell(self, outcome: Literal["ok", "failed", "missing"]) -> None:
        """Whoever answers cells says so here."""


class Silent:
    """Shows nothing."""

    async def watch(self, engine: Engine) -> None: ...

    def cell(self, outcome: Literal["ok", "failed", "missing"]) -> None: ...
