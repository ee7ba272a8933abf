"""Anthropic's Messages API: blocks of content."""

from typing import Any

from qbawa.errors import InputError
from qbawa.model_apis.answers import joined, made, text_of, tool_call
from qbawa.model_apis.chat import FIELDS
from qbawa.model_apis.shapes import (
    ACCOUNTING,
    Answered,
    Asked,
    Untranslated,
    count_of,
    json_text,
    kind_of,
    mapping,
    objects,
    request_body,
    shown,
    string_or_none,
    without,
)

_SAYS_NOTHING = frozenset(
    {"anthropic_beta", "anthropic_version", "betas", "billing_policy", "cache_control", "diagnostics", "inference_geo",
     "service_tier", "speed", "user_profile_id", "workspace_id"}
)  # fmt: skip
"""How a call is served and paid for, and switches whose features have fields of their own."""
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_FINISHES = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def read_request(body: Any) -> Asked:
    """System and blocks as chat messages; tools, their choice and stops under chat's names."""
    asked = request_body(body, "The request")
    if not isinstance(asked.get("messages"), list):
        raise InputError(f"The request of the Messages API needs messages; it is {shown(body)}.")
    unknown = Untranslated()
    messages = [
        *_system(asked.get("system"), unknown),
        *messages_of(asked["messages"], "messages", unknown),
    ]
    return Asked(messages, _parameters(asked, unknown), unknown.paths())


def messages_of(value: Any, where: str, unknown: Untranslated) -> list[dict[str, Any]]:
    """Chat messages of messages made of blocks: each tool result is a message of its own."""
    found = []
    for place, message in objects(value, where):
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str):
            raise InputError(f"{place} needs a role; it is {shown(message)}.")
        extra = without(message, "role", "content", "id", "type")
        if not isinstance(content, list):
            found.append({"role": role, "content": content, **extra})
        elif role == "assistant":
            found.append({**_assistant(content, f"{place}.content", unknown), **extra})
        else:
            found += [{**said, **extra} for said in _user(role, content, f"{place}.content", unknown)]
    return found


def _system(value: Any, unknown: Untranslated) -> list[dict[str, Any]]:
    if not value:
        return []
    if isinstance(value, str):
        return [{"role": "system", "content": value}]
    return [{"role": "system", "content": _parts(value, "system", unknown)}]


def _user(role: str, blocks: list[Any], where: str, unknown: Untranslated) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for place, block in objects(blocks, where):
        if kind_of(block) != "tool_result":
            parts.append(_part(block, place, unknown))
            continue
        if parts:
            messages.append({"role": role, "content": parts})
            parts = []
        messages.append(_tool_result(block, place, unknown))
    return [*messages, {"role": role, "content": parts}] if parts or not messages else messages


def _tool_result(block: dict[str, Any], place: str, unknown: Untranslated) -> dict[str, Any]:
    content = block.get("content")
    if isinstance(content, list):
        content = _parts(content, f"{place}.content", unknown)
        if len(content) == 1 and content[0].keys() == {"type", "text"}:
            content = content[0]["text"]
    message = {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": "" if content is None else content}
    return {**message, **without(block, "type", "tool_use_id", "content")}


def _assistant(blocks: list[Any], where: str, unknown: Untranslated) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    calls, thoughts = [], []
    for place, block in objects(blocks, where):
        kind = kind_of(block)
        if kind == "tool_use":
            function = {"name": block.get("name"), "arguments": json_text(block.get("input"))}
            calls.append({"id": block.get("id"), "type": "function", "function": function, **_marks(block)})
        elif kind == "thinking":
            thoughts.append(block.get("thinking"))
        elif kind != "redacted_thinking":
            parts.append(_part(block, place, unknown))
    content: Any = parts or None
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        content = parts[0]["text"]
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = calls
    thought = joined(thoughts)
    return {**message, "reasoning_content": thought} if thought else message


def _marks(block: dict[str, Any]) -> dict[str, Any]:
    return {"cache_control": block["cache_control"]} if block.get("cache_control") else {}


def _parts(blocks: Any, where: str, unknown: Untranslated) -> list[dict[str, Any]]:
    return [_part(block, place, unknown) for place, block in objects(blocks, where)]


def _part(block: dict[str, Any], place: str, unknown: Untranslated) -> dict[str, Any]:
    kind = kind_of(block)
    if kind == "text":
        return without(block, "citations")
    source = block.get("source")
    url = _url(source) if isinstance(source, dict) else None
    if kind == "image" and url:
        return {"type": "image_url", "image_url": {"url": url}, **without(block, "type", "source")}
    if (
        kind == "document"
        and url
        and url.startswith("data:")
        and not without(block, "type", "source", "title", "cache_control")
    ):
        name = {"filename": block["title"]} if block.get("title") else {}
        return {"type": "file", "file": {"file_data": url, **name}, **_marks(block)}
    if kind not in ("image_url", "input_audio", "file"):  # gateways mix these in
        unknown.add(place, kind or "a block without a type")
    return block


def _url(source: dict[str, Any]) -> str | None:
    if kind_of(source) == "base64" and isinstance(source.get("data"), str):
        return f"data:{source.get('media_type')};base64,{source['data']}"
    return string_or_none(source.get("url")) if kind_of(source) == "url" else None


def _parameters(asked: dict[str, Any], unknown: Untranslated) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in asked.items():
        if name in ("model", "messages", "system") or name in ACCOUNTING or name in _SAYS_NOTHING:
            continue
        if name == "stop_sequences":
            found["stop"] = value
        elif name == "tools":
            found["tools"] = [_tool(tool, place, unknown) for place, tool in objects(value, "tools")]
        elif name == "tool_choice":
            found |= _tool_choice(mapping(value, "tool_choice"), unknown)
        elif name == "thinking" and isinstance(value, dict) and kind_of(value) == "disabled":
            continue
        elif name == "output_format" and isinstance(value, dict):
            found["response_format"] = _format(value, name, unknown)
        elif name == "output_config" and isinstance(value, dict):
            found |= _output_config(value, unknown)
        else:
            found[name] = value
            if name not in FIELDS:
                unknown.add(name)
    return found


def _tool(tool: dict[str, Any], place: str, unknown: Untranslated) -> dict[str, Any]:
    kind = kind_of(tool)
    if kind == "function" and isinstance(tool.get("function"), dict):
        return tool
    if kind in ("", "custom") and isinstance(tool.get("name"), str):
        function = {
            "name": tool["name"],
            "description": tool.get("description"),
            "parameters": tool.get("input_schema"),
        }
        rest = without(tool, "type", "name", "description", "input_schema", "strict")
        return {"type": "function", "function": without({**function, "strict": tool.get("strict")}), **rest}
    unknown.add(place, kind or "a tool without a name")
    return tool


def _tool_choice(choice: dict[str, Any], unknown: Untranslated) -> dict[str, Any]:
    kind = kind_of(choice)
    found: dict[str, Any] = {}
    if kind in _CHOICES:
        found["tool_choice"] = _CHOICES[kind]
    elif kind == "tool":
        found["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    else:
        found["tool_choice"] = choice
        unknown.add("tool_choice", kind)
    if choice.get("disable_parallel_tool_use"):
        found["parallel_tool_calls"] = False
    return found


def _format(wanted: dict[str, Any], where: str, unknown: Untranslated) -> dict[str, Any]:
    if kind_of(wanted) == "json_schema" and isinstance(wanted.get("schema"), dict):
        # Chat completions want a name; this API has none.
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted["schema"], "strict": True}}
    unknown.add(where, kind_of(wanted))
    return wanted


def _output_config(config: dict[str, Any], unknown: Untranslated) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in without(config).items():
        if name == "format" and isinstance(value, dict):
            found["response_format"] = _format(value, "output_config.format", unknown)
        elif name == "effort":
            found["reasoning_effort"] = value
        else:
            found.setdefault("output_config", {})[name] = value
            unknown.add(f"output_config.{name}")
    return found


def read_response(body: Any) -> Answered:
    """Text and tool calls of all blocks; what the provider's own tools did on the way is no part of the answer."""
    response = mapping(body, "The response")
    if not isinstance(response.get("content"), list):
        raise InputError(f"The response of the Messages API needs content; it is {shown(response)}.")
    output, reasoning = answer_of_blocks(response["content"])
    input_tokens, output_tokens, cached = _tokens(response.get("usage"))
    reason = string_or_none(response.get("stop_reason"))
    return Answered(
        output,
        reasoning,
        string_or_none(response.get("model")),
        input_tokens,
        output_tokens,
        cached,
        _FINISHES.get(reason, reason) if reason else None,
    )


def answer_of_blocks(blocks: list[Any]) -> tuple[Any, str | None]:
    """The canonical answer of content blocks, and what the model thought."""
    found = [block for _, block in objects(blocks, "content")]
    calls = [tool_call(b.get("name"), b.get("input")) for b in found if kind_of(b) == "tool_use"]
    thoughts = [block.get("thinking") for block in found if kind_of(block) == "thinking"]
    return made(text_of([b for b in found if kind_of(b) == "text"]), tool_calls=calls), joined(thoughts)


def _tokens(usage: Any) -> tuple[int | None, int | None, int | None]:
    """This API counts what it read from the cache and what it wrote to it beside `input_tokens`."""
    if not isinstance(usage, dict):
        return None, None, None
    plain, cached = count_of(usage.get("input_tokens")), count_of(usage.get("cache_read_input_tokens"))
    written = count_of(usage.get("cache_creation_input_tokens"))
    output = count_of(usage.get("output_tokens"))
    total = None if plain is None else plain + (cached or 0) + (written or 0)
    return (None, None, None) if (total, output) == (0, 0) else (total, output, cached)
