"""A model provider on loopback whose words are scripted: OpenAI's wire format, a real server, a count of what it answered."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STOPS_WITHIN_S = 0.02


def first_words(prompt: str) -> str:
    """A different answer to every prompt, the same one every time."""
    return f"Answer {hashlib.sha256(prompt.encode()).hexdigest()[:8]} to: {prompt[:40]}"


class ScriptedProvider:
    """What it says, how long it takes and whom it refuses may change while it runs."""

    def __init__(self) -> None:
        self.say: Callable[[str], str] = first_words
        self.refuses: Callable[[str], bool] = lambda prompt: False
        """Prompts that are answered 400: final, so nobody asks again by itself."""
        self.fails: Callable[[str], tuple[int, str] | None] = lambda prompt: None
        """Prompts that are answered with a status and a body of any kind, as a server in trouble does."""
        self.replies: Callable[[str, dict[str, Any]], dict[str, Any] | None] = lambda path, body: None
        """Whole replies to whole requests, of any API: what stands here wins."""
        self.logprobs: Callable[[str], Any] = lambda answer: None
        """What stands under `logprobs` beside an answer."""
        self.latency_s = 0.0
        self.answered: Counter[str] = Counter()
        """How often each question, its whole body, was answered."""
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self._handler())

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    @property
    def calls(self) -> int:
        """Answers given."""
        with self._lock:
            return sum(self.answered.values())

    def asked_again(self) -> int:
        """Answers beyond the first to the same question."""
        with self._lock:
            return sum(times - 1 for times in self.answered.values())

    def _answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any] | str]:
        whole_reply = self.replies(path, body)
        if whole_reply is not None:
            return 200, whole_reply
        prompt = "\n".join(str(message["content"]) for message in body["messages"])
        time.sleep(self.latency_s)
        failure = self.fails(prompt)
        if failure is not None:
            return failure
        if self.refuses(prompt):
            return 400, {"error": {"message": "refused by the script", "type": "invalid_request_error"}}
        said = self.say(prompt)
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        choice |= {"logprobs": self.logprobs(said)}
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": 9, "total_tokens": len(prompt) // 4 + 9}
        whole = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"]}
        return 200, {**whole, "choices": [choice], "usage": usage}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Else head and body go out as two packets, and the second waits 40 ms for the client to acknowledge the first.
            wbufsize = -1

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status, said = provider._answer(self.path, body)
                data = (said if isinstance(said, str) else json.dumps(said)).encode()
                if status == 200 and not isinstance(said, str):
                    with provider._lock:
                        provider.answered[json.dumps(body, sort_keys=True)] += 1
                try:
                    self.send_response(status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                    self.wfile.flush()
                except OSError:  # whoever asked has been killed
                    self.close_connection = True

        return Handler


class _Server(ThreadingHTTPServer):
    request_queue_size = 1_024
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed while they ask are what some tests are about."""


@contextmanager
def scripted_provider() -> Iterator[ScriptedProvider]:
    """A running provider, stopped at the end."""
    provider = ScriptedProvider()
    server = provider._server
    threading.Thread(target=server.serve_forever, args=(STOPS_WITHIN_S,), daemon=True).start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
