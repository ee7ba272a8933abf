"""Messages made of `parts`, as OpenTelemetry's conventions for generative AI write them."""

from typing import Any

from qbawa.model_apis.answers import joined
from qbawa.model_apis.shapes import Untranslated, json_text, kind_of, objects, string_or_none, without

_SHOWN = ("text", "tool_call", "tool_call_response", "reasoning", "thinking")


def messages_of(value: Any, where: str, unknown: Untranslated) -> list[dict[str, Any]]:
    """Chat messages: text as content, tool calls in their field, each tool's response a message of its own."""
    found = []
    for place, message in objects(value, where):
        parts = message.get("parts")
        parts = (
            [{"type": "text", "content": p} if isinstance(p, str) else p for p in parts]
            if isinstance(parts, list)
            else []
        )
        found += _messages(message, list(objects(parts, f"{place}.parts")), unknown)
    return found


def system_message(parts: Any) -> dict[str, Any]:
    """The system message of `gen_ai.system_instructions`."""
    (message,) = messages_of([{"role": "system", "parts": parts}], "system_instructions", Untranslated())
    return message


def _messages(
    message: dict[str, Any], parts: list[tuple[str, dict[str, Any]]], unknown: Untranslated
) -> list[dict[str, Any]]:
    role = message.get("role") if isinstance(message.get("role"), str) else "user"
    results = [_result(part) for _, part in parts if kind_of(part) == "tool_call_response"]
    calls = [_call(part) for _, part in parts if kind_of(part) == "tool_call"]
    thought = joined([_said(part) for _, part in parts if kind_of(part) in ("reasoning", "thinking")])
    shared = [_part(part, place, unknown) for place, part in parts if kind_of(part) not in _SHOWN[1:]]
    if results and not shared and not calls:
        return results
    plain = all(part.keys() == {"type", "text"} for part in shared)
    content: Any = "\n".join(part["text"] for part in shared) if shared and plain else shared or None
    said: dict[str, Any] = {
        "role": role,
        "content": content,
        **({"name": message["name"]} if message.get("name") else {}),
    }
    said |= {"tool_calls": calls} if calls else {}
    return [*results, {**said, "reasoning_content": thought} if thought else said]


def _part(part: dict[str, Any], place: str, unknown: Untranslated) -> dict[str, Any]:
    kind, mime = kind_of(part), str(part.get("mime_type") or "")
    modality = part.get("modality")
    if kind == "text":
        return {"type": "text", "text": str(_said(part) or "")}
    url = string_or_none(part.get("uri"))
    if kind == "blob" and isinstance(part.get("content") or part.get("data"), str):
        url = f"data:{mime or f'{modality}/*'};base64,{part.get('content') or part.get('data')}"
    if url and kind in ("blob", "uri"):
        if modality == "image" or mime.startswith("image/"):
            return {"type": "image_url", "image_url": {"url": url}}
        if mime in ("audio/wav", "audio/mp3", "audio/mpeg") and url.startswith("data:"):
            form = "wav" if mime == "audio/wav" else "mp3"
            return {"type": "input_audio", "input_audio": {"data": url.partition(",")[2], "format": form}}
        if url.startswith("data:"):
            return {"type": "file", "file": {"file_data": url}}
    if kind == "file" and part.get("file_id"):
        return {"type": "file", "file": {"file_id": part["file_id"]}}
    unknown.add(place, kind or "a part without a type")
    return part


def _said(part: dict[str, Any]) -> Any:
    return part["content"] if "content" in part else part.get("text")


def _call(part: dict[str, Any]) -> dict[str, Any]:
    arguments = json_text(part.get("arguments") if part.get("arguments") is not None else {})
    return {"id": part.get("id"), "type": "function", "function": {"name": part.get("name"), "arguments": arguments}}


def _result(part: dict[str, Any]) -> dict[str, Any]:
    said = next((part[name] for name in ("response", "result", "content") if part.get(name) is not None), None)
    return {
        "role": "tool",
        "tool_call_id": part.get("id"),
        "content": json_text(said),
        **without({"name": part.get("name")}),
    }
