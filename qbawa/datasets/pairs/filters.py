"""Pairs that would teach nothing, or the wrong thing. Polars expressions, so that a million answers take seconds."""

from __future__ import annotations

import polars as pl

# Openings by which models decline; matched at the start only, so that an answer about refusals is none.
_REFUSAL = (
    r"(?i)^\W*(?:(?:i['’]?m|i am|we['’]?re|we are)\s+(?:\w+\s+)?(?:sorry|unable|not able|not allowed)"
    r"|sorry,?\s+(?:but\s+)?i\b|my apologies"
    r"|i\s+(?:apologi[sz]e|can(?:no|['’])t|can not|won['’]?t|will not|must decline|do not feel|don['’]t feel)"
    r"|as an ai\b[^.]*(?:can(?:no|['’])t|can not|unable|not able|don['’]t|do not)|unfortunately,?\s+i\s+(?:can|am))"
)
# A long answer that opens with an apology has usually answered after all.
_LONGEST_REFUSAL = 600


def is_refusal(answer: pl.Expr) -> pl.Expr:
    """Whether an answer declines to answer."""
    return (answer.str.len_chars() <= _LONGEST_REFUSAL) & answer.str.contains(_REFUSAL)


def is_empty(answer: pl.Expr) -> pl.Expr:
    """Whether an answer is absent or blank, as JSON too."""
    return answer.is_null() | answer.str.strip_chars().is_in(["", "null", '""', "{}", "[]"])
