"""Messages as frameworks write them: LangChain, the Vercel AI SDK, LlamaIndex, inspect_ai, OpenInference, ShareGPT.

Each reader makes one canonical message of one of theirs; what is like a chat message already passes through `plain`.
"""

from collections.abc import Mapping
from typing import Any

from qbawa.model_apis.answers import joined
from qbawa.model_apis.chat import PARTS
from qbawa.model_apis.shapes import Untranslated, json_text, kind_of, string_or_none, without

ROLES = {
    "human": "user", "ai": "assistant", "model": "assistant", "bot": "assistant", "gpt": "assistant", "chatgpt": "assistant",
    "AIMessageChunk": "assistant", "HumanMessage": "user", "AIMessage": "assistant", "SystemMessage": "system",
    "ToolMessage": "tool", "HumanMessageChunk": "user", "SystemMessageChunk": "system", "ToolMessageChunk": "tool",
    "UserMessage": "user", "AssistantMessage": "assistant", "tool-call": "assistant", "tool-response": "tool",
    "FunctionMessage": "tool", "ChatMessage": "user", "function_response": "tool", "observation": "tool",
}  # fmt: skip
_OF_FRAMEWORKS = frozenset(
    {"additional_kwargs", "response_metadata", "usage_metadata", "toolInvocations", "toolCallId", "type", "source", "function",
     "id", "reasoning", "thinking"}
)  # fmt: skip
_CALLS = frozenset({"tool-call", "tool_call", "function_call", "tool_use", "tool"})
_NOTES = ("gen_ai.", "event.", "message.")
KNOWN_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


def role_of(word: Any) -> str | None:
    """A role in the words of chat completions; None for what is none."""
    if not isinstance(word, str):
        return None
    role = ROLES.get(word) or ROLES.get(word.lower(), word.lower())
    return role if role in KNOWN_ROLES else None


def is_chat(message: Mapping[str, Any]) -> bool:
    """Whether a message is one of a chat completion as it stands, with all that such a message may have besides."""
    content, calls, role = message.get("content"), message.get("tool_calls") or [], message.get("role")
    if not isinstance(role, str) or role not in KNOWN_ROLES or not message.keys().isdisjoint(_OF_FRAMEWORKS):
        return False
    if isinstance(content, list):
        if not all(isinstance(part, Mapping) and kind_of(part) in PARTS for part in content):
            return False
    elif content is not None and not isinstance(content, str):
        return False
    if not isinstance(calls, list) or not all(
        isinstance(c, Mapping) and kind_of(c) in ("function", "custom") for c in calls
    ):
        return False
    bodies = [call.get("function", call.get("custom")) for call in calls]
    return all(isinstance(body, Mapping) and not isinstance(body.get("arguments"), Mapping) for body in bodies)


def plain(message: Mapping[str, Any], place: str, unknown: Untranslated) -> dict[str, Any]:
    """A chat message, with the calls and parts of any framework in it as chat completions write them."""
    if is_chat(message):
        kept = {key: value for key, value in message.items() if value is not None and not key.startswith(_NOTES)}
        return {"content": None, **kept}
    role = role_of(message.get("role")) or "user"
    content, thoughts, calls = _content(message.get("content"), f"{place}.content", unknown)
    extra = message.get("additional_kwargs")
    more: Any = extra.get("tool_calls") if isinstance(extra, Mapping) else None
    listed = message.get("tool_calls") or message.get("toolInvocations") or more
    calls += [chat_call(call) for call in listed if isinstance(call, Mapping)] if isinstance(listed, list) else []
    said: dict[str, Any] = {"role": role, "content": content}
    if calls:
        said["tool_calls"] = calls
    for name in ("tool_call_id", "name", "refusal", "audio", "images", "function_call", "cache_control"):
        if message.get(name):
            said[name] = message[name]
    if role == "tool" and message.get("toolCallId"):
        said["tool_call_id"] = message["toolCallId"]
    thought = joined([*(message.get(name) for name in ("reasoning_content", "reasoning", "thought")), *thoughts])
    return {**said, "reasoning_content": thought} if thought else said


def chat_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call of a message, with its id, arguments as text."""
    if isinstance(call.get("tool_call"), Mapping):  # OpenInference
        call = call["tool_call"]
    function = call.get("function")
    if isinstance(function, Mapping):
        name, arguments = function.get("name"), function.get("arguments")
    elif isinstance(function, str):  # inspect_ai
        name, arguments = function, call.get("arguments")
    else:
        name = call.get("name") or call.get("toolName") or call.get("tool_call.function.name")
        names = ("args", "input", "arguments", "parameters", "tool_call.function.arguments")
        arguments = next((call[key] for key in names if call.get(key) is not None), None)
    id = call.get("id") or call.get("toolCallId") or call.get("tool_call_id") or call.get("tool_call.id")
    return {
        "id": id,
        "type": "function",
        "function": {"name": name, "arguments": json_text({} if arguments is None else arguments)},
    }


def langchain(message: Mapping[str, Any], place: str, unknown: Untranslated) -> dict[str, Any]:
    """A message of LangChain, as an object or as its serialisation with `lc`, `id` and `kwargs`."""
    inner = message.get("kwargs") if isinstance(message.get("kwargs"), Mapping) else message.get("data", message)
    inner = inner if isinstance(inner, Mapping) else {}
    ids = message.get("id")
    named = ids[-1] if "lc" in message and isinstance(ids, list) and ids else None
    role = role_of(named) or role_of(inner.get("type")) or role_of(message.get("type")) or role_of(inner.get("role"))
    said = plain({**inner, "role": role}, place, unknown)
    meant = inner.get("reasoning_content")
    extra = inner.get("additional_kwargs")
    if not meant and isinstance(extra, Mapping) and isinstance(extra.get("reasoning_content"), str):
        said["reasoning_content"] = extra["reasoning_content"]
    return said


def openinference(message: Mapping[str, Any], place: str, unknown: Untranslated) -> dict[str, Any]:
    """A message with keys such as `message.role`, or below one key `message`."""
    inner = message.get("message")
    flat = inner if isinstance(inner, Mapping) else {k.removeprefix("message."): v for k, v in message.items()}
    parts = flat.get("contents")
    if isinstance(parts, list):
        flat = {**flat, "content": [_openinference_part(part) for part in parts]}
    return plain(flat, place, unknown)


def _openinference_part(part: Any) -> Any:
    if not isinstance(part, Mapping):
        return part
    inner = part.get("message_content")
    flat = inner if isinstance(inner, Mapping) else {k.removeprefix("message_content."): v for k, v in part.items()}
    if flat.get("type") == "image":
        image = flat.get("image") or flat.get("image.image.url")
        while isinstance(image, Mapping):
            image = image.get("image") or image.get("url")
        return {"type": "image_url", "image_url": {"url": image}}
    return {"type": "text", "text": flat.get("text") or ""} if flat.get("type") in ("text", None) else dict(flat)


def llama_index(message: Mapping[str, Any], place: str, unknown: Untranslated) -> dict[str, Any]:
    """A message with `blocks` that each name their `block_type`."""
    parts = [
        {**block, "type": {"text": "text", "image": "image"}.get(str(block.get("block_type")), block.get("block_type"))}
        for block in message["blocks"]
        if isinstance(block, Mapping)
    ]
    texts = [part.get("text") for part in parts]
    all_text = all(part["type"] == "text" and isinstance(part.get("text"), str) for part in parts)
    content: Any = "\n".join(str(text) for text in texts) if all_text else parts
    return plain({**message, "content": content}, place, unknown)


def sharegpt(message: Mapping[str, Any], place: str, unknown: Untranslated) -> dict[str, Any]:
    """A message that says `from` whom its `value` is."""
    return plain({"role": message.get("from"), "content": message.get("value")}, place, unknown)


def _content(content: Any, where: str, unknown: Untranslated) -> tuple[Any, list[Any], list[dict[str, Any]]]:
    """Content as chat completions write it, with the thoughts and tool calls that stood among its parts."""
    if isinstance(content, Mapping):
        only = next(iter(content.values())) if len(content) == 1 else None
        return (only if isinstance(only, str) else json_text(dict(content))), [], []
    if not isinstance(content, list):
        return content if content is None or isinstance(content, str) else json_text(content), [], []
    parts, thoughts, calls = [], [], []
    for number, part in enumerate(content):
        if isinstance(part, str):
            parts.append({"type": "text", "text": part})
        elif not isinstance(part, Mapping):
            unknown.add(f"{where}[{number}]", "a part without a type")
            parts.append({"type": "text", "text": json_text(part)})
        elif kind_of(part) in ("reasoning", "thinking", "reasoningText"):
            thoughts.append(part.get("text") or part.get("reasoning") or part.get("thinking"))
        elif kind_of(part) in _CALLS or (
            not kind_of(part) and {"name", "arguments"} <= part.keys()
        ):  # AutoGen types none
            calls.append(chat_call(part))
        else:
            parts.append(_part(part, f"{where}[{number}]", unknown))
    if not parts:
        return None, thoughts, calls
    return parts, thoughts, calls


def _part(part: Mapping[str, Any], place: str, unknown: Untranslated) -> dict[str, Any]:
    kind = kind_of(part)
    if kind in ("text", "input_text", "output_text"):
        return {
            "type": "text",
            **without(part, "type", "annotations", "citations", "index", "id", "extras", "refusal", "internal"),
        }
    if kind == "image_url" and isinstance(part.get("image_url"), str):
        return {"type": "image_url", "image_url": {"url": part["image_url"]}}
    mime = str(part.get("mime_type") or part.get("mimeType") or part.get("mediaType") or "")
    data = next(
        (part[name] for name in ("base64", "data", "image", "url", "file") if isinstance(part.get(name), str)), None
    )
    if kind in ("image", "file", "audio") and isinstance(data, str):
        url = data if data.startswith(("data:", "http")) else f"data:{mime or 'image/png'};base64,{data}"
        if kind == "image" or mime.startswith("image/"):
            return {"type": "image_url", "image_url": {"url": url}}
        if kind == "file":
            name = part.get("filename") or part.get("name")
            return {"type": "file", "file": {"file_data": url, **({"filename": name} if name else {})}}
        form = string_or_none(part.get("format")) or mime.rpartition("/")[2]
        return {"type": "input_audio", "input_audio": {"data": url.rpartition(",")[2], "format": form or "wav"}}
    if kind not in ("image_url", "input_audio", "file", "refusal", "video_url"):
        unknown.add(place, kind or "a part without a type")
    return dict(part)


def vercel(message: Mapping[str, Any], place: str, unknown: Untranslated) -> list[dict[str, Any]]:
    """A message of the AI SDK; each tool's result among its parts is a message of its own."""
    content = message.get("content")
    results = (
        [p for p in content if isinstance(p, Mapping) and kind_of(p) == "tool-result"]
        if isinstance(content, list)
        else []
    )
    if not results or not isinstance(content, list):
        return [plain(message, place, unknown)]
    found = []
    for part in results:
        output = part.get("output", part.get("result"))
        if isinstance(output, Mapping) and "value" in output:
            output = output["value"]
        found.append(
            {
                "role": "tool",
                "tool_call_id": part.get("toolCallId"),
                "name": part.get("toolName"),
                "content": json_text(output),
            }
        )
    rest = [part for part in content if part not in results]
    return [*found, plain({**message, "content": rest}, place, unknown)] if rest else found
