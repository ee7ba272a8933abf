"""What pairs hold besides words, and which formats have no form for it: such pairs are left out, never written as less."""

from __future__ import annotations

from collections import Counter
from enum import IntFlag
from typing import Any

import orjson
import polars as pl

from qbawa.datasets.exports.tool_forms import calls_in_message, has_parts, said_beside
from qbawa.datasets.pairs.pair_ids import distinct
from qbawa.model_apis.tool_answers import calls_of

Json = Any


class Holds(IntFlag):
    """What stands in a question, in its answers, or was on offer."""

    TOOLS = 1
    CALL_TURNS = 2
    WORDS_BESIDE_CALL_TURNS = 4
    CALLING_ANSWERS = 8
    WORDS_BESIDE_CALLS = 16
    PICTURES = 32
    SOUND_OR_FILES = 64
    OTHER_TOOLS = 128
    OTHER_CALLS = 256


REASONS = {
    Holds.CALLING_ANSWERS: "answers that call tools",
    Holds.CALL_TURNS: "tool calls in the question",
    Holds.WORDS_BESIDE_CALL_TURNS: "words beside tool calls in the question",
    Holds.WORDS_BESIDE_CALLS: "answers with words beside tool calls",
    Holds.PICTURES: "pictures",
    Holds.SOUND_OR_FILES: "sound or files",
    Holds.OTHER_TOOLS: "tools that are no functions",
    Holds.OTHER_CALLS: "calls of tools that are no functions",
    Holds.TOOLS: "tools on offer",
}

TOOL_FORM = (
    Holds.TOOLS | Holds.CALL_TURNS | Holds.WORDS_BESIDE_CALL_TURNS | Holds.CALLING_ANSWERS | Holds.WORDS_BESIDE_CALLS
)


def contents(rows: pl.DataFrame, *answers: str) -> pl.Series:
    """What each row holds, as the number of a `Holds`; columns needed: question, `answers` and, where known, parameters."""
    found = _each(rows["question"], _IN_QUESTION, _of_question)
    for name in answers:
        found = found | _each(rows[name], _IN_ANSWER, _of_answer)
    return found | _each(rows["parameters"], _OFFERED, _of_parameters) if "parameters" in rows.columns else found


def without_form(
    rows: pl.DataFrame, format_name: str, lacks: Holds, answers: tuple[str, ...], removed: Counter[str]
) -> pl.DataFrame:
    """The rows that a format can write; `removed` counts the others by the first thing that it has no form for."""
    held = contents(rows, *answers)
    bad = pl.Series(held.to_numpy() & int(lacks))
    if not (bad > 0).any():
        return rows
    for bits in bad.filter(bad > 0):
        first = next(kind for kind in REASONS if kind & lacks & bits)
        removed[f"{format_name} has no form for {REASONS[first]}"] += 1
    return rows.filter(bad == 0)


_IN_QUESTION = r'"(?:tool_calls|tool_call_id|function_call|function|type)"'
_IN_ANSWER = r'(?s)^\{.*"tool_calls"'
_OFFERED = r'"(?:tools|functions)"'


def _each(texts: pl.Series, screen: str, look: Any) -> pl.Series:
    """What `look` finds in each text that matches the screen. A text stands in many pairs, but is looked at once."""
    some = texts.str.contains(screen).fill_null(False)
    none = pl.Series("held", [0], pl.Int64).new_from_index(0, len(texts))
    if not some.any():
        return none
    key, table = distinct(texts)
    table = table.filter(pl.col("text").str.contains(screen).fill_null(False))
    held = table.select("key", held=pl.Series([int(look(text)) for text in table["text"]], dtype=pl.Int64))
    return key.to_frame().join(held, on="key", how="left", maintain_order="left")["held"].fill_null(0)


def _of_question(text: str) -> Holds:
    found = Holds(0)
    for message in _objects(_json(text)):
        calls = calls_in_message(message)
        if calls:
            found |= Holds.CALL_TURNS | (Holds(0) if _functions(calls) else Holds.OTHER_CALLS)
            found |= Holds.WORDS_BESIDE_CALL_TURNS if message.get("content") else Holds(0)
        if message.get("tool_call_id") or message.get("role") == "function":
            found |= Holds.CALL_TURNS
        content = message.get("content")
        for part in _objects(content) if has_parts(content) else ():
            if not isinstance(part.get("text"), str):
                found |= Holds.PICTURES if part["type"] == "image_url" else Holds.SOUND_OR_FILES
    return found


def _of_answer(text: str) -> Holds:
    calls = calls_of(text)
    if calls is None:
        return Holds(0)
    beside = Holds.WORDS_BESIDE_CALLS if said_beside(text) else Holds(0)
    named = all(isinstance(call["name"], str) for call in calls)
    return Holds.CALLING_ANSWERS | beside | (Holds(0) if named else Holds.OTHER_CALLS)


def _of_parameters(text: str) -> Holds:
    asked = _json(text)
    if not isinstance(asked, dict):
        return Holds(0)
    tools, functions = _objects(asked.get("tools")), _objects(asked.get("functions"))
    offered = Holds.TOOLS if tools or functions else Holds(0)
    return offered | (Holds(0) if _functions(tools) else Holds.OTHER_TOOLS)


def _functions(calls: list[dict[str, Json]]) -> bool:
    return all(isinstance(c.get("function"), dict) and isinstance(c["function"].get("name"), str) for c in calls)


def _objects(value: Json) -> list[dict[str, Json]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _json(text: str) -> Json:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
