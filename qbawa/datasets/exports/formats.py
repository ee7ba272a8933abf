"""The formats that trainers read: one function each, from a pair to a row, with the row's JSON Schema.

Shapes follow TRL, OpenAI's fine-tuning API, Axolotl, LLaMA-Factory, DSPy and LLMonPy (docs/datasets.md). `chosen`,
`preferred_output` and `best_answer` are always the best answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson

Json = Any
Row = dict[str, Json]


class Pair(NamedTuple):
    """What a format needs of a pair. In the formats of single answers `worse` is empty."""

    messages: list[dict[str, Json]]
    best: str
    worse: str
    inputs: Mapping[str, Json]
    label: bool = True
    """For single answers: whether `best` is a good one."""


@dataclass(frozen=True, slots=True)
class FormatSpec:
    row: Callable[[Pair], Row]
    schema: dict[str, Json]
    """JSON Schema of one row."""
    holds: Literal["pairs", "answers", "best"]
    """A row per pair; a row per answer with its label; a row per answer that no pair calls worse."""


def trl_preference(pair: Pair) -> Row:
    """{"prompt", "chosen", "rejected"} as text."""
    return {"prompt": prompt_text(pair.messages), "chosen": pair.best, "rejected": pair.worse}


def trl_preference_conversational(pair: Pair) -> Row:
    """{"prompt", "chosen", "rejected"} as message lists."""
    return {"prompt": pair.messages, "chosen": [_assistant(pair.best)], "rejected": [_assistant(pair.worse)]}


def trl_unpaired(pair: Pair) -> Row:
    """{"prompt", "completion", "label"} as text: KTO."""
    return {"prompt": prompt_text(pair.messages), "completion": pair.best, "label": pair.label}


def trl_unpaired_conversational(pair: Pair) -> Row:
    """{"prompt", "completion", "label"} as message lists."""
    return {"prompt": pair.messages, "completion": [_assistant(pair.best)], "label": pair.label}


def trl_sft(pair: Pair) -> Row:
    """{"prompt", "completion"} as text."""
    return {"prompt": prompt_text(pair.messages), "completion": pair.best}


def openai_sft(pair: Pair) -> Row:
    """{"messages"} that end with the best answer."""
    return {"messages": [*pair.messages, _assistant(pair.best)]}


def openai_dpo(pair: Pair) -> Row:
    """OpenAI, Together, Fireworks: exactly one assistant message per output."""
    return {
        "input": {"messages": pair.messages, "tools": [], "parallel_tool_calls": True},
        "preferred_output": [_assistant(pair.best)],
        "non_preferred_output": [_assistant(pair.worse)],
    }


def axolotl_dpo(pair: Pair) -> Row:
    """Axolotl, `rl: dpo`, `type: chat_template.default`."""
    return {"messages": pair.messages, "chosen": _assistant(pair.best), "rejected": _assistant(pair.worse)}


def llama_factory(pair: Pair) -> Row:
    """LLaMA-Factory's sharegpt ranking rows; `dataset_info.json` beside them names the columns."""
    return {
        "conversations": [{"from": SPEAKERS[m["role"]], "value": m["content"]} for m in pair.messages],
        "chosen": {"from": "gpt", "value": pair.best},
        "rejected": {"from": "gpt", "value": pair.worse},
    }


def dspy(pair: Pair) -> Row:
    """The keyword arguments of dspy.Example: the step's inputs and `answer`."""
    inputs = {("input_answer" if name == "answer" else name): value for name, value in pair.inputs.items()}
    return {**(inputs or {"question": prompt_text(pair.messages)}), "answer": pair.best}


def llmonpy(pair: Pair) -> Row:
    """LLMonPy's QBaWa: answers are objects; one that is no JSON object goes under "answer"."""
    best, worse = as_object(pair.best), as_object(pair.worse)
    return {"question": prompt_text(pair.messages), "best_answer": best, "worse_answer": worse}


def prompt_text(messages: list[dict[str, Json]]) -> str:
    """A question as one text: a lone user message as it is, otherwise every turn under its role."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return str(messages[0]["content"])
    return "\n\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in messages)


def as_object(answer: str) -> dict[str, Json]:
    """An answer as an object, from which `from_object` makes exactly the same text again."""
    if answer.startswith("{"):
        try:
            value = orjson.loads(answer)
        except orjson.JSONDecodeError:
            value = None
        if isinstance(value, dict) and value and set(value) != {"answer"} and orjson.dumps(value).decode() == answer:
            return value
    return {"answer": answer}


def from_object(value: Mapping[str, Json]) -> str:
    """The text that `as_object` was given."""
    if set(value) == {"answer"} and isinstance(value["answer"], str):
        return value["answer"]
    return orjson.dumps(value).decode()


def read_messages(question: str) -> list[dict[str, Json]]:
    """A question's chat messages as role and text; parts of other media become JSON text, tool fields are dropped."""
    try:
        messages = orjson.loads(question)
    except orjson.JSONDecodeError:
        messages = question
    if not isinstance(messages, list) or not all(isinstance(m, dict) and "role" in m for m in messages):
        return [{"role": "user", "content": question if isinstance(messages, str | dict | list) else str(messages)}]
    return [{"role": _role(m["role"]), "content": _content(m.get("content"))} for m in messages]


def _content(content: Json) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        return "\n".join(p["text"] for p in content)
    return "" if content is None else orjson.dumps(content).decode()


def _role(role: Json) -> str:
    return role if role in SPEAKERS else "user"


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SPEAKERS = {"system": "system", "developer": "system", "user": "human", "assistant": "gpt", "tool": "observation"}

_TEXT: Row = {"type": "string"}
_ANSWER: Row = {"type": "string", "minLength": 1}


def _object(**properties: Row) -> Row:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _one_of(name: str, values: list[str], text: str, kind: Row) -> Row:
    return _object(**{name: {"type": "string", "enum": values}, text: kind})


_MESSAGE = _one_of("role", sorted(SPEAKERS), "content", _TEXT)
_MESSAGES: Row = {"type": "array", "items": _MESSAGE, "minItems": 1}
_REPLY = _one_of("role", ["assistant"], "content", _ANSWER)
_REPLIES: Row = {"type": "array", "items": _REPLY, "minItems": 1, "maxItems": 1}
_GPT = _one_of("from", ["gpt"], "value", _ANSWER)
_TURNS: Row = {"type": "array", "items": _one_of("from", sorted(set(SPEAKERS.values())), "value", _TEXT), "minItems": 1}
_ANY_OBJECT: Row = {"type": "object", "minProperties": 1}
_LABEL: Row = {"type": "boolean"}

FORMATS: dict[str, FormatSpec] = {
    "trl_preference": FormatSpec(trl_preference, _object(prompt=_TEXT, chosen=_ANSWER, rejected=_ANSWER), "pairs"),
    "trl_preference_conversational": FormatSpec(
        trl_preference_conversational, _object(prompt=_MESSAGES, chosen=_REPLIES, rejected=_REPLIES), "pairs"
    ),
    "trl_unpaired": FormatSpec(trl_unpaired, _object(prompt=_TEXT, completion=_ANSWER, label=_LABEL), "answers"),
    "trl_unpaired_conversational": FormatSpec(
        trl_unpaired_conversational, _object(prompt=_MESSAGES, completion=_REPLIES, label=_LABEL), "answers"
    ),
    "trl_sft": FormatSpec(trl_sft, _object(prompt=_TEXT, completion=_ANSWER), "best"),
    "openai_dpo": FormatSpec(
        openai_dpo,
        _object(
            input=_object(
                messages=_MESSAGES, tools={"type": "array", "items": _TEXT, "maxItems": 0}, parallel_tool_calls=_LABEL
            ),
            preferred_output=_REPLIES,
            non_preferred_output=_REPLIES,
        ),
        "pairs",
    ),
    "openai_sft": FormatSpec(openai_sft, _object(messages=_MESSAGES | {"minItems": 2}), "best"),
    "axolotl_dpo": FormatSpec(axolotl_dpo, _object(messages=_MESSAGES, chosen=_REPLY, rejected=_REPLY), "pairs"),
    "llama_factory": FormatSpec(llama_factory, _object(conversations=_TURNS, chosen=_GPT, rejected=_GPT), "pairs"),
    "dspy": FormatSpec(
        dspy, {"type": "object", "properties": {"answer": _ANSWER}, "required": ["answer"], "minProperties": 2}, "best"
    ),
    "llmonpy": FormatSpec(llmonpy, _object(question=_TEXT, best_answer=_ANY_OBJECT, worse_answer=_ANY_OBJECT), "pairs"),
}
