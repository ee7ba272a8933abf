"""An exported dataset read again as pairs: the proof that nothing was lost or swapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import polars as pl

from qbawa.datasets.exports.formats import SPEAKERS, from_object
from qbawa.datasets.exports.manifest import read_manifest

Json = Any
_SCHEMA = {"split": pl.String, "question": pl.String, "best_answer": pl.String, "worse_answer": pl.String}
_ROLES = {speaker: role for role, speaker in reversed(SPEAKERS.items())}


def import_back(folder: Path, suffix: str = "jsonl") -> pl.DataFrame:
    """The pairs of a dataset version: split, question (JSON messages), best_answer, worse_answer, in file order.

    `suffix` is jsonl or parquet. A format of single answers leaves the other side null: a good answer stands as best_answer,
    a bad one as worse_answer. Formats whose prompt is one text give back one user message.
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


def _parse(name: str, row: dict[str, Json]) -> tuple[str, str | None, str | None]:
    match name:
        case "trl_preference":
            return _ask(row["prompt"]), row["chosen"], row["rejected"]
        case "trl_preference_conversational":
            return _dump(row["prompt"]), row["chosen"][0]["content"], row["rejected"][0]["content"]
        case "trl_unpaired":
            return _ask(row["prompt"]), *_side(row["label"], row["completion"])
        case "trl_unpaired_conversational":
            return _dump(row["prompt"]), *_side(row["label"], row["completion"][0]["content"])
        case "trl_sft":
            return _ask(row["prompt"]), row["completion"], None
        case "openai_sft":
            return _dump(row["messages"][:-1]), row["messages"][-1]["content"], None
        case "openai_dpo":
            best, worse = row["preferred_output"], row["non_preferred_output"]
            return _dump(row["input"]["messages"]), best[0]["content"], worse[0]["content"]
        case "axolotl_dpo":
            return _dump(row["messages"]), row["chosen"]["content"], row["rejected"]["content"]
        case "llama_factory":
            turns = [{"role": _ROLES[turn["from"]], "content": turn["value"]} for turn in row["conversations"]]
            return _dump(turns), row["chosen"]["value"], row["rejected"]["value"]
        case "dspy":
            inputs = {name: value for name, value in row.items() if name != "answer"}
            asked = inputs["question"] if set(inputs) == {"question"} else orjson.dumps(inputs).decode()
            return _ask(asked), row["answer"], None
        case "llmonpy":
            return _ask(row["question"]), _answer(row["best_answer"]), _answer(row["worse_answer"])
    raise ValueError(f"There is no format '{name}'")


def _answer(value: Json) -> str:
    # Parquet holds objects of unknown keys as JSON text.
    return from_object(value if isinstance(value, dict) else orjson.loads(value))


def _side(good: bool, answer: str) -> tuple[str | None, str | None]:
    return (answer, None) if good else (None, answer)


def _ask(text: str) -> str:
    return _dump([{"role": "user", "content": text}])


def _dump(messages: list[dict[str, Json]]) -> str:
    return orjson.dumps(messages).decode()
