"""A step's tournament played: matches asked, judged all at once, stored, until its goal is reached or its budget spent."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from qbawa.config import TournamentConfig
from qbawa.engine.engine import Engine
from qbawa.engine.run_report import RunReport
from qbawa.engine.session import Log
from qbawa.errors import BudgetError, NotMadeError, ProviderError, TemplateError
from qbawa.judges.jury import ask
from qbawa.tournaments.circuit_breaker import UNREADABLE_AT_FIRST, CircuitBreaker
from qbawa.tournaments.formats import Match, Result, Tournament
from qbawa.tournaments.step_state import StepState, Store

# Verdicts are safe in the ledger already; each time that the lake is given some, it rewrites the blocks of their requests.
STORE_EVERY_S = 15.0
MATCHES_AT_ONCE = 5_000


@dataclass
class StepReport:
    """How one step's tournament ended."""

    strategies: int = 0
    requests: int = 0
    matches: int = 0
    """Played by this run; one that was asked again in the other order counts once, one of identical answers too."""
    verdicts: int = 0
    """Asked by this run, found in the ledger or paid."""
    unscored: int = 0
    undecided: int = 0
    """Matches that were decided once and are not now: rubric, model or an answer has changed, nobody was asked again."""
    reason: str = "nothing to play"
    """goal, budget or exhausted; or why it could not go on."""
    stopped: Literal["failure", "cap"] | None = None
    """It could not go on: a judge's model does not answer or cannot be read; or a dollar cap is reached."""
    confidence: float | None = None
    answer: list[str] = field(default_factory=list)
    """Strategy ids that the goal asked for."""

    @property
    def sureness(self) -> str:
        return "" if self.confidence is None else f" at {self.confidence:.0%} confidence"


@dataclass
class PlayReport(RunReport):
    """What tournaments did, by step."""

    steps: dict[str, StepReport] = field(default_factory=dict)
    matches_by_request: Counter[str] = field(default_factory=Counter)
    """Matches played by this run."""
    unfinished: set[str] = field(default_factory=set)
    """Requests that may have matches left, since the tournament of one of their steps could not go on."""

    @property
    def failure(self) -> str | None:
        """What kept tournaments from their end, and what to do; None where nothing did, or a cap that the user set."""
        stopped = {name: step.reason for name, step in self.steps.items() if step.stopped == "failure"}
        if not stopped:
            return None
        several = f"The tournaments of steps {', '.join(stopped)}" if len(stopped) > 1 else f"Step '{[*stopped][0]}'"
        return (
            f"{several} could not be judged to the end: {'; '.join(dict.fromkeys(stopped.values()))}. All that was judged is "
            "kept; once the cause is gone, `qbawa run tournament_sweep` goes on where this run stopped."
        )

    @property
    def verdicts(self) -> int:
        """Asked by this run, of all steps."""
        return sum(step.verdicts for step in self.steps.values())

    @property
    def capped(self) -> bool:
        """Whether a dollar cap stopped a tournament."""
        return any(step.stopped == "cap" for step in self.steps.values())

    def summary(self) -> str:
        """The report in one line."""
        matches, verdicts, unscored = (
            sum(getattr(step, name) for step in self.steps.values()) for name in ("matches", "verdicts", "unscored")
        )
        unread = f" ({unscored:,} of them unscored)" if unscored else ""
        ends = "; ".join(f"{name} ended by {step.reason}" + step.sureness for name, step in self.steps.items())
        return f"{matches:,} matches, {verdicts:,} verdicts{unread}, {self.spent()}. {ends}"

    def metadata(self) -> dict[str, Any]:
        """The report as plain values, for a UI."""
        return {
            "matches": sum(step.matches for step in self.steps.values()),
            "verdicts": sum(step.verdicts for step in self.steps.values()),
            "unscored": sum(step.unscored for step in self.steps.values()),
            "undecided": sum(step.undecided for step in self.steps.values()),
            **self.spent_values(),
            "calls_cached": self.calls_cached,
            **{
                f"ended_{name}": f"{step.reason}{step.sureness}, {step.strategies} strategies × {step.requests} requests"
                for name, step in self.steps.items()
            },
        }


async def play_step(
    engine: Engine,
    state: StepState,
    config: TournamentConfig,
    store: Store,
    report: PlayReport,
    log: Log = lambda message: None,
    requests: Sequence[str] | None = None,
) -> StepReport:
    """Play one step's tournament as far as its goal and budget go; `report` grows by what concerns all steps.

    `requests` restricts what is played. `store` is given what was decided, now and then and at the end, whatever happens.
    """
    step, jury, done = state.step, state.jury, StepReport()
    field = state.field
    done.strategies, done.requests = len(field.strategies), len(field.requests)
    here = None if requests is None else [request for request in requests if request in field.requests]
    if len(field.strategies) < 2 or here == []:
        return done
    tournament = state.tournament(config, only_requests=here)
    known = f"{tournament.verdicts:,} of {config.verdict_budget:,} verdicts are given"
    log(f"Step '{step}': {done.strategies:,} strategies on {done.requests:,} requests; {known}.")
    breaker = CircuitBreaker(jury)
    played: dict[str, str] = {}
    fresh: dict[str, None] = {}
    stored_at = time.monotonic()
    try:
        while matches := tournament.next_matches(UNREADABLE_AT_FIRST if breaker.careful else MATCHES_AT_ONCE):
            _keep_ties(state, tournament, played, fresh)
            problem = await _judge(engine, state, tournament, matches, breaker, done, played, fresh)
            if problem is not None:
                done.reason, done.stopped = str(problem).rstrip("."), "failure"
                if isinstance(problem, BudgetError):
                    done.stopped = "cap"
                report.unfinished.update(field.requests if here is None else here)
                log(f"Step '{step}': {problem}")
                break
            if time.monotonic() - stored_at > STORE_EVERY_S:
                await asyncio.to_thread(lambda: store(state.rows_of(fresh)))
                fresh.clear()
                stored_at = time.monotonic()
                log(
                    f"Step '{step}': {tournament.verdicts} verdicts, {tournament.reading.confidence:.0%} sure of {config.goal}."
                )
    finally:
        _keep_ties(state, tournament, played, fresh)
        if fresh:
            log(
                f"Step '{step}': {done.verdicts:,} verdicts; writing the last {len(fresh):,} matches, deciding all again."
            )
        await asyncio.to_thread(lambda: store(state.rows_of(fresh)))
        await asyncio.to_thread(lambda: store(state.redecide()))
    done.matches = len(played)
    report.matches_by_request.update(played.values())
    if tournament.done is not None:
        done.reason, done.confidence = tournament.done.reason, tournament.done.confidence
        done.answer = tournament.answer
    done.undecided = state.undecided
    if done.undecided:
        log(
            f"Step '{step}': {done.undecided} matches that were decided before are undecided now, since rubric, model or "
            f"an answer has changed and they were not asked again ({tournament.verdicts} of {config.verdict_budget} verdicts "
            "that count are given)."
            + (
                " To have more of them decided again raise tournament.verdict_budget."
                if done.reason == "budget"
                else ""
            )
        )
    return done


async def _judge(
    engine: Engine,
    state: StepState,
    tournament: Tournament,
    matches: Sequence[Match],
    breaker: CircuitBreaker,
    done: StepReport,
    played: dict[str, str],
    fresh: dict[str, None],
) -> str | BudgetError | None:
    """Judge matches and record their results in the tournament; why it cannot go on, if it cannot.

    `played` (match_id → request) and `fresh` (what is not stored yet) grow by them.
    """
    lists = state.lists(tournament)
    outcomes = await asyncio.gather(*(_ask_jury(engine, state, match, lists.get(match, ())) for match in matches))
    judged: list[tuple[Match, list[dict[str, Any]]]] = []
    failed: list[str] = []
    not_made: list[NotMadeError] = []
    for match, outcome in zip(matches, outcomes, strict=True):
        if isinstance(outcome, str):
            failed.append(outcome)
        elif isinstance(outcome, NotMadeError):
            not_made.append(outcome)
        else:
            judged.append((match, outcome))
    # What the provider said explains why others were not even asked, whichever match came first.
    problem: str | BudgetError | None = failed[0] if failed else None
    if problem is None and not_made:
        problem = not_made[0] if isinstance(not_made[0], BudgetError) else str(not_made[0])
    state.share_costs([row for _, rows in judged for row in rows])
    decided = state.decide([rows for _, rows in judged])
    results = []
    for (match, rows), p_a in zip(judged, decided, strict=True):
        state.add(match, rows)
        played[state.id_of(match)] = match.request
        fresh[state.id_of(match)] = None
        results.append(Result(match, p_a, len(rows)))
        done.verdicts += len(rows)
        done.unscored += sum(row["verdict"] == "unscored" for row in rows)
    tournament.record(results)
    return problem or breaker.note(row for _, rows in judged for row in rows)


def _keep_ties(state: StepState, tournament: Tournament, played: dict[str, str], fresh: dict[str, None]) -> None:
    for match in tournament.take_ties():
        if state.add(match, []):
            played[state.id_of(match)] = match.request
            fresh[state.id_of(match)] = None


async def _ask_jury(
    engine: Engine, state: StepState, match: Match, among: Sequence[str]
) -> list[dict[str, Any]] | str | NotMadeError:
    """The jury's verdicts on a match, or why it stays open: then there are none, and what was paid is in the ledger.

    Why is a sentence where somebody failed, and the error where a call was not made.
    """
    try:
        calls = state.calls(match, among)
    except TemplateError as error:
        return str(error)
    # Matches on one list make the same call; the engine pays for it once.
    outcomes = await asyncio.gather(*(ask(call, engine) for call in calls), return_exceptions=True)
    rows = []
    not_made: NotMadeError | None = None
    for call, outcome in zip(calls, outcomes, strict=True):
        if isinstance(outcome, ProviderError):
            return f"Judge '{call.judge}' (model '{state.jury[call.judge].model}') gives no answer: {outcome}"
        if isinstance(outcome, NotMadeError):
            not_made = not_made or outcome
            continue
        if isinstance(outcome, BaseException):
            raise outcome
        rows.append(outcome)
    return rows if not_made is None else not_made
