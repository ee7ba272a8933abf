"""What a step's tournament is played with: the answers that meet, the questions, and every verdict so far.

It knows no lake: rows come in when it is made (`repository.read_step`), and `rows_of` and `redecide` give rows to be stored.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any, Literal

import polars as pl

from qbawa.config import JudgeConfig, TournamentConfig
from qbawa.engine.prices import total_usd
from qbawa.engine.prompting.question import Question
from qbawa.errors import TemplateError
from qbawa.ids import cell_id, match_id
from qbawa.judges.jury import JudgeCall, jury_calls, same_text
from qbawa.judges.verdicts import may_pass, stands_for
from qbawa.storage.frames import now, schema_of
from qbawa.tournaments.agreement.calibration import Calibration, calibrate
from qbawa.tournaments.agreement.reliability import best_judges, judge_reliability
from qbawa.tournaments.budgets import verdicts_per_match
from qbawa.tournaments.decide import decide_by_first_judge, decide_matches
from qbawa.tournaments.formats import Field, Goal, Match, Result, Tournament, make_tournament
from qbawa.tournaments.ranking_batches import ranking_batches

Key = tuple[str, str]
"""(strategy, request)"""


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    cell_id: str


@dataclass(frozen=True, slots=True)
class Decided:
    """Rows of `verdicts` and `matches` to be stored, verdicts first: a match without them could not be decided again."""

    verdicts: pl.DataFrame
    matches: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Newcomers:
    """Strategies that came when a step's verdict budget was used up, and what they may be judged for besides."""

    strategies: tuple[str, ...] = ()
    verdicts: int = 0


Store = Callable[[Decided], object]


class StepState:
    """One step's answers, questions and verdicts, kept up to date while the tournament goes on.

    `verdicts` and `matches` are the step's rows of these tables; `reread` are those of the verdicts that the present
    parser reads otherwise, as it reads them.
    A verdict counts if it answers the very question that its judge would be asked now: with another rubric or another
    model, or about another answer, it is asked again, and until then decides nothing. People's and imported verdicts
    always count.
    """

    def __init__(
        self,
        step: str,
        jury: Mapping[str, JudgeConfig],
        seed: int,
        *,
        answers: Mapping[Key, Answer],
        questions: Mapping[str, Question],
        verdicts: pl.DataFrame,
        matches: pl.DataFrame,
        reread: pl.DataFrame,
        since: Mapping[str, datetime] | None = None,
    ) -> None:
        self.step = step
        self.jury = jury
        self.seed = seed
        self.questions = questions
        self._since = since or {}
        """When each strategy was first answered by, as far as its present answers tell."""
        # Where the recording cannot be read nobody can tell which answer is better.
        self.answers = {key: answer for key, answer in answers.items() if key[1] in questions}
        self._reread = reread
        self._verdicts: dict[str, dict[str, dict[str, Any]]] = {}
        for row in chain(verdicts.iter_rows(named=True), self._reread.iter_rows(named=True)):
            self._verdicts.setdefault(row["match_id"], {})[row["verdict_id"]] = row
        self._matches: dict[str, dict[str, Any]] = {row["match_id"]: row for row in matches.iter_rows(named=True)}
        self._weigh_judges()
        self._charged = {row["call_key"] for row in verdicts.iter_rows(named=True) if row["cost_usd"]}
        self._ranking = {name for name, judge in jury.items() if judge.kind == "listwise"}
        self._current: dict[str, set[str]] = {}
        """Model verdicts that count, by match."""
        self.past_results = self._read_past()

    @property
    def field(self) -> Field:
        """The tournament's field: who has an answer to what, and which answers are the same."""
        return Field.of({key: same_text(answer.text) for key, answer in self.answers.items()})

    @property
    def orders(self) -> Literal[1, 2]:
        """In how many orders a match may be asked one after the other: 1 where no judge has another one to give."""
        ordered = [judge for judge in self.jury.values() if judge.kind != "pointwise"]
        return 2 if ordered and all(judge.order == "random" for judge in ordered) else 1

    @property
    def verdicts_per_match(self) -> int:
        return verdicts_per_match(self.jury.values())

    def tournament(self, config: TournamentConfig, *, only_requests: Sequence[str] | None = None) -> Tournament:
        """The step's tournament, going on from all that was judged."""
        late = self.newcomers(config.verdict_budget)
        return make_tournament(
            self.field,
            format=config.format,
            goal=Goal(config.goal, k=config.k),
            confidence=config.confidence,
            verdict_budget=config.verdict_budget,
            verdicts_per_match=self.verdicts_per_match,
            orders=self.orders,
            seed=self.seed,
            past_results=self.past_results,
            only_requests=only_requests,
            newcomers=late.strategies,
            newcomer_verdicts=late.verdicts,
        )

    def newcomers(self, budget: int, coming: Collection[str] = ()) -> Newcomers:
        """The strategies that came too late for the verdict budget, and a share of it for each, beside it.

        `coming` are strategies that will have answers. Too late is who had none, and no verdict, while more than one
        strategy's share of the budget was left. So newcomers are judged however much the others have used up, and the
        others get nothing more by it. It depends on the lake alone, so that a run that was stopped goes on with it.
        """
        field = {strategy for strategy, _ in self.answers} | set(coming)
        if not budget or not field:
            return Newcomers()
        given: list[tuple[datetime, set[str]]] = []
        for identity, keys in self._current.items():
            match = {self._matches[identity][side] for side in ("strategy_a", "strategy_b")}
            if match <= field:
                given += [(self._verdicts[identity][key]["judged_at"], match) for key in keys]
        share = max(budget // len(field), self.verdicts_per_match)
        left_at = max(0, budget - share)
        if len(given) <= left_at:
            return Newcomers()
        given.sort(key=lambda verdict: verdict[0])
        used_up_at = given[left_at][0]
        early = set[str]().union(*(match for at, match in given if at <= used_up_at))
        late = [name for name in field - early if name not in self._since or self._since[name] > used_up_at]
        return Newcomers(tuple(sorted(late)), share * len(late))

    @property
    def unjudged(self) -> list[str]:
        """Strategies with answers of which no verdict counts: nobody judged them, or as nobody would be asked now."""
        judged: set[str] = set()
        for result in self.past_results:
            judged |= {result.match.a, result.match.b}
        return sorted({strategy for strategy, _ in self.answers} - judged)

    def text(self, strategy: str, request: str) -> str:
        return self.answers[strategy, request].text

    def id_of(self, match: Match) -> str:
        return match_id(match.request, self.step, match.a, match.b)

    def calls(self, match: Match, among: Sequence[str] = ()) -> list[JudgeCall]:
        """What to ask the jury about a match; the other way round where it is `swapped`; `among` others, a listwise judge."""
        a, b = self.text(match.a, match.request), self.text(match.b, match.request)
        question = self.questions[match.request]
        return jury_calls(self.id_of(match), question, a, b, self.jury, self.seed, swapped=match.swapped, among=among)

    def lists(self, tournament: Tournament) -> dict[Match, tuple[str, ...]]:
        """What listwise judges rank in the tournament's present round, by match."""
        return ranking_batches(tournament.round_matches, self.text) if self._ranking else {}

    def _read_past(self) -> list[Result]:
        """Results of everything that was judged so far, as the tournament that asked for it would have recorded them."""
        asked: list[tuple[Match, list[dict[str, Any]], int]] = []
        identical: list[Result] = []
        for identity, row in self._matches.items():
            a, b, request = row["strategy_a"], row["strategy_b"], row["request_id"]
            if not self._answered(a, b, request):
                continue
            rows = list(self._verdicts.get(identity, {}).values())
            if row["origin"] == "identical":
                if self._same(a, b, request):
                    identical.append(Result(Match(request, a, b, row["round"] or 0, row["slot"] or 0), 0.5, 0))
                continue
            others = [verdict for verdict in rows if verdict["judge_kind"] != "llm"]
            judged = False
            for swapped in (False, True)[: self.orders]:
                match = Match(request, a, b, 0, row["slot"] or 0, swapped)
                counting = self._counting(match)
                if counting:
                    first = min((verdict["round"] or 0) for verdict in counting)
                    match = Match(request, a, b, first, row["slot"] or 0, swapped)
                    asked.append((match, counting + ([] if judged else others), len(counting)))
                    judged = True
            if others and not judged:
                asked.append((Match(request, a, b, 0, 0), others, 0))
        decided = self.decide([rows for _, rows, _ in asked])
        return identical + [
            Result(match, p_a, verdicts) for (match, _, verdicts), p_a in zip(asked, decided, strict=True)
        ]

    def decide(self, verdicts: Sequence[Sequence[Mapping[str, Any]]]) -> list[float | None]:
        """What each group of verdict rows comes to: P(a is better), None where none could be read."""
        rows = [{**row, "match_id": str(group)} for group, some in enumerate(verdicts) for row in some]
        decided = self._decide(rows)
        return [decided[str(group)]["p_a"] if str(group) in decided else None for group in range(len(verdicts))]

    def share_costs(self, verdicts: Sequence[dict[str, Any]]) -> None:
        """Count what each call cost once: evenly over these new verdicts that it gave, nothing where an earlier one has it."""
        sharing = Counter(row["call_key"] for row in verdicts)
        for row in verdicts:
            if row["cost_usd"] is None:
                continue  # nobody knows
            row["cost_usd"] *= (row["call_key"] not in self._charged) / sharing[row["call_key"]]
        self._charged |= {row["call_key"] for row in verdicts if row["cost_usd"]}

    def add(self, match: Match, verdicts: Iterable[Mapping[str, Any]]) -> bool:
        """Keep a match's new verdicts; without any, the answers were identical. False where all was known."""
        identity = self.id_of(match)
        rows = {row["verdict_id"]: {**row, "round": match.round} for row in verdicts}
        self._verdicts.setdefault(identity, {}).update(rows)
        self._current.setdefault(identity, set()).update(rows)
        known = self._matches.get(identity)
        if known is None or (rows and known["origin"] == "identical"):
            self._matches[identity] = {"round": match.round, "slot": match.slot} | {
                "match_id": identity,
                "request_id": match.request,
                "step": self.step,
                "strategy_a": match.a,
                "strategy_b": match.b,
                "origin": "tournament" if rows else "identical",
                "block_id": match.request,
            }
        return bool(rows) or known is None

    @property
    def matches(self) -> Collection[Mapping[str, Any]]:
        """Rows of all matches so far."""
        return self._matches.values()

    def verdicts_on(self, match: str) -> Collection[Mapping[str, Any]]:
        """Rows of all verdicts on a match, by its id."""
        return self._verdicts.get(match, {}).values()

    def rows_of(self, matches: Iterable[str]) -> Decided:
        """These matches, by id, as their verdicts decide them, and these verdicts."""
        identities = list(dict.fromkeys(matches))
        verdicts = [row for identity in identities for row in self.verdicts_on(identity)]
        return Decided(_frame(verdicts), self._match_rows(identities))

    def redecide(self) -> Decided:
        """All matches as the verdicts that count now decide them, and the verdicts that were re-read.

        Needed whenever people have judged, since what the jury's word is worth changes everywhere, and when the jury has.
        """
        self._weigh_judges()
        return Decided(self._reread, self._match_rows(list(self._matches)))

    @property
    def undecided(self) -> int:
        """Matches that a model has decided once and nobody decides now: rubric, model or an answer is another one."""

        def scored(rows: Iterable[Mapping[str, Any]]) -> bool:
            return any(row["verdict"] != "unscored" for row in rows)

        return sum(
            row["origin"] == "tournament" and scored(self.verdicts_on(identity)) and not scored(self._counted(identity))
            for identity, row in self._matches.items()
        )

    def _weigh_judges(self) -> None:
        """Set what each judge's word is worth, by all verdicts at hand."""
        self.calibration: Calibration | None = None
        self.judges = list(self.jury)
        rows = [row for rows in self._verdicts.values() for row in rows.values()]
        if not any(row["judge_kind"] == "human" for row in rows):
            return
        # Sums of floats depend on their order.
        verdicts = _frame(sorted(rows, key=lambda row: row["verdict_id"]))
        self.calibration = calibrate(verdicts)
        # Until the jury is calibrated the judge that agrees best with people decides; before people have judged, the first.
        context = dict.fromkeys(("match_id", "request_id", "step", "strategy_a", "strategy_b"), pl.String)
        matches = pl.DataFrame(
            [[row[name] for name in context] for row in self._matches.values()], context, orient="row"
        )
        rated = best_judges(judge_reliability(verdicts, matches), preferred=self.jury)
        self.judges = rated + [name for name in self.jury if name not in rated]

    def _match_rows(self, identities: Sequence[str]) -> pl.DataFrame:
        decided = self._decide([row for identity in identities for row in self._counted(identity)])
        rows = []
        for identity in identities:
            row, found = self._matches[identity], decided.get(identity)
            a, b, request = row["strategy_a"], row["strategy_b"], row["request_id"]
            verdicts = self.verdicts_on(identity)
            tie = row["origin"] == "identical" and (not self._answered(a, b, request) or self._same(a, b, request))
            rows.append(
                row
                | {
                    "cell_a": cell_id(request, self.step, a),
                    "cell_b": cell_id(request, self.step, b),
                    "winner": found["winner"] if found else "tie" if tie else None,
                    "p_a": found["p_a"] if found else 0.5 if tie else None,
                    "verdicts": found["verdicts"] if found else 0,
                    "unscored": found["unscored"] if found else 0,
                    "dissent": found["dissent"] if found else None,
                    "cost_usd": _cost(verdicts),
                    "decided_at": max(
                        (verdict["judged_at"] for verdict in verdicts), default=row.get("decided_at") or now()
                    ),
                }
            )
        return pl.DataFrame(rows, schema=schema_of("matches"), orient="row")

    def _decide(self, verdicts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """What verdicts come to, by match."""
        if self.calibration is None and all(row["judge_kind"] == "llm" for row in verdicts):
            return decide_by_first_judge(verdicts, self.judges)
        decided = decide_matches(_frame(verdicts), self.calibration, self.judges)
        return {row["match_id"]: row for row in decided.iter_rows(named=True)}

    def _counted(self, identity: str) -> list[dict[str, Any]]:
        """The verdicts on a match that count. Without a jury, or where an answer is gone, nobody can tell, and all do."""
        row, have = self._matches[identity], self._verdicts.get(identity, {})
        if not self.jury or not self._answered(row["strategy_a"], row["strategy_b"], row["request_id"]):
            return list(have.values())
        current = self._current.get(identity, set())
        return [row for key, row in have.items() if row["judge_kind"] != "llm" or key in current]

    def _answered(self, a: str, b: str, request: str) -> bool:
        return (a, request) in self.answers and (b, request) in self.answers

    def _counting(self, match: Match) -> list[dict[str, Any]]:
        """The jury's verdicts on a match in this order, if every judge has given the one that it would be asked now."""
        have = self._verdicts.get(self.id_of(match), {})
        if not have or not self.jury:
            return []
        rows = [row for row in have.values() if row["judge_kind"] == "llm" and not may_pass(row)]
        if not rows:
            return []
        by_question = {(row["judge"], row["call_key"]): row for row in rows}
        by_question |= {(row["judge"], stands_for(row["raw"])): row for row in rows if row["judge"] in self._ranking}
        try:
            calls = self.calls(match)
        except TemplateError:  # the rubric asks for what this request lacks: nothing answers it
            return []
        wanted = [(call.judge, "+".join(model_call.key for model_call in call.calls)) for call in calls]
        found = [by_question[key] for key in wanted if key in by_question]
        self._current.setdefault(self.id_of(match), set()).update(row["verdict_id"] for row in found)
        return found if wanted and len(found) == len(wanted) else []

    def _same(self, a: str, b: str, request: str) -> bool:
        return same_text(self.text(a, request)) == same_text(self.text(b, request))


def _cost(verdicts: Iterable[Mapping[str, Any]]) -> float | None:
    """What a match's verdicts cost; None where a model's is unknown. People and imported verdicts need name no cost."""
    return total_usd(v["cost_usd"] for v in verdicts if v["cost_usd"] is not None or v["judge_kind"] == "llm")


def _frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=schema_of("verdicts"), orient="row")
