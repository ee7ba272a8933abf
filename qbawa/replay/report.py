"""What a replay did, for its log and for a UI."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from qbawa.engine.run_report import RunReport


@dataclass
class ReplayReport(RunReport):
    """What a replay did. ok + failed + refused + missing = cells."""

    cells: int = 0
    ok: int = 0
    failed: int = 0
    refused: int = 0
    """Failed for a reason that lies in what was asked; not asked again unless somebody says so."""
    missing: int = 0
    """Not answered since a budget, Ctrl-C or the ledger stopped the run; a rerun goes on there."""
    done_before: int = 0
    """Of `ok`: answered by an earlier run, so nothing was done."""
    stopped: str | None = None
    capped: bool = False
    """A dollar cap stopped it."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Failed and refused cells by reason."""
    latencies_s: dict[str, float] = field(default_factory=dict)

    def summary(self) -> str:
        """The report in one line."""
        text = f"{self.ok:,} of {self.cells:,} cells answered"
        if self.done_before:
            text += f" ({self.done_before:,} before)"
        refused = f", {self.refused:,} refused" if self.refused else ""
        text += f", {self.failed:,} failed{refused}, {self.missing:,} missing; {self.spent()}"
        if self.reasons:
            text += f". Failures: {', '.join(f'{n} {reason}' for reason, n in self.reasons.most_common())}"
        return text + (f". Stopped: {self.stopped}" if self.stopped else "")

    def kept(self) -> str:
        """What a run that was stopped leaves behind, in one line."""
        return (
            f"Stopped: {self.ok + self.failed + self.refused:,} of {self.cells:,} cells are done and kept in the lake; the "
            f"next run asks for the {self.missing:,} that are missing, and pays nothing twice"
        )

    def metadata(self) -> dict[str, Any]:
        """The report as plain values, for a UI."""
        asked = self.calls_paid + self.calls_cached
        return {
            "cells": self.cells,
            "answered": self.ok - self.done_before,
            "done_before": self.done_before,
            "failed": self.failed,
            "refused": self.refused,
            "missing": self.missing,
            "reasons": dict(self.reasons),
            **self.spent_values(),
            "cache_share": round(self.calls_cached / asked, 4) if asked else 0.0,
            **{f"latency_{name}_s": round(value, 3) for name, value in self.latencies_s.items()},
        } | ({"stopped": self.stopped} if self.stopped else {})
