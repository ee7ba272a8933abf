"""Judges: what they are shown, how their replies are read, and the verdicts that come of it."""

from qbawa.judges.jury import (
    JudgeCall,
    ask,
    jury_calls,
    same_text,
    shown_first,
    to_verdict_row,
)
from qbawa.judges.prompt import check_rubric, judge_messages, read_blocks
from qbawa.judges.verdicts import excerpt, may_pass, opinion, reparse, stands_for

__all__ = [
    "JudgeCall",
    "ask",
    "check_rubric",
    "excerpt",
    "judge_messages",
    "jury_calls",
    "may_pass",
    "opinion",
    "read_blocks",
    "reparse",
    "same_text",
    "shown_first",
    "stands_for",
    "to_verdict_row",
]
