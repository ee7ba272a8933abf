"""Which matches people should judge next, and where their verdicts go.

While a step is in `bootstrap` (no judge of its jury agrees with people surely enough) every match is a candidate; once
it is `automatic`, a small seeded share is audited. Every second match asked about is one on which the jury is split:
those tell judges apart. What is learnt from the labels is weighted accordingly (`qbawa.tournaments.agreement.stratification`).
"""

import csv
import getpass
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from qbawa.engine.prompting.question import Question
from qbawa.judges.jury import shown_first
from qbawa.storage.frames import now
from qbawa.tournaments.agreement.reliability import audit
from qbawa.tournaments.agreement.stratification import strata
from qbawa.tournaments.scores import scored_verdicts
from qbawa.tournaments.step_state import StepState

COLUMNS = ("request", "strategy_a", "strategy_b", "judge", "verdict", "order_shown", "judged_at")


@dataclass(frozen=True, slots=True)
class HumanTask:
    """A match that a person is asked about. The strategies are for the file alone: who judges does not see them."""

    match_id: str
    step: str
    question: Question
    strategy_a: str
    strategy_b: str
    answer_1: str
    answer_2: str
    first: str
    """Which of a and b is answer 1."""


def open_tasks(
    state: StepState,
    matches: pl.DataFrame,
    verdicts: pl.DataFrame,
    gates: pl.DataFrame,
    judge: str,
    *,
    audit_share: float,
) -> Iterator[HumanTask]:
    """Matches that this person has not judged, split ones and others in turn, each drawn at random.

    `matches`, `verdicts` and `gates` (judge, gate) are those of the step of `state`; matches of identical answers are
    nobody's task. The turn of a match is its place among all matches, judged or not, so short sessions add up to one
    long one.
    """
    people = verdicts.filter(pl.col("judge_kind") == "human")
    # People who agree with each other prove nothing of the jury.
    if "automatic" in gates.filter(~pl.col("judge").is_in(people["judge"].implode()))["gate"]:
        audited = audit(matches["match_id"], audit_share)
        matches = matches.filter(pl.col("match_id").is_in(audited))
    order = in_turn(matches, strata(scored_verdicts(verdicts)))
    left = order.join(people.filter(judge=judge), on="match_id", how="anti", maintain_order="left")
    for row in left.iter_rows(named=True):
        request, a, b = row["request_id"], row["strategy_a"], row["strategy_b"]
        if (a, request) not in state.answers or (b, request) not in state.answers:
            continue
        texts = {"a": state.text(a, request), "b": state.text(b, request)}
        first = shown_first(row["match_id"], judge)
        second = "b" if first == "a" else "a"
        yield HumanTask(row["match_id"], state.step, state.questions[request], a, b, texts[first], texts[second], first)


def in_turn(matches: pl.DataFrame, split: pl.DataFrame) -> pl.DataFrame:
    """The matches in the order in which people are asked: a split one, another, and so on while there are both.

    `split` are rows of `strata`. Within each stratum a hash of the match decides, so the sample is random and
    everyone's is the same.
    """
    drawn = [hashlib.sha256(identity.encode()).hexdigest() for identity in matches["match_id"]]
    return (
        matches.join(split, on="match_id", how="left", maintain_order="left")
        .with_columns(pl.col("split").fill_null(False), drawn=pl.Series(drawn, dtype=pl.String))
        .with_columns(turn=pl.col("drawn").rank("ordinal").over("split"))
        .sort("turn", pl.col("split"), descending=[False, True])
        .drop("drawn", "turn")
    )


class VerdictFile:
    """A person's file in a folder of such files; every verdict is on disk at once."""

    def __init__(self, folder: Path, step: str, judge: str | None = None) -> None:
        self.judge = judge or getpass.getuser()
        self.path = folder / f"{step}.{self.judge}.csv"

    def taken(self) -> set[tuple[str, str, str]]:
        """(request, strategy_a, strategy_b) of the verdicts that the file holds already."""
        if not self.path.exists():
            return set()
        with self.path.open(newline="", encoding="utf-8") as file:
            return {(row["request"], row["strategy_a"], row["strategy_b"]) for row in csv.DictReader(file)}

    def append(self, match: HumanTask, choice: str) -> None:
        """Note `1`, `2` or `tie`."""
        second = "b" if match.first == "a" else "a"
        verdict = {"1": match.first, "2": second, "tie": "tie"}[choice]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(COLUMNS)
            row = (match.question.request_id, match.strategy_a, match.strategy_b, self.judge, verdict, match.first)
            writer.writerow((*row, now().isoformat()))
