"""How much a step's tournament may still ask at most: matches that exist and fit its budget, calls not yet paid."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, comb, log2
from typing import Any

from qbawa.config import TournamentConfig
from qbawa.errors import TemplateError
from qbawa.judges.jury import same_text
from qbawa.judges.verdicts import stands_for
from qbawa.tournaments.formats import Match, round_size
from qbawa.tournaments.step_state import Key, StepState

AnsweredCalls = Callable[[Collection[str]], Collection[str]]
"""Those of some calls, by call_key, that are paid already."""

BRACKETS = ("single_elimination", "double_elimination", "swiss")


@dataclass(frozen=True, slots=True)
class JudgeBound:
    verdicts: int = 0
    asked_again: int = 0
    """Of those: on matches that the judge has judged, but not as it would be asked now."""
    calls: int = 0
    """To pay for these verdicts."""


class Bound:
    """What playing one step would ask at most, once the cells `coming` were answered, each in words of its own.

    Exactly nothing where the tournament has ended and nothing comes. It may ask less: it stops at its goal.
    """

    def __init__(
        self, state: StepState, config: TournamentConfig, answered_calls: AnsweredCalls, coming: Collection[Key] = ()
    ) -> None:
        self.state = state
        self._answered_calls = answered_calls
        self.coming = frozenset(coming)
        words = {key: same_text(answer.text) for key, answer in state.answers.items()}
        # Words that are compared hold no line feed, so what comes is like nothing that is there.
        self._words = words | {key: f"\n{key[0]}" for key in self.coming}
        self._past = [result for result in state.past_results if not self.coming & set(_cells(result.match))]
        self._asked = {_round_key(result.match) for result in self._past if self._differ(result.match)}
        self._open = self._pairs() * state.orders - len(self._asked)
        self.matches = min(self._open, self._affordable(config)) if self._open else 0
        """That may still be judged, one in both orders twice."""
        self.rounds = _rounds(config, len({strategy for strategy, _ in self._words}), self.matches, len(self._asked))
        """In which they would be, about: one waits for the other."""

    def judges(self) -> dict[str, JudgeBound]:
        """What each judge of the jury may be asked, by name."""
        if not self.matches:
            return {name: JudgeBound() for name in self.state.jury}
        asked_again, questions = self._judged_before()
        held = set(self._answered_calls({key for keys in questions.values() for key in keys}))
        bounds = {}
        for name, judge in self.state.jury.items():
            both = 1 + (judge.order == "both" and judge.kind != "pointwise")
            verdicts = self.matches * both
            if judge.kind == "pointwise":
                # A score serves all matches of its answer.
                calls = min(2 * verdicts, self._scores() - len(questions[name].keys() & held))
            else:
                # A ranking serves several matches; which ones shows only in each round, so each is taken to stand alone.
                paid = sum(questions[name][key] for key in held)
                calls = min(verdicts, self._open * both - paid)
            bounds[name] = JudgeBound(verdicts, min(asked_again[name], verdicts), max(0, calls))
        return bounds

    def _pairs(self) -> int:
        """Pairs of different answers to the same request."""
        answers = Counter(request for _, request in self._words)
        alike = Counter((request, words) for (_, request), words in self._words.items())
        return sum(comb(n, 2) for n in answers.values()) - sum(comb(n, 2) for n in alike.values())

    def _scores(self) -> int:
        there = {
            (request, self.state.text(s, request)) for s, request in self._words if (s, request) not in self.coming
        }
        return len(there) + len(self.coming)

    def _affordable(self, config: TournamentConfig) -> int:
        """Matches for which the verdict budget has room; 0 where the tournament has ended."""
        each = self.state.verdicts_per_match
        # Whether a tournament with more answers is at its end shows when they are there.
        if not self.coming and self.state.tournament(config).done:
            return 0
        # What comes late brings a share of its own.
        late = self.state.newcomers(config.verdict_budget, {strategy for strategy, _ in self.coming})
        return max(0, config.verdict_budget + late.verdicts - sum(result.verdicts for result in self._past)) // each

    def _judged_before(self) -> tuple[Counter[str], defaultdict[str, Counter[str]]]:
        """By judge: verdicts that do not count now, on matches that may be asked; keys of calls that may be paid already.

        A key counts as often as a match would ask it. The jury is asked for a match as a whole: where one judge's
        question is another one now, the others are asked the same again, and the ledger answers.
        """
        jury = self.state.jury
        counting = Counter[str]()
        for result in self._past:
            counting[self.state.id_of(result.match)] += result.verdicts
        asked_again, questions = Counter[str](), defaultdict[str, Counter[str]](Counter)
        for row in self.state.matches:
            identity, match = row["match_id"], Match(row["request_id"], row["strategy_a"], row["strategy_b"], 0, 0)
            given = [
                (verdict["judge"], self._question(verdict))
                for verdict in self.state.verdicts_on(identity)
                if verdict["judge_kind"] == "llm" and verdict["judge"] in jury
            ]
            there = all(key in self.state.answers and key not in self.coming for key in _cells(match))
            if not given or not there or not self._differ(match):
                continue
            wanted = self._wanted(match, given, questions) if len(given) > counting[identity] else None
            for name, question in given:
                if wanted is None:
                    if jury[name].kind == "pointwise":
                        questions[name].update(question.split("+"))
                elif wanted[name] and question not in wanted[name]:
                    asked_again[name] += 1
        return asked_again, questions

    def _wanted(
        self, match: Match, given: Sequence[tuple[str, str]], questions: defaultdict[str, Counter[str]]
    ) -> defaultdict[str, set[str]]:
        """What the judges would be asked about a match that is still open, by judge; `questions` grows by the calls."""
        wanted = defaultdict[str, set[str]](set)
        # The second order is looked at where somebody has judged twice: rendering prompts is what takes time.
        orders = min(self.state.orders, max(Counter(name for name, _ in given).values()))
        for swapped in (False, True)[:orders]:
            other_order = Match(match.request, match.a, match.b, 0, 0, swapped)
            if _round_key(other_order) in self._asked:
                continue
            try:
                calls = self.state.calls(other_order)
            except TemplateError:  # the rubric asks for what this request lacks: nobody will be asked
                continue
            for call in calls:
                keys = [model_call.key for model_call in call.calls]
                wanted[call.judge].add("+".join(keys))
                if self.state.jury[call.judge].kind != "listwise":
                    questions[call.judge].update(keys)
        return wanted

    def _question(self, verdict: Mapping[str, Any]) -> str:
        """Key of the calls that a verdict answers; of a ranking that of the pairwise one which asks the same."""
        listwise = self.state.jury[verdict["judge"]].kind == "listwise"
        return str((stands_for(verdict["raw"]) if listwise else None) or verdict["call_key"])

    def _differ(self, match: Match) -> bool:
        a, b = _cells(match)
        return self._words.get(a) != self._words.get(b)


def _cells(match: Match) -> tuple[Key, Key]:
    return (match.a, match.request), (match.b, match.request)


def _round_key(match: Match) -> tuple[str, str, str, bool]:
    return match.request, match.a, match.b, match.swapped


def _rounds(config: TournamentConfig, strategies: int, matches: int, asked: int) -> int:
    rounds = planned = 0
    while planned < matches:
        planned += round_size(strategies, asked + planned)
        rounds += 1
    # A bracket's matches wait for one another, and the next brackets for these.
    return min(matches, rounds * (ceil(log2(strategies)) if config.format in BRACKETS else 1))
