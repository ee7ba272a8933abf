"""Answers that are tool calls or objects, as judges are shown them: readable, with what is wrong by the schema asked for.

What a provider's schema says can be checked without a model, so judges are told it as a fact. Schemas and answers are
hostile: nothing is fetched, and patterns, which could take for ever, are left out.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable

from qbawa.engine.prompting.question import Question
from qbawa.model_apis.tool_answers import calls_of, decoded, readable_answer
from qbawa.text import shorten

OFFERED = ("tools", "functions", "tool_choice", "function_call", "response_format")
"""Parameters that a judge must know to tell a right answer from a wrong one."""
MAX_FACTS = 8
MAX_DIFFERENCES = 40
_LONG = 200  # characters of a value in a difference
_UNCHECKED = ("pattern", "patternProperties", "propertyNames", "format", "$ref", "$dynamicRef", "uniqueItems")


def offered(question: Question) -> dict[str, Any]:
    """What the model could answer with besides words: tools on offer, which it had to use, the form of a reply."""
    return {name: question.parameters[name] for name in OFFERED if question.parameters.get(name)}


def facts(question: Question, answers: Sequence[str]) -> list[dict[str, Any]]:
    """What checking found wrong: {"answer": number from 1, "where", "problem"}, at most `MAX_FACTS` an answer."""
    wanted = offered(question)
    if not wanted:
        return []
    tools = _tools(wanted)
    form = _form(wanted.get("response_format"))
    found = []
    for number, answer in enumerate(answers, start=1):
        problems = list(_problems(answer, tools, form, wanted.get("tool_choice")))[:MAX_FACTS]
        found += [{"answer": number, "where": shorten(where, 80), "problem": problem} for where, problem in problems]
    return found


def differences(a: str, b: str) -> list[dict[str, Any]] | None:
    """Where two tool-call answers differ: {"where", "answer_1", "answer_2"}; None where one of them calls no tool."""
    if calls_of(a) is None or calls_of(b) is None:
        return None
    first, second = (dict(_leaves(readable_answer(answer))) for answer in (a, b))
    places = [place for place in {**first, **second} if first.get(place, _ABSENT) != second.get(place, _ABSENT)]
    return [
        {"where": shorten(place, 120), "answer_1": _brief(first.get(place, _ABSENT)),
         "answer_2": _brief(second.get(place, _ABSENT))}
        for place in places[:MAX_DIFFERENCES]
    ]  # fmt: skip


_ABSENT = "(absent)"


def _tools(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Schema of each tool's arguments by name; None where it has none."""
    listed = [*_list(wanted.get("tools")), *({"function": each} for each in _list(wanted.get("functions")))]
    found: dict[str, Any] = {}
    for tool in listed:
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            found[function["name"]] = function.get("parameters")
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _form(response_format: Any) -> Any:
    """The schema of the reply that was asked for; True where any JSON object is, None where words are."""
    if not isinstance(response_format, dict):
        return None
    if response_format.get("type") == "json_object":
        return True
    inner = response_format.get("json_schema")
    return inner.get("schema", True) if isinstance(inner, dict) else None


def _problems(answer: str, tools: Mapping[str, Any], form: Any, choice: Any) -> Iterator[tuple[str, str]]:
    calls = calls_of(answer)
    if calls is None:
        if choice in ("required", "any") or isinstance(choice, dict):
            yield "answer", "it calls no tool, which was required"
            return
        if form is None:
            return
        value = decoded(answer.strip())
        if not isinstance(value, dict | list):
            yield "answer", "it is no JSON, which was asked for"
        elif form is not True:
            yield from _against(form, value, "answer")
        return
    for number, call in enumerate(calls):
        where = f"tool_calls[{number}]"
        if call["name"] not in tools:
            yield f"{where}.name", "no tool of this name was on offer"
        elif not isinstance(call["arguments"], dict):
            yield f"{where}.arguments", "they are no JSON object"
        elif tools[call["name"]] is not None:
            yield from _against(tools[call["name"]], call["arguments"], f"{where}.arguments")


def _against(schema: Any, value: Any, where: str) -> Iterator[tuple[str, str]]:
    try:
        validator = _validator(json.dumps(schema, sort_keys=True))
        if validator is None:
            return
        for error in validator.iter_errors(value):
            place = where + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.absolute_path)
            if error.validator == "required":
                missing = [name for name in error.validator_value if name not in error.instance]
                yield place, f"it lacks {', '.join(map(str, missing[:5]))}"
            else:
                yield (
                    place,
                    f"it does not fit the schema's `{error.validator}`: {json.dumps(error.validator_value)[:100]}",
                )
    except (Unresolvable, RecursionError, TypeError, ValueError):
        return  # a schema that cannot be used says nothing about an answer


@lru_cache(maxsize=512)
def _validator(schema: str) -> Draft202012Validator | None:
    checked = _without_hazards(json.loads(schema))
    try:
        Draft202012Validator.check_schema(checked)
    except (SchemaError, RecursionError):
        return None
    return Draft202012Validator(checked, registry=Registry())


def _without_hazards(schema: Any, named: bool = False) -> Any:
    """The schema without what could fetch or take for ever. `named`: the keys are names of properties, not keywords."""
    if isinstance(schema, dict):
        kept = {key: value for key, value in schema.items() if named or key not in _UNCHECKED}
        return {
            key: value if key in ("enum", "const", "required") and not named
            else _without_hazards(value, key in ("properties", "$defs", "definitions") and not named)
            for key, value in kept.items()
        }  # fmt: skip
    return [_without_hazards(inner) for inner in schema] if isinstance(schema, list) else schema


def _leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list) and value:
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{where}[{place}]")
    else:
        yield where, int(value) if isinstance(value, float) and value.is_integer() else value


def _brief(value: Any) -> Any:
    return shorten(value, _LONG) if isinstance(value, str) else value
