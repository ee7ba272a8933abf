"""Messages whose parts say what they are in a way of their own: Bedrock's Converse, pydantic-ai, AutoGen."""

from collections.abc import Mapping
from typing import Any

from qbawa.model_apis.answers import joined
from qbawa.model_apis.frameworks import chat_call, plain, role_of
from qbawa.model_apis.shapes import Untranslated, json_text, kind_of, without


def autogen_results(message: Mapping[str, Any], place: str, unknown: Untranslated) -> list[dict[str, Any]]:
    """AutoGen's results of several tools as a message for each."""
    results = [result for result in message["content"] if isinstance(result, Mapping)]
    return [
        {"role": "tool", "tool_call_id": r.get("call_id"), "content": json_text(r.get("content")), **_name(r)}
        for r in results
    ]


def _name(result: Mapping[str, Any]) -> dict[str, Any]:
    return without({"name": result.get("name")})


def bedrock(message: Mapping[str, Any], place: str, unknown: Untranslated) -> list[dict[str, Any]]:
    """A message of Bedrock's Converse API, whose parts are named by their one key; Strands keeps them so, too."""
    results, parts, calls, thoughts = [], list[dict[str, Any]](), [], []
    for number, part in enumerate(message["content"]):
        call, result, thought = (part.get(name) for name in ("toolUse", "toolResult", "reasoningContent"))
        url = _image(part.get("image"))
        if isinstance(part.get("text"), str):
            parts.append({"type": "text", "text": part["text"]})
        elif isinstance(call, Mapping):
            calls.append(chat_call({"id": call.get("toolUseId"), "name": call.get("name"), "input": call.get("input")}))
        elif isinstance(result, Mapping):
            results.append({"role": "tool", "tool_call_id": result.get("toolUseId"), "content": _result(result)})
        elif isinstance(thought, Mapping):
            text = thought.get("reasoningText")
            thoughts.append(text.get("text") if isinstance(text, Mapping) else None)
        elif url:
            parts.append({"type": "image_url", "image_url": {"url": url}})
        elif "cachePoint" not in part:
            unknown.add(f"{place}.content[{number}]", next(iter(part), "an empty part"))
            parts.append(dict(part))
    role = role_of(message.get("role")) or "user"
    plain_text = role == "assistant" and len(parts) == 1 and parts[0].keys() == {"type", "text"}
    said = _said(parts[0]["text"] if plain_text else parts or None, calls, thoughts)
    return [*results, {**said, "role": role}] if parts or calls or not results else results


def _result(result: Mapping[str, Any]) -> str:
    content = result.get("content")
    pieces = (
        [p.get("text", p.get("json")) for p in content if isinstance(p, Mapping)]
        if isinstance(content, list)
        else [content]
    )
    return "\n".join(json_text(piece) for piece in pieces)


def _image(image: Any) -> str | None:
    source = image.get("source") if isinstance(image, Mapping) else None
    data = source.get("bytes") if isinstance(source, Mapping) else None
    return f"data:image/{image.get('format') or 'png'};base64,{data}" if isinstance(data, str) else None


def pydantic_ai(message: Mapping[str, Any], place: str, unknown: Untranslated) -> list[dict[str, Any]]:
    """pydantic-ai's own messages: requests and responses of parts that each name their `part_kind`."""
    found: list[dict[str, Any]] = []
    texts, calls, thoughts = [], [], []
    for part in message["parts"]:
        if not isinstance(part, Mapping):
            continue
        kind, content = kind_of(part, "part_kind"), part.get("content")
        if kind in ("system-prompt", "user-prompt"):
            found.append(plain({"role": kind.partition("-")[0], "content": content}, place, unknown))
        elif kind in ("tool-return", "retry-prompt") and part.get("tool_name"):
            found.append({"role": "tool", "tool_call_id": part.get("tool_call_id"), "content": json_text(content)})
        elif kind == "retry-prompt":
            found.append({"role": "user", "content": json_text(content)})
        elif kind == "text":
            texts.append(content)
        elif kind == "thinking":
            thoughts.append(content)
        elif kind == "tool-call":
            call = {"id": part.get("tool_call_id"), "name": part.get("tool_name"), "args": part.get("args")}
            calls.append(chat_call(call))
        else:
            unknown.add(place, kind or "a part without a kind")
    if not (texts or calls or thoughts):
        return found
    text = "".join(piece for piece in texts if isinstance(piece, str)) if texts else None
    return [*found, _said(text, calls, thoughts)]


def _said(content: Any, calls: list[Any], thoughts: list[Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        said["tool_calls"] = calls
    thought = joined(thoughts)
    return {**said, "reasoning_content": thought} if thought else said
