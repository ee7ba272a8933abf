"""Lists: the matches of one round put together, so that one call of a listwise judge settles several."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain

from qbawa.judges.jury import same_text
from qbawa.judges.prompt import MAX_ANSWER_CHARS
from qbawa.tournaments.formats import Match

LIST_SIZE = 8
"""Answers on a list at most."""
LIST_CHARS = 2 * MAX_ANSWER_CHARS
"""Characters of answers on a list at most: those of the longest pair, so that a list fits where a pair would."""


@dataclass(slots=True)
class _Draft:
    answers: dict[str, str] = field(default_factory=dict)
    matches: list[Match] = field(default_factory=list)


def ranking_batches(matches: Iterable[Match], answer: Callable[[str, str], str]) -> dict[Match, tuple[str, ...]]:
    """The answers among which each match is judged; none for a match that stands alone.

    `answer(strategy, request)` is an answer's text; equal ones stand on a list once. The lists follow from matches and
    answers alone: give a whole round, whatever of it is judged, and a tournament that goes on asks what it asked before.
    """
    batches: defaultdict[tuple[str, bool], list[_Draft]] = defaultdict(list)
    for match in matches:
        texts = [answer(strategy, match.request) for strategy in (match.a, match.b)]
        pair = {same_text(text): text for text in texts}
        if len(pair) == 1:
            continue
        drafts = batches[match.request, match.swapped]
        fitting = [draft for draft in drafts if _fits({**pair, **draft.answers})]
        if not fitting:
            fitting = [_Draft()]
            drafts += fitting
        # Where it adds the fewest answers.
        draft = min(fitting, key=lambda draft: len({**pair, **draft.answers}) - len(draft.answers))
        draft.answers = {**pair, **draft.answers}
        draft.matches.append(match)
    return {
        match: tuple(draft.answers.values())
        for draft in chain.from_iterable(batches.values())
        for match in draft.matches
        if len(draft.answers) > 2
    }


def _fits(answers: dict[str, str]) -> bool:
    shown = sum(min(len(text), MAX_ANSWER_CHARS) for text in answers.values())
    return len(answers) <= LIST_SIZE and shown <= LIST_CHARS
