"""OpenAI's Responses API: a list of items in, a list of items out."""

from typing import Any

from qbawa.errors import InputError
from qbawa.model_apis.answers import joined, made, text_of, tool_call
from qbawa.model_apis.chat import FIELDS, tokens_of
from qbawa.model_apis.shapes import (
    ACCOUNTING,
    Answered,
    Asked,
    Untranslated,
    json_text,
    kind_of,
    mapping,
    objects,
    request_body,
    shown,
    string_or_none,
    without,
)

_SAYS_NOTHING = frozenset({"background", "include", "truncation"})
"""What a response is to contain, how it is fetched, what to do where the context is full."""
_ASKED_OF_CLIENT = frozenset(
    {"computer_call", "local_shell_call", "shell_call", "apply_patch_call", "mcp_approval_request"}
)
_TEXT = frozenset({"input_text", "output_text", "text"})


def read_request(body: Any) -> Asked:
    """Instructions and items as chat messages; formats, tools and lengths under chat's names."""
    asked = request_body(body, "The request")
    unknown = Untranslated()
    if "input" not in asked and "instructions" not in asked and "prompt" not in asked:
        raise InputError(f"The request of the Responses API needs input; it is {shown(body)}.")
    messages = [
        *_instructions(asked.get("instructions"), unknown),
        *messages_of(asked.get("input"), "input", unknown),
    ]
    return Asked(messages, _parameters(asked, unknown), unknown.paths())


def messages_of(items: Any, where: str, unknown: Untranslated) -> list[dict[str, Any]]:
    """Chat messages of a list of items, or of the text of the one user message."""
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    conversation = _Conversation()
    for place, item in objects(items, where):
        conversation.take(item, place, unknown)
    return conversation.messages()


class _Conversation:
    """Messages put together from items: thoughts, text and calls of one turn are one message of the assistant."""

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []
        self._open = False
        self._thoughts: list[Any] = []

    def take(self, item: dict[str, Any], place: str, unknown: Untranslated) -> None:
        kind = kind_of(item) or ("message" if "role" in item else "")
        if kind == "message" or "role" in item:
            self._message(item, place, unknown)
        elif kind == "reasoning":
            self._open = False
            self._thoughts.append(thought_of(item))
        elif kind == "function_call":
            function = {"name": item.get("name"), "arguments": json_text(item.get("arguments"))}
            self._call({"id": _id(item), "type": "function", "function": function})
        elif kind == "custom_tool_call":
            custom = {"name": item.get("name"), "input": item.get("input")}
            self._call({"id": _id(item), "type": "custom", "custom": custom})
        elif kind in ("function_call_output", "custom_tool_call_output"):
            content = item.get("output")
            if isinstance(content, list):
                content = _content(content, f"{place}.output", unknown)
            self._add({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
        else:
            unknown.add(place, kind or "an item without a type")
            self._add({"role": "assistant", "content": [item]})

    def messages(self) -> list[dict[str, Any]]:
        self._end_thoughts()
        return self._messages

    def _message(self, item: dict[str, Any], place: str, unknown: Untranslated) -> None:
        role, content = item.get("role"), item.get("content")
        if not isinstance(role, str):
            raise InputError(f"{place} needs a role; it is {shown(item)}.")
        if isinstance(content, list):
            content = _content(content, f"{place}.content", unknown)
            if role == "assistant" and len(content) == 1 and content[0].keys() == {"type", "text"}:
                content = content[0]["text"]
        rest = without(item, "role", "content", "type", "id", "status")
        message = {"role": role, "content": content, **rest}
        if role == "assistant":
            self._assistant(message)
        else:
            self._add(message)

    def _call(self, call: dict[str, Any]) -> None:
        if not self._open:
            self._assistant({"role": "assistant", "content": None})
        self._messages[-1].setdefault("tool_calls", []).append(call)

    def _assistant(self, message: dict[str, Any]) -> None:
        thoughts, self._thoughts = joined(self._thoughts), []
        self._messages.append({**message, **({"reasoning_content": thoughts} if thoughts else {})})
        self._open = True

    def _add(self, message: dict[str, Any]) -> None:
        self._end_thoughts()
        self._messages.append(message)
        self._open = False

    def _end_thoughts(self) -> None:
        if joined(self._thoughts):
            self._assistant({"role": "assistant", "content": None})
        self._thoughts = []


def thought_of(item: dict[str, Any]) -> str | None:
    """The text of a reasoning item: what the model thought, else its summary; None where it is encrypted alone."""
    texts = []
    for name in ("content", "summary"):
        parts = item.get(name)
        texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        if any(texts):
            break
    return joined(texts)


def _id(item: dict[str, Any]) -> Any:
    return item.get("call_id") or item.get("id")


def _instructions(value: Any, unknown: Untranslated) -> list[dict[str, Any]]:
    if not value:
        return []
    if isinstance(value, str):
        return [{"role": "system", "content": value}]
    return messages_of(value, "instructions", unknown)


def _content(parts: list[Any], where: str, unknown: Untranslated) -> list[dict[str, Any]]:
    return [_part(part, place, unknown) for place, part in objects(parts, where)]


def _part(part: dict[str, Any], place: str, unknown: Untranslated) -> dict[str, Any]:
    kind = kind_of(part)
    if kind in _TEXT:
        return {"type": "text", "text": part.get("text"), **without(part, "type", "text", "annotations", "logprobs")}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        image = {"url": part["image_url"], **({"detail": part["detail"]} if part.get("detail") else {})}
        return {"type": "image_url", "image_url": image, **without(part, "type", "image_url", "detail")}
    if kind == "input_file" and part.get("file_url") is None:
        names = ("file_data", "file_id", "filename")
        return {
            "type": "file",
            "file": {n: part[n] for n in names if part.get(n) is not None},
            **without(part, "type", *names),
        }
    if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
        return part
    if kind == "refusal":
        return part
    unknown.add(place, kind or "a part without a type")
    return part


def _parameters(asked: dict[str, Any], unknown: Untranslated) -> dict[str, Any]:
    found: dict[str, Any] = {}
    logprobs = asked.get("include")
    if asked.get("top_logprobs") or (isinstance(logprobs, list) and "message.output_text.logprobs" in logprobs):
        found["logprobs"] = True
    for name, value in asked.items():
        if name in ("model", "input", "instructions") or name in ACCOUNTING or name in _SAYS_NOTHING:
            continue
        if name == "max_output_tokens":
            found["max_completion_tokens"] = value
        elif name == "tools":
            found["tools"] = [_tool(tool, place, unknown) for place, tool in objects(value, "tools")]
        elif name == "tool_choice":
            found["tool_choice"] = _tool_choice(value, unknown)
        elif name == "text" and isinstance(value, dict):
            found |= _format(value, unknown)
        elif name == "reasoning" and isinstance(value, dict):
            found |= _effort(value, unknown)
        else:
            found[name] = value
            # `prompt` names a template that the provider keeps, `conversation` messages that it keeps.
            if name not in FIELDS or name == "prompt":
                unknown.add(name)
    return found


def _tool(tool: dict[str, Any], place: str, unknown: Untranslated) -> dict[str, Any]:
    kind = kind_of(tool)
    if kind in ("function", "custom") and isinstance(tool.get("name"), str):
        return {"type": kind, kind: without(tool, "type")}
    if kind in ("function", "custom") and isinstance(tool.get(kind), dict):
        return tool
    unknown.add(place, kind or "a tool without a type")
    return tool


def _tool_choice(choice: Any, unknown: Untranslated) -> Any:
    if isinstance(choice, str):
        return choice
    kind = kind_of(mapping(choice, "tool_choice"))
    if kind in ("function", "custom") and isinstance(choice.get("name"), str):
        return {"type": kind, kind: {"name": choice["name"]}}
    if kind == "allowed_tools":
        tools = [_tool_choice(tool, unknown) for _, tool in objects(choice.get("tools"), "tool_choice.tools")]
        return {"type": kind, kind: {"mode": choice.get("mode"), "tools": tools}}
    unknown.add("tool_choice", kind)
    return choice


def _format(text: dict[str, Any], unknown: Untranslated) -> dict[str, Any]:
    found: dict[str, Any] = {}
    wanted = text.get("format")
    if isinstance(wanted, dict):
        schema = kind_of(wanted) == "json_schema"
        found["response_format"] = {"type": "json_schema", "json_schema": without(wanted, "type")} if schema else wanted
    for name, value in without(text, "format").items():
        if name == "verbosity":
            found[name] = value
        else:
            found.setdefault("text", {})[name] = value
            unknown.add(f"text.{name}")
    return found


def _effort(reasoning: dict[str, Any], unknown: Untranslated) -> dict[str, Any]:
    """Whether a summary of the thoughts is told as well does not bear on the answer."""
    rest = without(reasoning, "effort", "summary", "generate_summary")
    for name in rest:
        unknown.add(f"reasoning.{name}")
    effort = reasoning.get("effort")
    return {**({"reasoning_effort": effort} if effort else {}), **({"reasoning": rest} if rest else {})}


def read_response(body: Any) -> Answered:
    """Text and tool calls of all items; what the provider's own tools did on the way is no part of the answer."""
    response = mapping(body, "The response")
    if not isinstance(response.get("output"), list):
        raise InputError(f"The response of the Responses API needs output; it is {shown(response)}.")
    output, reasoning = answer_of_items(response["output"])
    input_tokens, output_tokens, cached = tokens_of(response.get("usage"))
    return Answered(
        output,
        reasoning,
        string_or_none(response.get("model")),
        input_tokens,
        output_tokens,
        cached,
        _finish(response, output),
    )


def answer_of_items(items: list[Any]) -> tuple[Any, str | None]:
    """The canonical answer of output items, and what the model thought."""
    texts: list[str | None] = []
    calls: list[Any] = []
    refusals: list[Any] = []
    images: list[Any] = []
    thoughts: list[Any] = []
    for _, item in objects(items, "output"):
        kind = kind_of(item)
        if kind == "message" or (not kind and "role" in item):
            content = item.get("content")
            texts.append(text_of(content) if isinstance(content, list) else string_or_none(content))
            parts = content if isinstance(content, list) else []
            refusals += [p.get("refusal") for p in parts if isinstance(p, dict) and kind_of(p) == "refusal"]
        elif kind == "function_call":
            calls.append(tool_call(item.get("name"), item.get("arguments")))
        elif kind == "custom_tool_call":
            calls.append({"type": "custom", "custom": {"name": item.get("name"), "input": item.get("input")}})
        elif kind in _ASKED_OF_CLIENT:
            calls.append(without(item, "id", "call_id", "status"))
        elif kind == "reasoning":
            thoughts.append(thought_of(item))
        elif kind == "image_generation_call" and isinstance(item.get("result"), str):
            form = item.get("output_format") or "png"
            url = f"data:image/{form};base64,{item['result']}"
            images.append({"type": "image_url", "image_url": {"url": url}})
    said = [text for text in texts if text is not None]
    refusal = "".join(text for text in refusals if isinstance(text, str)) or None
    text = "".join(said) if said else None
    return made(text, tool_calls=calls, refusal=refusal, images=images), joined(thoughts)


def _finish(response: dict[str, Any], output: Any) -> str | None:
    status = string_or_none(response.get("status"))
    details = response.get("incomplete_details")
    if status == "incomplete":
        why = string_or_none(details.get("reason")) if isinstance(details, dict) else None
        return "length" if why == "max_output_tokens" else why or status
    if status == "completed":
        return "tool_calls" if isinstance(output, dict) and output.get("tool_calls") else "stop"
    return status
