"""What every run that asks models reports, whatever it asked them for."""

from dataclasses import dataclass

from qbawa.engine.progress import Stats


@dataclass(kw_only=True)
class RunReport:
    """Calls, dollars and time of a run. What it was for, a report of its own adds."""

    calls_paid: int = 0
    calls_cached: int = 0
    cost_usd: float = 0.0
    """Paid by this run, as far as tokens were counted."""
    unknown_usd: float = 0.0
    """What it may have paid besides, at most; it counts under the caps."""
    seconds: float = 0.0

    def count(self, stats: Stats) -> None:
        """Take over what the engine has counted."""
        self.calls_paid, self.calls_cached = stats.answered, stats.cached
        self.cost_usd, self.unknown_usd = stats.cost_usd, stats.unknown_usd

    def spent(self) -> str:
        """Calls, dollars and time, for the report's line."""
        uncounted = f" and at most ${self.unknown_usd:.4f} that nobody counted" if self.unknown_usd else ""
        return (
            f"{self.calls_paid:,} calls made, {self.calls_cached:,} found in the ledger; "
            f"${self.cost_usd:.4f}{uncounted}, {self.seconds:.1f} s"
        )

    def spent_values(self) -> dict[str, float]:
        """Dollars, calls and time as plain values, for a UI."""
        return {
            "cost_usd": round(self.cost_usd, 6),
            "calls_paid": self.calls_paid,
            "seconds": round(self.seconds, 1),
        }
