"""The formats that trainers read: one function each, from a pair to a row, with the row's JSON Schema.

Shapes follow TRL, OpenAI's fine-tuning API, Axolotl, LLaMA-Factory, DSPy and LLMonPy (docs/datasets.md). `chosen`,
`preferred_output` and `best_answer` are always the best answer. A row whose pair is words alone has the required
properties of its schema and no others; tools, calls and their results stand in the optional ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import orjson

from qbawa.datasets.exports import tool_forms as tools
from qbawa.datasets.exports.contents import TOOL_FORM, Holds

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
    asked: Mapping[str, Json] = MappingProxyType({})
    """Besides the messages: tools on offer, whether several may be called at once."""


@dataclass(frozen=True, slots=True)
class FormatSpec:
    row: Callable[[Pair], Row]
    schema: dict[str, Json]
    """JSON Schema of one row."""
    holds: Literal["pairs", "answers", "best"]
    """A row per pair; a row per answer with its label; a row per answer that no pair calls worse."""
    lacks: Holds = Holds.OTHER_CALLS
    """What the format has no form for: pairs that hold it are left out."""
    parts: bool = False
    """Whether messages may hold pictures as parts; elsewhere such content is JSON text."""


def trl_preference(pair: Pair) -> Row:
    """{"prompt", "chosen", "rejected"} as text."""
    return {"prompt": _prompt(pair), "chosen": _said(pair.best), "rejected": _said(pair.worse)}


def trl_preference_conversational(pair: Pair) -> Row:
    """{"prompt", "chosen", "rejected"} as message lists; `tools` as JSON text, which TRL decodes."""
    chosen, rejected = _replies(pair)
    return {"prompt": _trl(pair), "chosen": [chosen], "rejected": [rejected], **_tools_text(pair)}


def trl_unpaired(pair: Pair) -> Row:
    """{"prompt", "completion", "label"} as text: KTO."""
    return {"prompt": _prompt(pair), "completion": _said(pair.best), "label": pair.label}


def trl_unpaired_conversational(pair: Pair) -> Row:
    """{"prompt", "completion", "label"} as message lists; `tools` as JSON text, which TRL decodes."""
    return {"prompt": _trl(pair), "completion": [_replies(pair)[0]], "label": pair.label, **_tools_text(pair)}


def trl_sft(pair: Pair) -> Row:
    """{"prompt", "completion"} as text."""
    return {"prompt": _prompt(pair), "completion": _said(pair.best)}


def openai_sft(pair: Pair) -> Row:
    """{"messages"} that end with the best answer; `tools` and `parallel_tool_calls` as they were asked."""
    row: Row = {"messages": [*pair.messages, _replies(pair)[0]]}
    offered = tools.tools_of(pair.asked)
    parallel = pair.asked.get("parallel_tool_calls")
    return row | ({"tools": offered} if offered else {}) | (
        {"parallel_tool_calls": parallel} if offered and isinstance(parallel, bool) else {}
    )  # fmt: skip


def openai_dpo(pair: Pair) -> Row:
    """OpenAI, Together, Fireworks: exactly one assistant message per output, which is text."""
    offered = tools.tools_of(pair.asked)
    parallel = pair.asked.get("parallel_tool_calls") if offered else True
    return {
        "input": {"messages": pair.messages, "tools": offered, "parallel_tool_calls": parallel is not False},
        "preferred_output": [_assistant(pair.best)],
        "non_preferred_output": [_assistant(pair.worse)],
    }


def axolotl_dpo(pair: Pair) -> Row:
    """Axolotl, `rl: dpo`, `type: chat_template.default`, which reads role and content and nothing else."""
    return {
        "messages": tools.as_text(pair.messages),
        "chosen": _assistant(pair.best),
        "rejected": _assistant(pair.worse),
    }


def llama_factory(pair: Pair) -> Row:
    """LLaMA-Factory's sharegpt ranking rows; `dataset_info.json` beside them names the columns."""
    offered = tools.functions_of(pair.asked)
    return {
        "conversations": tools.turns(pair.messages, SPEAKERS),
        "chosen": tools.turn_of_answer(pair.best, "gpt"),
        "rejected": tools.turn_of_answer(pair.worse, "gpt"),
        **({"tools": tools.dumps(offered)} if offered else {}),
    }


def dspy(pair: Pair) -> Row:
    """The keyword arguments of dspy.Example: the step's inputs and `answer`; `tools` on offer, and `tool_calls` as DSPy's."""
    offered, calls = tools.tools_of(pair.asked), tools.calls_of(pair.best)
    ours = {"answer", *(["tools"] if offered else []), *(["tool_calls"] if calls else [])}
    inputs = {(f"input_{name}" if name in ours else name): value for name, value in pair.inputs.items()}
    return {
        **(inputs or {"question": prompt_text(pair.messages)}),
        **({"tools": offered} if offered else {}),
        "answer": _said(pair.best),
        **({"tool_calls": [{"name": c["name"], "args": c["arguments"]} for c in calls]} if calls else {}),
    }


def llmonpy(pair: Pair) -> Row:
    """LLMonPy's QBaWa: answers are objects; one that is no JSON object goes under "answer"."""
    return {"question": _prompt(pair), "best_answer": as_object(pair.best), "worse_answer": as_object(pair.worse)}


def prompt_text(messages: list[dict[str, Json]]) -> str:
    """A question as one text: a lone user message as it is, otherwise every turn under its role."""
    said = tools.as_text(messages)
    if len(said) == 1 and said[0]["role"] == "user":
        return str(said[0]["content"])
    return "\n\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in said)


def _prompt(pair: Pair) -> str:
    offered = tools.functions_of(pair.asked)
    if not offered:
        return prompt_text(pair.messages)
    turns = [*({"role": "tools", "content": tools.dumps(offered)},), *pair.messages]
    return prompt_text(turns)


def _said(answer: str) -> str:
    return tools.text_of_answer(answer)


def _trl(pair: Pair) -> list[dict[str, Json]]:
    return tools.named_results(tools.flat_messages(pair.messages))


def _tools_text(pair: Pair) -> Row:
    offered = tools.tools_of(pair.asked)
    return {"tools": tools.dumps(offered)} if offered else {}


def _replies(pair: Pair) -> tuple[dict[str, Json], dict[str, Json]]:
    return tools.reply(pair.best, pair.messages), tools.reply(pair.worse, pair.messages)


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
    """A question's chat messages, as `qbawa.datasets.exports.tool_forms.read_messages` gives them."""
    return tools.read_messages(question, SPEAKERS)


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SPEAKERS = {"system": "system", "developer": "system", "user": "human", "assistant": "gpt", "tool": "observation"}

_TEXT: Row = {"type": "string"}
_ANSWER: Row = {"type": "string", "minLength": 1}


def _object(optional: Row | None = None, **properties: Row) -> Row:
    every = properties | (optional or {})
    return {"type": "object", "properties": every, "required": list(properties), "additionalProperties": False}


def _one_of(name: str, values: list[str], text: str, kind: Row, optional: Row | None = None) -> Row:
    return _object(optional, **{name: {"type": "string", "enum": values}, text: kind})


_FUNCTION = _object(name=_TEXT, arguments=_TEXT)
_CALLS: Row = {
    "type": "array",
    "items": _object(id=_TEXT, type={"type": "string", "enum": ["function"]}, function=_FUNCTION),
    "minItems": 1,
}


def _said_or_called(message: Row, *kinds: str) -> Row:
    """A message whose content is of these types, or which calls tools."""
    content = {"properties": {"content": {"type": list(kinds)}}}
    return message | {"anyOf": [content, {"required": ["tool_calls"]}]}


def _chat(*kinds: str) -> Row:
    """The schema of messages; the first of these types is what their content becomes in Parquet."""
    content = {"type": [*kinds, "null"]}
    optional = {"tool_calls": _CALLS, "tool_call_id": _TEXT, "name": _TEXT}
    message = _one_of("role", sorted(SPEAKERS), "content", content, optional)
    return {"type": "array", "items": _said_or_called(message, *kinds), "minItems": 1}


_MESSAGES = _chat("string")
_TEXT_MESSAGES: Row = {"type": "array", "items": _one_of("role", sorted(SPEAKERS), "content", _TEXT), "minItems": 1}
_TEXT_REPLY = _one_of("role", ["assistant"], "content", _ANSWER)
_TEXT_REPLIES: Row = {"type": "array", "items": _TEXT_REPLY, "minItems": 1, "maxItems": 1}
_REPLY = _said_or_called(
    _one_of("role", ["assistant"], "content", {"type": ["string", "null"], "minLength": 1}, {"tool_calls": _CALLS}),
    "string",
)
_REPLIES: Row = {"type": "array", "items": _REPLY, "minItems": 1, "maxItems": 1}
_GPT = _one_of("from", ["gpt", "function_call"], "value", _ANSWER)
_TURNS: Row = {
    "type": "array",
    "items": _one_of("from", sorted({*SPEAKERS.values(), "function_call"}), "value", _TEXT),
    "minItems": 1,
}
_ANY_OBJECT: Row = {"type": "object", "minProperties": 1}
_LABEL: Row = {"type": "boolean"}
_OFFERED: Row = {"type": "array", "items": _ANY_OBJECT}
_IN_TEXT: Row = {"tools": _TEXT}
_CALLING = Holds.CALLING_ANSWERS | Holds.WORDS_BESIDE_CALLS
_OTHER = Holds.OTHER_TOOLS | Holds.OTHER_CALLS

FORMATS: dict[str, FormatSpec] = {
    "trl_preference": FormatSpec(trl_preference, _object(prompt=_TEXT, chosen=_ANSWER, rejected=_ANSWER), "pairs"),
    "trl_preference_conversational": FormatSpec(
        trl_preference_conversational,
        _object(_IN_TEXT, prompt=_MESSAGES, chosen=_REPLIES, rejected=_REPLIES),
        "pairs",
        _OTHER,
    ),
    "trl_unpaired": FormatSpec(trl_unpaired, _object(prompt=_TEXT, completion=_ANSWER, label=_LABEL), "answers"),
    "trl_unpaired_conversational": FormatSpec(
        trl_unpaired_conversational,
        _object(_IN_TEXT, prompt=_MESSAGES, completion=_REPLIES, label=_LABEL),
        "answers",
        _OTHER,
    ),
    "trl_sft": FormatSpec(trl_sft, _object(prompt=_TEXT, completion=_ANSWER), "best"),
    "openai_dpo": FormatSpec(
        openai_dpo,
        _object(
            input=_object(messages=_MESSAGES, tools=_OFFERED, parallel_tool_calls=_LABEL),
            preferred_output=_TEXT_REPLIES,
            non_preferred_output=_TEXT_REPLIES,
        ),
        "pairs",
        _OTHER | _CALLING | Holds.PICTURES | Holds.SOUND_OR_FILES,
    ),
    "openai_sft": FormatSpec(
        openai_sft,
        _object(
            {"tools": _OFFERED, "parallel_tool_calls": _LABEL}, messages=_chat("string", "array") | {"minItems": 2}
        ),
        "best",
        _OTHER | Holds.SOUND_OR_FILES,
        parts=True,
    ),
    "axolotl_dpo": FormatSpec(
        axolotl_dpo,
        _object(messages=_TEXT_MESSAGES, chosen=_TEXT_REPLY, rejected=_TEXT_REPLY),
        "pairs",
        Holds.OTHER_CALLS | TOOL_FORM,
    ),
    "llama_factory": FormatSpec(
        llama_factory,
        _object(_IN_TEXT, conversations=_TURNS, chosen=_GPT, rejected=_GPT),
        "pairs",
        _OTHER | Holds.WORDS_BESIDE_CALL_TURNS | Holds.WORDS_BESIDE_CALLS,
    ),
    "dspy": FormatSpec(
        dspy, {"type": "object", "properties": {"answer": _ANSWER}, "required": ["answer"], "minProperties": 2}, "best"
    ),
    "llmonpy": FormatSpec(llmonpy, _object(question=_TEXT, best_answer=_ANY_OBJECT, worse_answer=_ANY_OBJECT), "pairs"),
}
