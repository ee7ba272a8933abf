"""Which matches people should judge next, and where their verdicts go.

While a step is in `bootstrap` (no judge of its jury agrees with people surely enough) every match is a candidate; once
it is `automatic`, a small seeded share is audited. Every second match asked about is one on which the jury is split:
those tell judges apart. What is learnt from the labels is weighted accordingly (`qbawa.tournaments.agreement.stratification`).
"""

import csv
import getpass
import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import polars as pl

from qbawa.engine.prompting.question import Question
from qbawa.judges.jury import shown_first
from qbawa.storage.frames import now
from qbawa.tournaments.agreement.reliability import audit
from qbawa.tournaments.agreement.stratification import strata
from qbawa.tournaments.scores import scored_verdicts
from qbawa.tournaments.step_state import StepState

COLUMNS = ("request", "strategy_a", "strategy_b", "judge", "verdict", "order_shown", "judged_at", "step")

LONGEST_PART = 100
"""Bytes of a name in a file's name, which may have 255 in all."""
_REFUSED = frozenset('./\\%:*?"<>|')
"""The dot parts the names, the percent sign begins an escape, the others some file system refuses."""


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
        self.step = step
        self.judge = judge or getpass.getuser()
        self.path = folder / f"{file_part(step)}.{file_part(self.judge)}.csv"
        plain = f"{step}.{self.judge}.csv"  # as an older qbawa called it
        if (
            "/" not in plain
            and "\0" not in plain
            and len(plain.encode("utf-8", "ignore")) < 256
            and (folder / plain).exists()
        ):
            self.path = folder / plain

    def taken(self) -> set[tuple[str, str, str]]:
        """(request, strategy_a, strategy_b) of the verdicts that the file holds already."""
        if not self.path.exists():
            return set()
        with self.path.open(newline="", encoding="utf-8") as file:
            return {
                (row["request"], row["strategy_a"], row["strategy_b"])
                for row in csv.DictReader(file)
                if (row.get("step") or self.step, row["judge"]) == (self.step, self.judge)
            }

    def append(self, match: HumanTask, choice: str) -> None:
        """Note `1`, `2` or `tie`."""
        second = "b" if match.first == "a" else "a"
        verdict = {"1": match.first, "2": second, "tie": "tie"}[choice]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        columns: Sequence[str] = COLUMNS
        if not new:
            # A file of an older qbawa has fewer columns.
            with self.path.open(newline="", encoding="utf-8") as file:
                columns = next(csv.reader(file), COLUMNS)
        row = {
            "request": match.question.request_id,
            "strategy_a": match.strategy_a,
            "strategy_b": match.strategy_b,
            "judge": self.judge,
            "verdict": verdict,
            "order_shown": match.first,
            "judged_at": now().isoformat(),
            "step": self.step,
        }
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            if new:
                writer.writeheader()
            writer.writerow(row)


def file_part(name: str) -> str:
    """The name as a part of a file's name between dots: itself, but for the characters that cannot stand there.

    A long one is cut, with a hash of the whole: the file's rows say what it stands for.
    """
    part = "".join(_percent(c) if c in _REFUSED or not c.isprintable() else c for c in name)
    data = part.encode("utf-8", "surrogatepass")
    if len(data) <= LONGEST_PART:
        return part
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{data[: LONGEST_PART - 17].decode('utf-8', 'ignore')}~{digest}"


def _percent(c: str) -> str:
    return "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "surrogatepass"))


def step_of_file(path: str, steps: Collection[str], judges: Collection[str]) -> str:
    """The step that a table of verdicts is about, by its path in the folder (`summarise.anna.csv`) and the known steps.

    A step's name may hold dots and slashes, and so may a judge's: of the known steps that the path may begin with, the
    one whose rest is a judge of the table wins, then the longest. Where none is known it is the name up to the first dot.
    """
    found = [step for step in steps for written in {step, file_part(step)} if path.startswith(written + ".")]
    rests = {f"{judge}." for judge in judges} | {f"{file_part(judge)}." for judge in judges}

    def fits(step: str) -> tuple[bool, int]:
        rest = path.removeprefix(step if path.startswith(step + ".") else file_part(step)) + "."
        return any(rest.startswith(f".{judge}") for judge in rests), len(step)

    return max(found, key=fits) if found else unquote(path.rsplit("/", 1)[-1].split(".", 1)[0])
