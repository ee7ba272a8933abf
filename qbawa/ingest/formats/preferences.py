"""Preference pairs: chosen/rejected in all their forms, LLMonPy's question/best/worse, AlpacaEval's annotations."""

import math
from collections.abc import Iterator
from typing import Any

from qbawa.ingest.formats.contests import Contest, Given, Opinion, pair, talk_of
from qbawa.ingest.formats.step_rows import BadRecordError, Origin

_SIDES = (
    ("chosen", "rejected"),
    ("best_answer", "worse_answer"),
    ("preferred_output", "non_preferred_output"),
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
)
_QUESTIONS = ("prompt", "question", "conversations", "messages", "input", "instruction", "query")
_NAMES = ("{}_model", "{}-model", "model_{}", "{}_by", "{}_generator")
JUDGE = "preferences"


def is_preference(record: dict[str, Any]) -> bool:
    return _sides(record) is not None


def read_preference(record: dict[str, Any], origin: Origin) -> Iterator[Contest | BadRecordError]:
    """One question, the answer that was preferred and the one that was not."""
    sides = _sides(record)
    if sides is None:
        raise BadRecordError("missing_field", "chosen and rejected")
    question = _question(record, record[sides[0]])
    messages, parameters, best, worse = pair(question, record[sides[0]], record[sides[1]])
    system = record.get("system")
    if isinstance(system, str) and system and messages and messages[0].get("role") != "system":
        messages = [{"role": "system", "content": system}, *messages]
    names = [_name(record, side) or word for side, word in zip(sides, ("chosen", "rejected"), strict=True)]
    judge = record.get("annotator") or record.get("judge")
    yield Contest(
        messages,
        [Given(name, answer, model) for name, answer, model in zip(names, (best, worse), _models(record, sides), strict=True)],
        [Opinion(0, 1, 1.0, judge if isinstance(judge, str) else JUDGE)],
        parameters=parameters,
    )  # fmt: skip


def _sides(record: dict[str, Any]) -> tuple[str, str] | None:
    return next((sides for sides in _SIDES if all(record.get(side) is not None for side in sides)), None)


def _question(record: dict[str, Any], chosen: Any) -> Any:
    instruction, more = record.get("instruction"), record.get("input")
    if isinstance(instruction, str) and isinstance(more, str) and more:
        return f"{instruction}\n\n{more}"
    talk = talk_of(chosen) or []
    for name in _QUESTIONS:
        value = record.get(name)
        # Some sets keep the chosen conversation as `messages` once more.
        if value not in (None, "", [], {}) and not (name == "messages" and len(talk) > 1):
            return value
    return None


def _name(record: dict[str, Any], side: str) -> str | None:
    values = (record.get(name.format(side)) for name in _NAMES)
    return next((value for value in values if isinstance(value, str) and value), None)


def _models(record: dict[str, Any], sides: tuple[str, str]) -> list[str | None]:
    return [_name(record, side) for side in sides]


def is_alpaca_eval(record: dict[str, Any]) -> bool:
    return record.keys() >= {"instruction", "output_1", "output_2", "preference"}


def read_alpaca_eval(record: dict[str, Any], origin: Origin) -> Iterator[Contest | BadRecordError]:
    """One annotation: `preference` is 1 where the first output is better, 2 where the second, 1.5 for a draw."""
    messages, parameters, one, two = pair(record["instruction"], record["output_1"], record["output_2"])
    names = [str(record.get(f"generator_{n}") or f"output_{n}") for n in (1, 2)]
    said, judge = record["preference"], record.get("annotator")
    number = float(said) if isinstance(said, int | float) and not isinstance(said, bool) else math.nan
    number = 1.5 if number == 0 else number  # as a draw was written before
    if not math.isnan(number) and not 1 <= number <= 2:
        raise BadRecordError("wrong_type", f"preference is {said!r:.60}, not 1 to 2")
    price = record.get("price_per_example")
    yield Contest(
        messages,
        [Given(names[0], one, names[0]), Given(names[1], two, names[1])],
        [
            Opinion(
                0, 1, None if math.isnan(number) else 2 - number, judge if isinstance(judge, str) else "alpaca_eval",
                cost_usd=price if isinstance(price, int | float) and price >= 0 else None,
            )
        ],
        parameters=parameters,
    )  # fmt: skip
