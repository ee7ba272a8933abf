"""Judges: what they are shown, how their replies are read, and the verdicts that come of it."""

from qbawa.judges.jury import (
    JudgeCall,
    RankingCall,
    ask,
    jury_calls,
    ranking_call,
    shown_first,
    to_ranking_rows,
    to_verdict_row,
)
from qbawa.judges.parse import PARSE_VERSION
from qbawa.judges.prompt import check_rubric, judge_messages, read_blocks
from qbawa.judges.verdicts import opinion, reparse

__all__ = [
    "PARSE_VERSION",
    "JudgeCall",
    "RankingCall",
    "ask",
    "check_rubric",
    "judge_messages",
    "jury_calls",
    "opinion",
    "ranking_call",
    "read_blocks",
    "reparse",
    "shown_first",
    "to_ranking_rows",
    "to_verdict_row",
]
