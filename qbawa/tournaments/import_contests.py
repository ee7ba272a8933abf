"""Contests of other people's files: questions become recordings, answers cells, opinions matches with imported verdicts."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec
import polars as pl

from qbawa.ids import content_id
from qbawa.ingest.formats.contests import Contest, Given
from qbawa.ingest.journal_lines import plain
from qbawa.ingest.tables import FLOAT, INT, TEXT, TIME
from qbawa.replay.import_answers import import_answers
from qbawa.replay.strategies.repository import resolve
from qbawa.storage.lake import Lake
from qbawa.tournaments.import_verdicts import import_verdicts

AT_ONCE = 5_000
"""Contests whose answers are written together; what was said of them is short, and waits for the end."""
_ANSWERS = {
    "request": TEXT, "strategy": TEXT, "answer": TEXT, "messages": TEXT, "inputs": TEXT, "parameters": TEXT, "model": TEXT,
    "input_tokens": INT, "output_tokens": INT, "cost_usd": FLOAT, "latency_s": FLOAT, "answered_at": TIME,
}  # fmt: skip
_VERDICTS = {
    "request": TEXT, "strategy_a": TEXT, "strategy_b": TEXT, "judge": TEXT, "preference": FLOAT, "order_shown": TEXT,
    "rationale": TEXT, "cost_usd": FLOAT, "judged_at": TIME,
}  # fmt: skip


class ContestWriter:
    """Takes contests in order; call `close` at the end. What the lake holds already is not written again.

    A question is a request named after its content. A strategy answers a request once, so a second answer of it to the
    same question makes a request of its own, named after question and answers.
    """

    def __init__(self, lake: Lake, source: str, *, dry_run: bool = False) -> None:
        self.written: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.changed = False
        self._lake, self._source, self._dry_run = lake, source, dry_run
        self._waiting: list[tuple[str, Contest]] = []
        self._verdicts: dict[str, list[tuple[Any, ...]]] = {}
        self._said: set[int] = set()

    def add(self, step: str, contest: Contest) -> None:
        """Take a contest of `step`."""
        self._waiting.append((step, contest))
        if len(self._waiting) >= AT_ONCE:
            self._flush()

    def close(self) -> None:
        """Write what is left, and all that was said of the answers."""
        self._flush()
        for step, rows in self._verdicts.items():
            table = pl.DataFrame(rows, schema=_VERDICTS, orient="row")
            self._count(import_verdicts(self._lake, table, step, dry_run=self._dry_run))

    def _flush(self) -> None:
        for step in dict.fromkeys(step for step, _ in self._waiting):
            self._write(step, [contest for name, contest in self._waiting if name == step])
        self._waiting = []

    def _write(self, step: str, contests: list[Contest]) -> None:
        contests = [replace(contest, answers=_distinct(contest.answers)) for contest in contests]
        names = list(dict.fromkeys(given.strategy for contest in contests for given in contest.answers))
        ids = resolve(self._lake, step, names, answers=True)
        named = [(contest, contest.request or _question_id(contest)) for contest in contests]
        cells = self._known(step, [request for _, request in named])
        rows: dict[tuple[str, str], tuple[Any, ...]] = {}
        for contest, request in named:
            texts = [_text(given.answer) for given in contest.answers]
            strategies = [ids[given.strategy] for given in contest.answers]
            if contest.request is None and any(
                cells.get((request, strategy), text) != text for strategy, text in zip(strategies, texts, strict=True)
            ):
                request = _question_id(contest, *texts)
            for given, strategy, text in zip(contest.answers, strategies, texts, strict=True):
                if (request, strategy) in rows and rows[request, strategy][2] != text:
                    # Of a request that the file names itself; what is said of this answer below is then lost with it.
                    self.skipped["another answer of the same strategy to the request"] += 1
                    continue
                cells[request, strategy] = text
                rows[request, strategy] = _row(contest, request, given, text)
            self._note(
                step,
                contest,
                request,
                strategies,
                {s: rows[request, s][2] == t for s, t in zip(strategies, texts, strict=True)},
            )
        if rows:
            table = pl.DataFrame(list(rows.values()), schema=_ANSWERS, orient="row")
            empty = [name for name in ("messages", "inputs", "parameters") if table[name].null_count() == table.height]
            # A table without a question says nothing of what was asked.
            self._count(import_answers(self._lake, table.drop(empty), step, dry_run=self._dry_run, source=self._source))

    def _known(self, step: str, requests: list[str]) -> dict[tuple[str, str], str | None]:
        found = self._lake.read(
            "replay_matrix", ["request_id", "strategy_id", "answer"], sorted(set(requests)), pl.col("step") == step
        )
        return {(request, strategy): answer for request, strategy, answer in found.iter_rows()}

    def _note(
        self, step: str, contest: Contest, request: str, strategies: Sequence[str], held: dict[str, bool]
    ) -> None:
        for opinion in contest.opinions:
            a, b = strategies[opinion.a], strategies[opinion.b]
            if not (held[a] and held[b]):
                continue
            row = (
                request, a, b, opinion.judge, opinion.preference, opinion.shown_first, opinion.rationale,
                opinion.cost_usd, contest.at,
            )  # fmt: skip
            # The same said twice is a line that stands twice, not a second opinion.
            key = hash((step, *row))
            if key in self._said:
                self.skipped["said before in the file"] += 1
                continue
            self._said.add(key)
            self._verdicts.setdefault(step, []).append(row)

    def _count(self, report: Any) -> None:
        self.written.update(report.written)
        self.skipped.update(report.skipped)
        self.changed |= report.changed


def _distinct(answers: Sequence[Given]) -> list[Given]:
    """Two answers of one name become two strategies."""
    used: Counter[str] = Counter()
    found = []
    for given in answers:
        name = given.strategy or "unnamed"
        used[name] += 1
        found.append(replace(given, strategy=name if used[name] == 1 else f"{name} #{used[name]}"))
    return found


def _question_id(contest: Contest, *answers: str | None) -> str:
    asked = json.dumps(
        [contest.messages, contest.parameters or None, contest.inputs], sort_keys=True, ensure_ascii=False
    )
    return content_id("question", asked, *answers)


def _row(contest: Contest, request: str, given: Given, text: str | None) -> tuple[Any, ...]:
    at: datetime | None = contest.at
    return (
        request, given.strategy, text, _json(contest.messages), _json(contest.inputs), _json(contest.parameters or None),
        given.model, given.input_tokens, given.output_tokens, given.cost_usd, given.latency_s, at,
    )  # fmt: skip


def _text(answer: Any) -> str | None:
    return plain(msgspec.Raw(msgspec.json.encode(answer)))


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)
