"""An exported dataset read again as pairs: the proof that nothing was lost or swapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import polars as pl

from qbawa.datasets.exports.formats import SPEAKERS, from_object
from qbawa.datasets.exports.manifest import read_manifest
from qbawa.datasets.exports.tool_forms import (
    answer_back,
    answer_of_text,
    answer_of_turn,
    messages_of_turns,
    parts_back,
)
from qbawa.model_apis.tool_answers import decoded

Json = Any
_SCHEMA = {
    "split": pl.String,
    "question": pl.String,
    "best_answer": pl.String,
    "worse_answer": pl.String,
    "parameters": pl.String,
}
_ROLES = {speaker: role for role, speaker in reversed(SPEAKERS.items())}


def import_back(folder: Path, suffix: str = "jsonl") -> pl.DataFrame:
    """The pairs of a dataset version: split, question (JSON messages), best_answer, worse_answer, parameters, in file order.

    `suffix` is jsonl or parquet. A format of single answers leaves the other side null: a good answer stands as best_answer,
    a bad one as worse_answer. Formats whose prompt is one text give back one user message. Answers that call tools come back in
    their canonical form; parameters (JSON, or null) has the tools on offer where the format has a place for them.
    """
    name = read_manifest(folder)["format"]
    rows = [
        (path.stem, *_parse(name, row))
        for path in sorted(folder.glob(f"*.{suffix}"))
        if path.stem != "lineage"
        for row in _read(path)
    ]
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def _read(path: Path) -> list[dict[str, Json]]:
    if path.suffix == ".parquet":
        return pl.read_parquet(path).to_dicts()
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def _parse(name: str, row: dict[str, Json]) -> tuple[str, str | None, str | None, str | None]:
    match name:
        case "trl_preference":
            return _ask(row["prompt"]), answer_of_text(row["chosen"]), answer_of_text(row["rejected"]), None
        case "trl_preference_conversational":
            return _chat(row["prompt"]), answer_back(row["chosen"][0]), answer_back(row["rejected"][0]), _offered(row)
        case "trl_unpaired":
            return _ask(row["prompt"]), *_side(row["label"], answer_of_text(row["completion"])), None
        case "trl_unpaired_conversational":
            return _chat(row["prompt"]), *_side(row["label"], answer_back(row["completion"][0])), _offered(row)
        case "trl_sft":
            return _ask(row["prompt"]), answer_of_text(row["completion"]), None, None
        case "openai_sft":
            return _chat(row["messages"][:-1]), answer_back(row["messages"][-1]), None, _offered(row)
        case "openai_dpo":
            asked, best, worse = row["input"], row["preferred_output"], row["non_preferred_output"]
            return _chat(asked["messages"]), best[0]["content"], worse[0]["content"], _offered(asked)
        case "axolotl_dpo":
            return _chat(row["messages"]), row["chosen"]["content"], row["rejected"]["content"], None
        case "llama_factory":
            asked = _dump(messages_of_turns(row["conversations"], _ROLES))
            return asked, answer_of_turn(row["chosen"]), answer_of_turn(row["rejected"]), _offered(row)
        case "dspy":
            called = bool(_offered(row) or row.get("tool_calls"))
            ours = ("answer", "tools", "tool_calls") if called else ("answer",)
            inputs = {name: row[name] for name in row if name not in ours and not (called and row[name] is None)}
            asked = inputs["question"] if set(inputs) == {"question"} else orjson.dumps(inputs).decode()
            return _ask(asked), answer_of_text(row["answer"]), None, _offered(row)
        case "llmonpy":
            return _ask(row["question"]), _answer(row["best_answer"]), _answer(row["worse_answer"]), None
    raise ValueError(f"There is no format '{name}'")


def _offered(row: dict[str, Json]) -> str | None:
    """What was asked besides the messages, as far as the row says it."""
    # Parquet holds tools as JSON text, some formats do so everywhere.
    held = decoded(row.get("tools"))
    tools = [decoded(tool) for tool in held] if isinstance(held, list) else []
    if not tools or not all(isinstance(tool, dict) for tool in tools):
        return None
    wrapped = [tool if tool.get("type") == "function" else {"type": "function", "function": tool} for tool in tools]
    alone = {"parallel_tool_calls": False} if row.get("parallel_tool_calls") is False else {}
    return orjson.dumps({"tools": wrapped, **alone}).decode()


def _chat(messages: list[dict[str, Json]]) -> str:
    """Messages without the fields that Parquet gives to all of them, nor the names of tools that only TRL wants."""
    return _dump(
        [
            {
                name: parts_back(value)
                for name, value in message.items()
                if name != "name" and (value is not None or name == "content")
            }
            for message in messages
        ]
    )


def _answer(value: Json) -> str:
    # Parquet holds objects of unknown keys as JSON text.
    return from_object(value if isinstance(value, dict) else orjson.loads(value))


def _side(good: bool, answer: str) -> tuple[str | None, str | None]:
    return (answer, None) if good else (None, answer)


def _ask(text: str) -> str:
    return _dump([{"role": "user", "content": text}])


def _dump(messages: list[dict[str, Json]]) -> str:
    return orjson.dumps(messages).decode()
