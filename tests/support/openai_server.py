"""A server that speaks the OpenAI wire format on loopback; its answers are scripted by the question."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body waits 40 ms for the client to acknowledge the head

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path.endswith("/responses"):
            said = {"type": "output_text", "text": f"echo {sent['input']}", "annotations": []}
            message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [said]}
            usage = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
            whole = {"id": "r", "object": "response", "created_at": 1, "model": sent["model"], "output": [message]}
            whole = {**whole, "usage": usage, "status": "completed"}
            if not sent.get("stream"):
                return self._json(200, whole)
            delta = {"item_id": "m", "output_index": 0, "content_index": 0, "logprobs": [], "delta": said["text"]}
            events = [{"type": "response.output_text.delta", "sequence_number": 1, **delta}]
            events.append({"type": "response.completed", "sequence_number": 2, "response": whole})
            return self._events(events)
        question = sent["messages"][-1]["content"]
        if "fail" in question:
            return self._json(400, {"error": {"message": "refused", "type": "invalid_request_error"}})
        base = {"id": "c", "created": 1, "model": sent["model"]}
        message: dict[str, Any] = {"role": "assistant", "content": f"echo {question}"}
        if "tool" in question:
            function = {"name": "look", "arguments": '{"up": 1}'}
            call = {"index": 0, "id": "t1", "type": "function", "function": function}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        if sent.get("stream"):
            return self._stream(base, message)
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self._json(200, {**base, "object": "chat.completion", "choices": [choice], "usage": USAGE})

    def _json(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _events(self, events: list[dict[str, Any]]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for event in events:
            name = f"event: {event['type']}\n" if "type" in event else ""
            self.wfile.write(f"{name}data: {json.dumps(event)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _stream(self, base: dict[str, Any], message: dict[str, Any]) -> None:
        words = (message["content"] or "").split(" ")
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": words[0]}]
        deltas += [{"content": f" {word}"} for word in words[1:]]
        if "tool_calls" in message:
            deltas = [{"role": "assistant", "tool_calls": message["tool_calls"]}]
        chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        chunks.append({"choices": [], "usage": USAGE})
        self._events([{**base, "object": "chat.completion.chunk", **chunk} for chunk in chunks])


class _Server(ThreadingHTTPServer):
    request_queue_size = 1_024
    daemon_threads = True


def serve() -> tuple[ThreadingHTTPServer, str]:
    """A running server and the base URL to give to clients; `shutdown()` and `server_close()` it."""
    server = _Server(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}/v1"
