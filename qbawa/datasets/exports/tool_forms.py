"""Questions and answers that hold more than words, in the forms that trainers read: tools, calls, results, pictures.

A call is the same everywhere in here: `{"id", "type": "function", "function": {"name", "arguments"}}`, arguments as JSON
text. Trainers' tables keep text whole: in columns of objects the keys of one tool would stand in the calls of another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from qbawa.model_apis.tool_answers import calls_of, decoded, readable_answer

Json = Any
Message = dict[str, Json]


def read_messages(question: str, roles: Mapping[str, str]) -> list[Message]:
    """A question's chat messages: role, content (text; parts where some are not text; null beside calls) and tool fields.

    Roles that are not in `roles` count as the user's.
    """
    try:
        messages = orjson.loads(question)
    except orjson.JSONDecodeError:
        messages = question
    if not isinstance(messages, list) or not all(isinstance(m, dict) and "role" in m for m in messages):
        return [{"role": "user", "content": question if isinstance(messages, str | dict | list) else str(messages)}]
    return [_message(m, m["role"] if m["role"] in roles else "user") for m in messages]


def _message(message: Mapping[str, Json], role: str) -> Message:
    calls = [_call(call, n) for n, call in enumerate(calls_in_message(message), 1)]
    if calls:
        return {"role": role, "content": _content(message.get("content")) or None, "tool_calls": calls}
    plain = {"role": role, "content": _content(message.get("content"))}
    if message["role"] == "function":
        return plain | {"role": "tool", "tool_call_id": f"call_{message.get('name')}"}
    answers = message.get("tool_call_id")
    return plain | {"tool_call_id": answers} if role == "tool" and isinstance(answers, str) else plain


def calls_in_message(message: Mapping[str, Json]) -> list[dict[str, Json]]:
    """The tool calls of an assistant's message; the older `function_call`, which has no id, is named after its function."""
    if message.get("role") != "assistant":
        return []
    old = message.get("function_call")
    made = [{"id": f"call_{old.get('name')}", "function": old}] if isinstance(old, dict) else []
    return _objects(message.get("tool_calls")) or made


def _content(content: Json) -> Json:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        return "\n".join(p["text"] for p in content)
    if has_parts(content):
        return content
    return "" if content is None else orjson.dumps(content).decode()


def has_parts(content: Json) -> bool:
    """Whether a message's content is a list of parts."""
    return bool(isinstance(content, list) and content and all(isinstance(p, dict) and "type" in p for p in content))


def _objects(value: Json) -> list[dict[str, Json]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _call(call: Mapping[str, Json], number: int) -> Message:
    function = call.get("function")
    name, arguments = (function.get("name"), function.get("arguments")) if isinstance(function, dict) else (None, None)
    return made_call(
        str(call.get("id") or f"call_{number}"), str(name), _as_text({} if arguments is None else arguments)
    )


def _as_text(arguments: Json) -> str:
    return arguments if isinstance(arguments, str) else dumps(arguments)


def made_call(call_id: str, name: str, arguments: str) -> Message:
    """One call as all chat formats write it."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def reply(answer: str, messages: Sequence[Message] = ()) -> Message:
    """An answer as the assistant's message; calls get ids that `messages` do not use."""
    calls = calls_of(answer)
    if calls is None:
        return {"role": "assistant", "content": answer}
    used = {call["id"] for message in messages for call in message.get("tool_calls", ())}
    free = (f"call_{n}" for n in range(1, len(used) + len(calls) + 1) if f"call_{n}" not in used)
    return {
        "role": "assistant",
        "content": said_beside(answer),
        "tool_calls": [
            made_call(call_id, str(call["name"]), _as_text(call["arguments"]))
            for call_id, call in zip(free, calls, strict=False)
        ],
    }


def said_beside(answer: str) -> str | None:
    """The words of an answer that calls tools."""
    readable = readable_answer(answer)
    return readable.get("text") if isinstance(readable, dict) else None


def answer_back(message: Mapping[str, Json]) -> str:
    """The answer that `reply` was given, canonically."""
    calls = message.get("tool_calls")
    if not calls:
        return str(message["content"])
    return canonical_answer(message.get("content"), [call["function"] for call in calls])


def canonical_answer(said: str | None, calls: Sequence[Mapping[str, Json]]) -> str:
    """The text by which an answer that calls tools is kept; `calls` are {"name", "arguments"}."""
    functions = [{"name": call["name"], "arguments": decoded(call["arguments"])} for call in calls]
    message = {
        "role": "assistant",
        "content": said or None,
        "tool_calls": [{"type": "function", "function": function} for function in functions],
    }
    return orjson.dumps(message, option=orjson.OPT_SORT_KEYS).decode()


def text_of_answer(answer: str) -> str:
    """An answer for formats that know nothing but text: one that calls tools as JSON that reads well."""
    return answer if calls_of(answer) is None else dumps(readable_answer(answer))


def answer_of_text(text: str) -> str:
    """The answer that `text_of_answer` was given, canonically."""
    value = decoded(text) if text.startswith("{") and '"tool_calls"' in text else None
    if not isinstance(value, dict) or not set(value) <= {"text", "tool_calls"}:
        return text
    calls = value.get("tool_calls")
    if not isinstance(calls, list) or not all(isinstance(c, dict) and set(c) == {"name", "arguments"} for c in calls):
        return text
    return canonical_answer(value.get("text"), calls)


def as_text(messages: Sequence[Message]) -> list[Message]:
    """Messages as role and text alone: parts of other media and tool calls as JSON, results as they are."""
    return [{"role": m["role"], "content": _text(m)} for m in messages]


def _text(message: Message) -> str:
    if "tool_calls" not in message:
        return flat(message["content"])
    calls = [{"name": f["name"], "arguments": decoded(f["arguments"])} for f in _functions(message)]
    said = {"text": flat(message["content"])} if message["content"] else {}
    return dumps(said | {"tool_calls": calls})


def _functions(message: Message) -> list[dict[str, str]]:
    return [call["function"] for call in message["tool_calls"]]


def flat(content: Json) -> Json:
    """A message's content without parts: text, or None beside calls; a list of parts as JSON text."""
    return dumps(content) if isinstance(content, list) else content


def flat_messages(messages: Sequence[Message]) -> list[Message]:
    """Messages with their tool fields whose content is text."""
    return [m if not isinstance(m["content"], list) else {**m, "content": flat(m["content"])} for m in messages]


def named_results(messages: Sequence[Message]) -> list[Message]:
    """Messages in which a tool's result says which tool it is from, as chat templates want it."""
    names = {call["id"]: call["function"]["name"] for m in messages for call in m.get("tool_calls", ())}
    return [m | {"name": names[m["tool_call_id"]]} if m.get("tool_call_id") in names else m for m in messages]


def parts_back(content: Json) -> Json:
    """The content that `flat` was given."""
    if not isinstance(content, str) or not content.startswith('[{"'):
        return content
    parts = decoded(content)
    return parts if has_parts(parts) and not all(isinstance(p.get("text"), str) for p in parts) else content


def tools_of(asked: Mapping[str, Json]) -> list[dict[str, Json]]:
    """The tools on offer as chat completions write them; functions of the older form are tools too."""
    return [
        *_objects(asked.get("tools")),
        *({"type": "function", "function": f} for f in _objects(asked.get("functions"))),
    ]


def functions_of(asked: Mapping[str, Json]) -> list[dict[str, Json]]:
    """Name, description and parameters of each function on offer, without the wrapping; other tools as they are."""
    return [tool["function"] if isinstance(tool.get("function"), dict) else tool for tool in tools_of(asked)]


def turns(messages: Sequence[Message], speakers: Mapping[str, str]) -> list[dict[str, str]]:
    """ShareGPT turns: calls are turns of `function_call`, the results of one turn's calls together are one `observation`."""
    found: list[dict[str, str]] = []
    results: list[str] = []
    for m in messages:
        calling = "tool_calls" in m
        if m["role"] == "tool" and results:
            results.append(flat(m["content"]))
            found[-1] = {"from": "observation", "value": dumps(results)}
            continue
        results = [flat(m["content"])] if m["role"] == "tool" and _calls_before(found) > 1 else []
        if calling:
            found.append({"from": "function_call", "value": call_value([_plain(f) for f in _functions(m)])})
        else:
            value = dumps(results) if results else flat(m["content"])
            found.append({"from": speakers[m["role"]], "value": value})
    return found


def _plain(function: Mapping[str, str]) -> dict[str, Json]:
    return {"name": function["name"], "arguments": decoded(function["arguments"])}


def _calls_before(found: Sequence[Mapping[str, str]]) -> int:
    if not found or found[-1]["from"] != "function_call":
        return 0
    value = decoded(found[-1]["value"])
    return len(value) if isinstance(value, list) else 1


def call_value(calls: Sequence[Mapping[str, Json]]) -> str:
    """The value of a ShareGPT turn that calls tools: {"name", "arguments"}, a list of them where it calls several."""
    return dumps(calls[0] if len(calls) == 1 else calls)


def turn_of_answer(answer: str, speaker: str) -> dict[str, str]:
    """An answer as a ShareGPT turn."""
    calls = calls_of(answer)
    return (
        {"from": speaker, "value": answer} if calls is None else {"from": "function_call", "value": call_value(calls)}
    )


def answer_of_turn(turn: Mapping[str, str]) -> str:
    """The answer that `turn_of_answer` was given, canonically."""
    return canonical_answer(None, calls_in(turn["value"])) if turn["from"] == "function_call" else turn["value"]


def calls_in(value: str) -> list[dict[str, Json]]:
    """The calls in the value of a `function_call` turn."""
    found = orjson.loads(value)
    return found if isinstance(found, list) else [found]


def messages_of_turns(said: Sequence[Mapping[str, str]], roles: Mapping[str, str]) -> list[Message]:
    """The messages that `turns` was given; calls are numbered anew, since turns have no ids."""
    found: list[Message] = []
    open_ids: list[str] = []
    made = 0
    for turn in said:
        if turn["from"] == "function_call":
            calls = calls_in(turn["value"])
            open_ids = [f"call_{made + n}" for n in range(1, len(calls) + 1)]
            made += len(calls)
            written = [made_call(i, c["name"], _as_text(c["arguments"])) for i, c in zip(open_ids, calls, strict=True)]
            found.append({"role": "assistant", "content": None, "tool_calls": written})
        elif turn["from"] == "observation" and open_ids:
            several = decoded(turn["value"]) if len(open_ids) > 1 else None
            results = several if isinstance(several, list) else [turn["value"]]
            found += [
                {"role": "tool", "content": r, "tool_call_id": i} for i, r in zip(open_ids, results, strict=False)
            ]
            open_ids = []
        else:
            found.append({"role": roles[turn["from"]], "content": parts_back(turn["value"])})
    return found


def dumps(value: Json) -> str:
    """Compact JSON."""
    return orjson.dumps(value).decode()
