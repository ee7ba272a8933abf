"""A server on loopback that speaks four model APIs: chat completions, responses, messages and generateContent.

It keeps every request body that it receives. What it answers follows from the question alone, so that an application in
another process can be scripted by what it asks: a text is echoed; "tool" calls the first tool on offer and "tools" calls
it twice; a schema is filled in; "fail" is refused, "busy" is refused once, "break" breaks a stream off in the middle,
"think" thinks first, "uncounted" counts no tokens in a stream. Or hand in a function of your own.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

INPUT_TOKENS, OUTPUT_TOKENS = 5, 2
_PATHS = (
    (re.compile(r"/chat/completions$"), "openai.chat"),
    (re.compile(r"/responses$"), "openai.responses"),
    (re.compile(r"/messages$"), "anthropic.messages"),
    (re.compile(r":(?:generateContent|streamGenerateContent)$"), "google.generate_content"),
)


@dataclass(frozen=True)
class Received:
    """One request as it arrived."""

    api: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """What the model is to say."""

    text: str | None = None
    tools: tuple[tuple[str, dict[str, Any]], ...] = ()
    thought: str | None = None
    status: int = 200
    breaks: bool = False
    """Whether a stream ends in the middle, without a word."""
    counted: bool = True
    """Whether a stream ends with the number of its tokens."""
    more: dict[str, Any] = field(default_factory=dict)
    """Joins the body of a reply that is no stream."""


Script = Callable[[str, dict[str, Any]], Reply]


class ModelServer(ThreadingHTTPServer):
    """`url` is where it listens; `received` what it was asked, in order."""

    request_queue_size = 1_024
    daemon_threads = True

    def __init__(self, script: Script | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script or by_question
        self.received: list[Received] = []
        self.busy: set[str] = set()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """A client that leaves a stream early is no error."""

    def reply(self, api: str, body: dict[str, Any]) -> Reply:
        asked = question(api, body)
        if "busy" in asked and asked not in self.busy:
            self.busy.add(asked)
            return Reply(status=429)
        return self.script(api, body)


@contextmanager
def model_server(script: Script | None = None) -> Iterator[ModelServer]:
    """A running server."""
    server = ModelServer(script)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def by_question(api: str, body: dict[str, Any]) -> Reply:
    """The reply that the last message asks for."""
    asked, tools, forced = question(api, body), tools_of(api, body), _forced(api, body)
    if "fail" in asked:
        return Reply(status=400)
    schema = schema_of(api, body)
    reply = Reply(text=f"echo {asked}", thought="let me see" if "think" in asked else None, breaks="break" in asked)
    if tools and (forced or ("tool" in asked and not _has_result(api, body))):
        chosen = next((tool for tool in tools if tool[0] == forced), tools[0])
        call = (chosen[0], sample(chosen[1], chosen[1]))
        reply = replace(reply, text=None, tools=(call, call) if "tools" in asked else (call,))
    elif schema:
        reply = replace(reply, text=json.dumps(sample(schema, schema)))
    counted = "uncounted" not in asked
    if api == "openai.chat" and body.get("stream"):
        counted = counted and bool((body.get("stream_options") or {}).get("include_usage"))
    return replace(reply, counted=counted)


def question(api: str, body: dict[str, Any]) -> str:
    """The text of the last thing that was said by somebody who is not the model."""
    if api == "google.generate_content":
        parts = [part for part in body["contents"][-1]["parts"] if "text" in part]
        return " ".join(part["text"] for part in parts) if parts else "the result"
    said = body["input"] if api == "openai.responses" else body["messages"]
    if isinstance(said, str):
        return said
    asked = [item for item in said if item.get("role") == "user"]
    content = asked[-1].get("content") if asked else ""
    if isinstance(content, str):
        return content
    texts = [part.get("text") for part in content or () if isinstance(part.get("text"), str)]
    return " ".join(texts) if texts else "the result"


def tools_of(api: str, body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Name and schema of each function on offer."""
    found: list[tuple[str, dict[str, Any]]] = []
    for tool in body.get("tools") or ():
        if api == "openai.chat" and "function" in tool:
            found.append((tool["function"]["name"], tool["function"].get("parameters") or {}))
        elif api == "openai.responses" and tool.get("type") == "function":
            found.append((tool["name"], tool.get("parameters") or {}))
        elif api == "anthropic.messages" and "input_schema" in tool:
            found.append((tool["name"], tool["input_schema"]))
        elif api == "google.generate_content":
            for one in tool.get("functionDeclarations") or tool.get("function_declarations") or ():
                schema = one.get("parameters") or one.get("parametersJsonSchema") or one.get("parameters_json_schema")
                found.append((one["name"], schema or {}))
    return found


def schema_of(api: str, body: dict[str, Any]) -> dict[str, Any] | None:
    """The schema that the answer must follow, if one was sent."""
    if api == "openai.chat":
        return ((body.get("response_format") or {}).get("json_schema") or {}).get("schema")
    if api == "openai.responses":
        return ((body.get("text") or {}).get("format") or {}).get("schema")
    if api == "anthropic.messages":
        made = (body.get("output_config") or {}).get("format") or body.get("output_format") or {}
        return made.get("schema")
    config = body.get("generationConfig") or {}
    return config.get("responseSchema") or config.get("responseJsonSchema")


def sample(schema: dict[str, Any], root: dict[str, Any]) -> Any:
    """A value that follows a JSON schema."""
    if "$ref" in schema:
        found: Any = root
        for name in schema["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        return sample(found, root)
    for several in ("anyOf", "oneOf", "allOf"):
        if schema.get(several):
            return sample(schema[several][0], root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    kind = str(
        (kind[0] if isinstance(kind, list) else kind) or ("object" if "properties" in schema else "string")
    ).lower()
    if kind == "object":
        return {name: sample(part, root) for name, part in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [sample(schema.get("items") or {}, root)]
    return {"integer": 3, "number": 1.5, "boolean": True, "null": None}.get(kind, "Rome")


def _forced(api: str, body: dict[str, Any]) -> str | None:
    """The tool that must be called; its name, or "any"."""
    choice = body.get("tool_choice")
    if api == "google.generate_content":
        calling = ((body.get("toolConfig") or {}).get("functionCallingConfig")) or {}
        return (calling.get("allowedFunctionNames") or ["any"])[0] if calling.get("mode") == "ANY" else None
    if choice in ("required", "any"):
        return "any"
    if isinstance(choice, dict) and choice.get("type") in ("function", "tool", "any"):
        return (choice.get("function") or {}).get("name") or choice.get("name") or "any"
    return None


def _has_result(api: str, body: dict[str, Any]) -> bool:
    if api == "openai.chat":
        return body["messages"][-1].get("role") == "tool"
    if api == "openai.responses":
        return isinstance(body["input"], list) and any(i.get("type") == "function_call_output" for i in body["input"])
    if api == "anthropic.messages":
        content = body["messages"][-1]["content"]
        return isinstance(content, list) and any(part.get("type") == "tool_result" for part in content)
    return any("functionResponse" in part for part in body["contents"][-1]["parts"])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body waits 40 ms for the client to acknowledge the head
    server: ModelServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._json(200, {"object": "list", "data": []})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])) or b"{}")
        path = self.path.partition("?")[0]
        api = next((name for pattern, name in _PATHS if pattern.search(path)), None)
        if api is None:
            return self._json(404, {"error": {"message": f"no such endpoint: {path}", "type": "not_found"}})
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.received.append(Received(api, self.path, headers, body))
        reply = self.server.reply(api, body)
        if reply.status != 200:
            why = {"message": "refused", "type": "invalid_request_error", "code": reply.status, "status": "REFUSED"}
            return self._json(reply.status, {"type": "error", "error": why})
        model = body.get("model") or path.rpartition("/")[2].partition(":")[0]
        whole, events = _SPEAK[api](model, reply)
        if body.get("stream") or "streamGenerateContent" in path:
            return self._events(events, api, reply)
        self._json(200, {**whole, **reply.more})

    def _json(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        if status == 429:
            self.send_header("retry-after", "0")
            self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data)

    def _events(self, events: list[dict[str, Any]], api: str, reply: Reply) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in events[: len(events) // 2 + 1] if reply.breaks else events:
            name = f"event: {event['type']}\n" if "type" in event else ""
            self._chunk(f"{name}data: {json.dumps(event)}\n\n".encode())
        if reply.breaks:
            self.close_connection = True  # without the chunk that ends a body
            return
        if api == "openai.chat":
            self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def _words(text: str) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text) or [text]


Spoken = tuple[dict[str, Any], list[dict[str, Any]]]


def _chat(model: str, reply: Reply) -> Spoken:
    base = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": model}
    usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS, "total_tokens": 7}
    calls = [
        {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for n, (name, arguments) in enumerate(reply.tools)
    ]
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}] if reply.text is not None else []
    if reply.thought:
        message["reasoning_content"] = reply.thought
        deltas.append({"reasoning_content": reply.thought})
    deltas += [{"content": word} for word in _words(reply.text or "")] if reply.text is not None else []
    if calls:
        message["tool_calls"] = calls
        for n, call in enumerate(calls):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            deltas.append({"tool_calls": [{"index": n, **call, "function": {"name": name, "arguments": ""}}]})
            for half in (arguments[:3], arguments[3:]):
                deltas.append({"tool_calls": [{"index": n, "function": {"arguments": half}}]})
    reason = "tool_calls" if calls else "stop"
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
    whole = {**base, "object": "chat.completion", "choices": [choice], "usage": usage}
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    if reply.counted:
        chunks.append({"choices": [], "usage": usage})
    return whole, [{**base, "object": "chat.completion.chunk", **chunk} for chunk in chunks]


def _responses(model: str, reply: Reply) -> Spoken:
    items: list[dict[str, Any]] = []
    if reply.thought:
        summary = [{"type": "summary_text", "text": reply.thought}]
        items.append({"type": "reasoning", "id": "rs_1", "summary": summary})
    if reply.text is not None:
        part = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
        items.append({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]})
    for n, (name, arguments) in enumerate(reply.tools):
        call = {"name": name, "arguments": json.dumps(arguments), "call_id": f"call_{n}", "id": f"fc_{n}"}
        items.append({"type": "function_call", "status": "completed", **call})
    usage = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS, "total_tokens": 7}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    whole = {
        **{"id": "resp_1", "object": "response", "created_at": 1_700_000_000, "model": model, "status": "completed"},
        **{"output": items, "usage": usage if reply.counted else None, "parallel_tool_calls": True, "tools": []},
        **{"tool_choice": "auto", "error": None, "incomplete_details": None, "instructions": None, "metadata": {}},
        **{"temperature": 1.0, "top_p": 1.0},
    }
    begun = {**whole, "output": [], "usage": None, "status": "in_progress"}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
    for n, item in enumerate(items):
        at = {"output_index": n, "item_id": item["id"]}
        if item["type"] == "message":
            part = item["content"][0]
            empty = {**part, "text": ""}
            events.append({"type": "response.output_item.added", "output_index": n, "item": {**item, "content": []}})
            events.append({"type": "response.content_part.added", **at, "content_index": 0, "part": empty})
            for word in _words(part["text"]):
                delta = {"content_index": 0, "delta": word, "logprobs": []}
                events.append({"type": "response.output_text.delta", **at, **delta})
            events.append({"type": "response.output_text.done", **at, "content_index": 0, "text": part["text"],
                           "logprobs": []})  # fmt: skip
            events.append({"type": "response.content_part.done", **at, "content_index": 0, "part": part})
        elif item["type"] == "function_call":
            bare = {**item, "arguments": ""}
            events.append({"type": "response.output_item.added", "output_index": n, "item": bare})
            delta = {"delta": item["arguments"]}
            events.append({"type": "response.function_call_arguments.delta", **at, **delta})
            done = {"arguments": item["arguments"], "name": item["name"]}
            events.append({"type": "response.function_call_arguments.done", **at, **done})
        else:
            events.append({"type": "response.output_item.added", "output_index": n, "item": item})
        events.append({"type": "response.output_item.done", "output_index": n, "item": item})
    events.append({"type": "response.completed", "response": whole})
    return whole, [{**event, "sequence_number": n} for n, event in enumerate(events)]


def _messages(model: str, reply: Reply) -> Spoken:
    blocks: list[dict[str, Any]] = []
    if reply.thought:
        blocks.append({"type": "thinking", "thinking": reply.thought, "signature": "c2ln"})
    if reply.text is not None:
        blocks.append({"type": "text", "text": reply.text})
    blocks += [
        {"type": "tool_use", "id": f"toolu_{n}", "name": name, "input": arguments}
        for n, (name, arguments) in enumerate(reply.tools)
    ]
    reason = "tool_use" if reply.tools else "end_turn"
    usage = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
    base = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "stop_sequence": None}
    whole = {**base, "content": blocks, "stop_reason": reason, "usage": usage}
    start = {**base, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    for n, block in enumerate(blocks):
        if block["type"] == "text":
            empty = {"type": "text", "text": ""}
            deltas: list[dict[str, Any]] = [{"type": "text_delta", "text": word} for word in _words(block["text"])]
        elif block["type"] == "thinking":
            empty = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = [{"type": "thinking_delta", "thinking": block["thinking"]}]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        else:
            empty = {**block, "input": {}}
            text = json.dumps(block["input"])
            deltas = [{"type": "input_json_delta", "partial_json": half} for half in (text[:3], text[3:])]
        events.append({"type": "content_block_start", "index": n, "content_block": empty})
        events += [{"type": "content_block_delta", "index": n, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": n})
    delta = {"stop_reason": reason, "stop_sequence": None}
    events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": OUTPUT_TOKENS}})
    events.append({"type": "message_stop"})
    return whole, events


def _generate_content(model: str, reply: Reply) -> Spoken:
    parts: list[dict[str, Any]] = [{"text": reply.thought, "thought": True}] if reply.thought else []
    pieces = list(parts)
    if reply.text is not None:
        parts.append({"text": reply.text})
        pieces += [{"text": word} for word in _words(reply.text)]
    calls = [{"functionCall": {"name": name, "args": arguments}} for name, arguments in reply.tools]
    usage = {"promptTokenCount": INPUT_TOKENS, "candidatesTokenCount": OUTPUT_TOKENS, "totalTokenCount": 7}
    base = {"modelVersion": model, "responseId": "r1"}

    def said(parts: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {"candidates": [{"content": {"parts": parts, "role": "model"}, "index": 0, **more}], **base}

    whole = {**said([*parts, *calls], finishReason="STOP"), "usageMetadata": usage}
    events = [said([piece]) for piece in [*pieces, *calls]]
    events.append(said([{"text": ""}], finishReason="STOP"))
    if reply.counted:
        events[-1]["usageMetadata"] = usage
    return whole, events


_SPEAK: dict[str, Callable[[str, Reply], Spoken]] = {
    "openai.chat": _chat,
    "openai.responses": _responses,
    "anthropic.messages": _messages,
    "google.generate_content": _generate_content,
}
