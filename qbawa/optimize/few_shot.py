"""Refinement across tournaments: the best answers of one round are the examples of the next.

A program (`refine`) improves one answer inside one cell and pays for it there. This is the other way round the wheel:
a new strategy, with an id of its own, whose examples are answers that won elsewhere. Its cells hold only what they
cost; what the examples cost was paid by the strategies that gave them. `render` never shows a strategy an example of
the very request that it answers.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qbawa.errors import InputError
from qbawa.replay.strategies.strategy import Strategy, with_examples

BestAnswers = Callable[[str], Sequence[Mapping[str, Any]]]
"""Step → its best answers so far, best first, each `{"request_id", "inputs", "answer"}`."""

_ROUND = re.compile(r"/round-(\d+)\Z")


def next_round(champion: Strategy, best_answers: BestAnswers, examples: int = 3) -> Strategy | None:
    """The champion with the best answers so far as its examples: a child to compete with it; None if nothing is new.

    Refinement ends where the child does not become champion: then the champion stays, so do the best answers, and
    this is None. Raises InputError for an example without a request, which could be shown to its own question.
    """
    best = tuple(dict(example) for example in best_answers(champion.step)[:examples])
    for example in best:
        if not example.get("request_id"):
            raise InputError(f"An example for step '{champion.step}' names no request_id: {str(example)[:80]}.")
    if not best or best == tuple(map(dict, champion.template.examples)):
        return None
    before = _ROUND.search(champion.name)
    name = f"{_ROUND.sub('', champion.name)}/round-{int(before.group(1)) + 1 if before else 2}"
    child = with_examples(champion, best, name)
    return None if child.strategy_id == champion.strategy_id else child
