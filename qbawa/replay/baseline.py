"""The faithful baseline: recorded requests asked again unchanged, and how near the answers come to what was recorded.

An answer drawn twice differs by chance, so the new answers are held against each other too. Where they agree with each other
much more than with the recording, something has changed between the app and the replay: the model behind a name, a parameter,
a prompt that was assembled elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from qbawa.engine.calls import ModelSettings
from qbawa.engine.providers.native import wire_name
from qbawa.errors import FinalError, NotMadeError, UserError
from qbawa.judges.jury import Caller, same_text
from qbawa.model_apis.tool_answers import calls_of
from qbawa.replay.inputs import Material
from qbawa.replay.strategies.programs import run_program
from qbawa.replay.strategies.self_consistency import word_overlap
from qbawa.replay.strategies.strategy import Strategy, Template, make_strategy

FAR = 0.15
"""By how much less new answers may resemble the recorded one than each other before it is said that something changed."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What asking one step's requests again brought. Likenesses are 0 to 1; None where nothing could be compared."""

    step: str
    model: str
    requests: int
    answers: int
    same_as_recorded: float | None
    """Share of new answers that say the same as the recorded one."""
    like_recorded: float | None
    """Mean likeness of new answers and the recorded one: 1 where they say the same, else shared words; of tool calls, shared
    arguments."""
    like_each_other: float | None
    """The same between the new answers of one request."""
    problems: tuple[str, ...]
    """Why requests could not be asked again, each once."""
    cost_usd: float | None

    @property
    def changed(self) -> bool:
        """Whether the recording is further from the new answers than they are from each other."""
        if self.like_recorded is None or self.like_each_other is None:
            return False
        return self.like_recorded < self.like_each_other - FAR

    def line(self) -> str:
        """The finding in one sentence."""
        if self.like_recorded is None:
            return f"{self.step}: nothing could be compared. {' '.join(self.problems[:1])}".strip()
        text = (
            f"{self.step} by {self.model}: {self.requests} requests asked again, {self.answers} answers; "
            f"{self.same_as_recorded:.0%} say the same as recorded, likeness {self.like_recorded:.2f}"
        )
        if self.like_each_other is not None:
            text += f", among themselves {self.like_each_other:.2f}"
        if self.changed:
            text += ". The recorded answers differ from what this model gives now: look at its version and parameters"
        return text + "." + (f" Not asked: {self.problems[0]}" if self.problems else "")


def model_for(recorded: str, models: Mapping[str, ModelSettings]) -> str | None:
    """The configured model that is the recorded one: by its name here, or by the name that its server knows."""
    if recorded in models:
        return recorded
    last = recorded.rsplit("/", 1)[-1]
    return next((name for name, its in models.items() if wire_name(name, its).rsplit("/", 1)[-1] == last), None)


async def ask_again(
    engine: Caller, step: str, model: str, rows: pl.DataFrame, material: Material, samples: int
) -> Baseline:
    """Ask each of these recordings `samples` times, unchanged. Raises NotMadeError where a cap stops the check."""
    way = make_strategy(name="as recorded", step=step, model=model, template=Template("keep_prompt"))
    found = await asyncio.gather(
        *(_answers(engine, way, material, recording_id, samples) for recording_id in rows["recording_id"])
    )
    same: list[float] = []
    like: list[float] = []
    among: list[float] = []
    cost_usd: float | None = 0.0
    for (answers, spent, _), recorded in zip(found, rows["output"], strict=True):
        cost_usd = None if spent is None or cost_usd is None else cost_usd + spent
        same += [float(same_text(answer) == same_text(recorded or "")) for answer in answers]
        like += [likeness(answer, recorded or "") for answer in answers]
        among += [likeness(a, b) for place, a in enumerate(answers) for b in answers[place + 1 :]]
    problems = tuple(dict.fromkeys(problem for _, _, why in found for problem in why))
    return Baseline(step, model, rows.height, len(like), _mean(same), _mean(like), _mean(among), problems, cost_usd)


async def _answers(
    engine: Caller, way: Strategy, material: Material, recording_id: str, samples: int
) -> tuple[list[str], float | None, list[str]]:
    answers: list[str] = []
    problems: list[str] = []
    cost_usd: float | None = 0.0
    for sample in range(samples):
        try:
            answer = await run_program(way, material.question(recording_id), engine, sample=sample)
        except NotMadeError:
            raise
        except (UserError, FinalError) as error:
            problems.append(str(error))
            continue
        answers.append(answer.answer)
        cost_usd = None if answer.cost_usd is None or cost_usd is None else cost_usd + answer.cost_usd
    return answers, cost_usd, problems


def likeness(a: str, b: str) -> float:
    """How much two answers share, 0 to 1. Words against a tool call share nothing."""
    if same_text(a) == same_text(b):
        return 1.0
    calls_a, calls_b = calls_of(a), calls_of(b)
    if (calls_a is None) != (calls_b is None):
        return 0.0
    return word_overlap(a, b)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
