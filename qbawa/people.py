"""Which matches people should judge next, and where their verdicts go.

While a step is in `bootstrap` (no judge of its jury agrees with people surely enough) every match is a candidate, those
on which the jury is split first; once it is `automatic`, a small seeded share is audited.
"""

import csv
import getpass
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from qbawa.brackets.table import StepTable
from qbawa.errors import InputError
from qbawa.judges import shown_first
from qbawa.lake.delta import now
from qbawa.project import Project
from qbawa.reliability import audit
from qbawa.strategies import Question

COLUMNS = ("request", "strategy_a", "strategy_b", "judge", "verdict", "order_shown", "judged_at")


@dataclass(frozen=True, slots=True)
class OpenMatch:
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


def open_matches(project: Project, step: str, judge: str) -> Iterator[OpenMatch]:
    """Matches that this person has not judged, most useful first. Raises InputError for a step without matches."""
    lake = project.lake
    here = pl.col("step") == step
    matches = lake.read("matches", keep=here & (pl.col("origin") != "identical"))
    if matches.is_empty():
        steps = sorted(lake.read("matches", ["step"])["step"].unique())
        raise InputError(f"Step '{step}' has no matches to judge. Steps with matches: {', '.join(steps) or 'none'}.")
    judged = lake.read(
        "verdicts", ["match_id"], keep=here & (pl.col("judge_kind") == "human") & (pl.col("judge") == judge)
    )
    left = matches.join(judged, on="match_id", how="anti")
    gates = lake.read("judge_reliability", ["gate"], keep=here)["gate"]
    if "automatic" in gates:
        left = left.filter(pl.col("match_id").is_in(audit(left["match_id"], project.config.tournament.audit_share)))
    # Split juries first; otherwise by a hash of the match, so that the sample is random and everyone's is the same.
    order = [hashlib.sha256(identity.encode()).hexdigest() for identity in left["match_id"]]
    left = left.with_columns(order=pl.Series(order, dtype=pl.String)).sort(pl.col("dissent").fill_null(0) == 0, "order")
    table = StepTable(lake, step, project.config.jury(step), project.config.tournament.seed)
    for row in left.iter_rows(named=True):
        request, a, b = row["request_id"], row["strategy_a"], row["strategy_b"]
        if (a, request) not in table.answers or (b, request) not in table.answers:
            continue
        texts = {"a": table.answers[a, request].text, "b": table.answers[b, request].text}
        first = shown_first(row["match_id"], judge)
        second = "b" if first == "a" else "a"
        yield OpenMatch(row["match_id"], step, table.questions[request], a, b, texts[first], texts[second], first)


class Ballot:
    """A person's file in `human_verdicts/`, which the sensor `new_human_verdicts` reads; every verdict is on disk at once."""

    def __init__(self, project: Project, step: str, judge: str | None = None) -> None:
        self.judge = judge or getpass.getuser()
        self.path: Path = project.home.root / "human_verdicts" / f"{step}.{self.judge}.csv"

    def taken(self) -> set[tuple[str, str, str]]:
        """(request, strategy_a, strategy_b) of the verdicts that the file holds already."""
        if not self.path.exists():
            return set()
        with self.path.open(newline="", encoding="utf-8") as file:
            return {(row["request"], row["strategy_a"], row["strategy_b"]) for row in csv.DictReader(file)}

    def cast(self, match: OpenMatch, choice: str) -> None:
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
