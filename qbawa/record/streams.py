"""Streams of model APIs, put together into the one response body that the same call would have had without streaming.

Pure functions on decoded events. They run in the writer thread and take whatever came over the wire, so a stream that
broke off gives the body as far as it was heard.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

Event = dict[str, Any]


def events_of(data: bytes) -> Iterator[Event]:
    """The JSON objects of a stream of server-sent events; what is not JSON, such as `[DONE]` or half an event, is let go."""
    pending: list[bytes] = []
    for line in [*data.splitlines(), b""]:
        if line.startswith(b"data:"):
            pending.append(line[5:].strip())
        elif not line.strip() and pending:
            try:
                event = json.loads(b"\n".join(pending))
            except ValueError:
                event = None
            pending = []
            if isinstance(event, dict):
                yield event


def whole(api: str, events: list[Event]) -> tuple[Event | None, Event | None]:
    """The response body of a stream, None where it said nothing, and the error that it ended in, if it did."""
    error: Event | None = None
    heard: list[Event] = []
    for event in events:
        if event.get("error") and event.get("type") in (None, "error"):
            found = event["error"]
            error = found if isinstance(found, dict) else {"message": str(found)}
        elif event.get("type") == "error":  # the Responses API says it without an object around it
            error = {"type": event.get("code") or "error", "message": event.get("message")}
        else:
            heard.append(event)
    body = _JOINS[api](heard) if heard else None
    return body, error


def _chat(events: list[Event]) -> Event:
    body: Event = {}
    choices: dict[int, Event] = {}
    for event in events:
        body.update((key, value) for key, value in event.items() if key != "choices" and value is not None)
        for part in event.get("choices") or ():
            choice = choices.setdefault(part.get("index") or 0, {"index": part.get("index") or 0})
            if "delta" in part:
                _merge(choice.setdefault("message", {"role": "assistant", "content": None}), part["delta"] or {})
            for key, value in part.items():
                if key == "text":
                    choice["text"] = choice.get("text", "") + (value or "")
                elif key == "logprobs" and value:
                    _merge(choice.setdefault("logprobs", {}), value)
                elif key not in ("delta", "index") and (value is not None or key not in choice):
                    choice[key] = value
    for choice in choices.values():
        for call in choice.get("message", {}).get("tool_calls") or ():
            call.pop("index", None)
    if body.get("object") == "chat.completion.chunk":
        body["object"] = "chat.completion"
    body["choices"] = [choice for _, choice in sorted(choices.items())]
    return body


def _merge(into: Event, delta: Event) -> None:
    """Add what a chunk says to what was said before: text is continued, lists grow, indexed parts by their index."""
    for key, value in delta.items():
        known = into.get(key)
        if value is None:
            into.setdefault(key, None)
        elif isinstance(value, dict) and isinstance(known, dict):
            _merge(known, value)
        elif isinstance(value, list) and (isinstance(known, list) or any(_index(item) is not None for item in value)):
            items: list[Any] = known if isinstance(known, list) else []
            into[key] = items
            for item in value:
                same = next((old for old in items if _index(item) is not None and _index(old) == _index(item)), None)
                if same is None:
                    items.append(item)
                else:
                    _merge(same, item)
        elif isinstance(value, str) and isinstance(known, str) and key not in ("id", "type", "role"):
            into[key] = known + value if key != "name" or known != value else known
        else:
            into[key] = value


def _index(item: Any) -> Any:
    return item.get("index") if isinstance(item, dict) else None


def _responses(events: list[Event]) -> Event:
    last = next((event for event in reversed(events) if event.get("type") in _ENDS), None)
    if last and isinstance(last.get("response"), dict):
        ended: Event = last["response"]
        return ended
    body: Event = {"object": "response", "status": "in_progress"}
    items: dict[int, Event] = {}
    for event in events:
        kind, at = event.get("type"), event.get("output_index") or 0
        if kind in ("response.created", "response.in_progress") and isinstance(event.get("response"), dict):
            body.update(event["response"])
        elif kind in ("response.output_item.added", "response.output_item.done"):
            items[at] = dict(event.get("item") or {})
        elif kind in ("response.output_text.delta", "response.refusal.delta"):
            name, field = ("output_text", "text") if "text" in str(kind) else ("refusal", "refusal")
            item = items.setdefault(at, {"type": "message", "role": "assistant"})
            content = item["content"] = list(item.get("content") or ())
            while len(content) <= (event.get("content_index") or 0):
                content.append({"type": name, field: ""})
            part = content[event.get("content_index") or 0]
            part[field] = part.get(field, "") + (event.get("delta") or "")
        elif kind == "response.function_call_arguments.delta":
            item = items.setdefault(at, {"type": "function_call"})
            item["arguments"] = (item.get("arguments") or "") + (event.get("delta") or "")
    body["output"] = [item for _, item in sorted(items.items())]
    return body


_ENDS = ("response.completed", "response.incomplete", "response.failed")


def _messages(events: list[Event]) -> Event:
    body: Event = {"type": "message", "role": "assistant"}
    blocks: dict[int, Event] = {}
    for event in events:
        kind, delta = event.get("type"), event.get("delta") or {}
        block = blocks.setdefault(event["index"], {}) if "index" in event else {}
        if kind == "message_start":
            body.update(event.get("message") or {})
        elif kind == "content_block_start":
            block.update(event.get("content_block") or {})
        elif kind == "content_block_delta":
            for field in ("text", "thinking", "signature", "data"):
                if field in delta:
                    block[field] = (block.get(field) or "") + delta[field]
            if "partial_json" in delta:
                block["_json"] = block.get("_json", "") + delta["partial_json"]
            if "citation" in delta:
                block["citations"] = [*(block.get("citations") or ()), delta["citation"]]
        elif kind == "message_delta":
            body.update((key, value) for key, value in delta.items() if value is not None)
            usage = {key: value for key, value in (event.get("usage") or {}).items() if value is not None}
            body["usage"] = {**(body.get("usage") or {}), **usage}
    for block in blocks.values():
        written = block.pop("_json", "")
        if written:
            try:
                block["input"] = json.loads(written)
            except ValueError:
                block["input"] = written  # broken off in the middle
    if not any(event.get("type") == "message_delta" for event in events) and isinstance(body.get("usage"), dict):
        # What the start counts as output is a first guess, not what was said until the stream broke off.
        body["usage"] = {**body["usage"], "output_tokens": None}
    body["content"] = [block for _, block in sorted(blocks.items())]
    return body


def _generate_content(events: list[Event]) -> Event:
    body: Event = {}
    candidates: dict[int, Event] = {}
    for event in events:
        body.update((key, value) for key, value in event.items() if key != "candidates")
        for part in event.get("candidates") or ():
            candidate = candidates.setdefault(part.get("index") or 0, {})
            candidate.update((key, value) for key, value in part.items() if key != "content")
            said = part.get("content") or {}
            content = candidate.setdefault("content", {"parts": [], "role": said.get("role", "model")})
            for piece in said.get("parts") or ():
                if piece == {"text": ""}:
                    continue  # which comes with the end
                before = content["parts"][-1] if content["parts"] else {}
                alike = set(piece) <= _TEXT and set(before) <= _TEXT
                if content["parts"] and alike and before.get("thought") == piece.get("thought"):
                    text = before.get("text", "") + piece.get("text", "")
                    content["parts"][-1] = {**before, **piece, "text": text}
                else:
                    content["parts"].append(piece)
    body["candidates"] = [candidate for _, candidate in sorted(candidates.items())]
    return body


_TEXT = {"text", "thought", "thoughtSignature"}
_JOINS: dict[str, Callable[[list[Event]], Event]] = {
    "openai.chat": _chat,
    "openai.completions": _chat,
    "openai.responses": _responses,
    "anthropic.messages": _messages,
    "google.generate_content": _generate_content,
}
