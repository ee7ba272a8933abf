"""Finding strategies by what a person types: an id, a name, or a pattern of either."""

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from qbawa.errors import InputError
from qbawa.replay.strategies.strategy import Strategy


def select(strategies: Sequence[Strategy], pattern: str | Iterable[str]) -> list[Strategy]:
    """The strategies whose name or id is `pattern` or matches it as a glob (`terse/*`), in their own order.

    Several patterns (or one with commas) give the union. Raises InputError for a pattern that selects nothing, with
    the nearest names.
    """
    exact = [s for s in strategies if pattern in (s.name, s.strategy_id)]
    if exact:
        return exact
    patterns = [part.strip() for part in (pattern.split(",") if isinstance(pattern, str) else pattern) if part.strip()]
    chosen: set[str] = set()
    for one in patterns:
        hits = {s.strategy_id for s in strategies if one in (s.name, s.strategy_id)} or {
            s.strategy_id for s in strategies if fnmatchcase(s.name, one) or fnmatchcase(s.strategy_id, one)
        }
        if not hits:
            raise InputError(_unknown(strategies, one))
        chosen |= hits
    if not patterns:
        raise InputError("An empty pattern selects no strategy. Give a name, an id, or `*` for all.")
    return [strategy for strategy in strategies if strategy.strategy_id in chosen]


def _unknown(strategies: Sequence[Strategy], pattern: str) -> str:
    names = list(dict.fromkeys(name for s in strategies for name in (s.name, s.strategy_id)))
    near = difflib.get_close_matches(pattern, names, n=5, cutoff=0.5)
    # A part of a long name is what people type; difflib alone would not see it.
    near = list(dict.fromkeys([*near, *(name for name in names if pattern.strip("*").lower() in name.lower())]))[:5]
    if near:
        return f"No strategy is called or matches '{pattern}'. Near: {', '.join(near)}."
    some = ", ".join(names[:5:2]) or "none"
    return f"No strategy is called or matches '{pattern}'. There are {len(strategies)}, such as {some}."
