"""An assistant's message as the canonical answer: text where it is text alone, else a message without ids."""

from collections.abc import Mapping, Sequence
from typing import Any

from qbawa.model_apis.shapes import decoded, kind_of

_TEXT = ("text", "output_text", "input_text", "")  # some servers say no type


def answer_of(message: Mapping[str, Any]) -> Any:
    """What an assistant's chat message says. None where it says nothing."""
    content = message.get("content")
    text = text_of(content) if isinstance(content, list) else content
    more = {name: message.get(name) for name in ("refusal", "audio", "images")}
    return made(text, tool_calls_of(message), **more)


def made(text: Any, tool_calls: Sequence[Any] = (), **more: Any) -> Any:
    """The canonical answer of its parts: `text` alone where nothing else is there."""
    rest = {key: value for key, value in {"tool_calls": list(tool_calls), **more}.items() if value}
    return text if not rest else {"role": "assistant", "content": text or None, **rest}


def tool_calls_of(message: Mapping[str, Any]) -> list[Any]:
    """The tool calls of a chat message, without ids, arguments decoded; the old `function_call` is one of them."""
    calls = message.get("tool_calls")
    found = [bare_call(call) for call in calls] if isinstance(calls, list) else []
    old = message.get("function_call")
    return [*found, _function(old)] if isinstance(old, dict) and not found else found


def bare_call(call: Any) -> Any:
    """One tool call of a chat message without its id."""
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return _function(call["function"])
    if isinstance(call.get("function"), str):  # inspect_ai
        return tool_call(call["function"], call.get("arguments") or {})
    return {key: value for key, value in call.items() if key not in ("id", "index") and value is not None}


def tool_call(name: Any, arguments: Any) -> dict[str, Any]:
    """A call of a function, canonical in an answer."""
    return {"type": "function", "function": {"name": name, "arguments": decoded(arguments)}}


def _function(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments")
    return tool_call(function.get("name"), {} if arguments is None else arguments)


def reasoning_of(message: Mapping[str, Any]) -> str | None:
    """What a chat message says the model thought, under any of the names that servers give it."""
    for name in ("reasoning_content", "reasoning", "thinking"):
        value = message.get(name)
        if isinstance(value, str) and value:
            return value
    blocks = message.get("thinking_blocks")
    parts = [*(blocks if isinstance(blocks, list) else []), *_thoughts(message.get("content"))]
    return joined([part.get("thinking") for part in parts if isinstance(part, dict)])


def _thoughts(content: Any) -> list[dict[str, Any]]:
    """Thinking among the parts of a message; Mistral puts a list of texts in it, others call it reasoning."""
    found = []
    for part in content if isinstance(content, list) else []:
        if isinstance(part, dict) and kind_of(part) in ("thinking", "reasoning"):
            inner = part.get("thinking") or part.get("reasoning") or part.get("text")
            found.append({"thinking": text_of(inner) if isinstance(inner, list) else inner})
    return found


def text_of(parts: Sequence[Any]) -> str | None:
    """The texts of a message's parts, joined as the client libraries join them; None where there are none."""
    texts = [part.get("text") if isinstance(part, dict) and kind_of(part) in _TEXT else part for part in parts]
    found = [text for text in texts if isinstance(text, str)]
    return "".join(found) if found else None


def joined(texts: Sequence[Any]) -> str | None:
    """Pieces of thought in order, one below the other."""
    return "\n\n".join(text for text in texts if isinstance(text, str) and text) or None


def one_or_all(answers: Sequence[Any]) -> Any:
    """The answer; a list of them where several were asked for."""
    return answers[0] if len(answers) == 1 else list(answers) or None
