"""A judge whose first replies are all unreadable is asked no more, before much has been paid for nothing."""

from collections.abc import Iterable, Mapping
from typing import Any

from qbawa.config import JudgeConfig
from qbawa.judges.verdicts import excerpt

UNREADABLE_AT_FIRST = 30
"""Replies of a judge that may be unreadable before one can be read. A judge that can be read one time in ten, and is
hardly worth its price, passes in 96 of 100 tournaments (1 - 0.9³⁰); prose throughout costs thirty calls, not thousands."""


class CircuitBreaker:
    """Watches one jury in one tournament of one run."""

    def __init__(self, jury: Mapping[str, JudgeConfig]) -> None:
        self._jury = jury
        self._unread: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in jury}
        """Replies of judges of whom nothing could be read yet, by call_key."""

    @property
    def careful(self) -> bool:
        """Whether a judge has yet to be read once: then ask about few matches at a time."""
        return bool(self._unread)

    def note(self, verdicts: Iterable[Mapping[str, Any]]) -> str | None:
        """Take in new verdicts; why to stop, if a judge has used up its chances."""
        for row in verdicts:
            if row["verdict"] != "unscored":
                self._unread.pop(row["judge"], None)
            elif row["judge"] in self._unread:
                self._unread[row["judge"]].setdefault(row["call_key"], row)
        for name, replies in self._unread.items():
            if len(replies) >= UNREADABLE_AT_FIRST:
                return (
                    f"Judge '{name}' (model '{self._jury[name].model}') gave {len(replies)} replies and none is a verdict. "
                    f"One begins '{excerpt(next(iter(replies.values())))}'. Change its rubric or model, or hold it to the "
                    f"form with params: {{response_format: json_schema}}; docs/judges.md says what a verdict is"
                )
        return None
