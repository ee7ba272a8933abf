"""What one model call sent and heard, as it went over the wire.

In the application's path only references are kept: bytes, or the client's own body. They are read in the writer thread,
which turns a chat completion into messages, parameters and an answer. Of other APIs both bodies stand in the journal as
they are (`call` in docs/recording.md) and are read when they are taken in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from qbawa.record.exceptions import Failure
from qbawa.record.snapshot import WHOLE_CHARS, WHOLE_NODES, Snapshot
from qbawa.record.streams import events_of, whole

_TRANSPORT = ("stream", "stream_options")  # how the answer travels, which has no bearing on it


class Said(NamedTuple):
    """A call as read: what a journal line says of it."""

    model: str | None
    messages: Any
    parameters: Any
    output: Any
    input_tokens: Any
    output_tokens: Any
    reasoning: str | None
    call: dict[str, Any] | None
    failure: Failure | None


class Exchange:
    """The bodies of one call: `sent`, and `heard`, whole or in the pieces of a stream.

    Both may be bytes, text or values. `more` joins the request: what travels beside the body, such as the model in a URL.
    """

    __slots__ = ("api", "sent", "heard", "streams", "more")

    def __init__(self, api: str, sent: Any = None, more: Mapping[str, Any] | None = None) -> None:
        self.api = api
        self.sent = sent
        self.more = dict(more or {})
        self.heard: Any = None
        self.streams = False

    @property
    def size(self) -> int:
        """Roughly, in bytes."""
        pieces = self.heard if isinstance(self.heard, list) else (self.heard,)
        return sum(len(piece) if isinstance(piece, bytes | str) else 500 for piece in (self.sent, *pieces))

    def read(self) -> Said:
        """What was said. Never raises for what came over the wire; a body that is no JSON object is left out."""
        sent = {**self.more, **(_object(self.sent) or {})}
        for name in _TRANSPORT:
            sent.pop(name, None)
        heard, error = self._heard()
        failure = Failure.reported(str(error.get("type") or error.get("code") or "error"),
                                   str(error.get("message") or "")) if error else None  # fmt: skip
        model = (
            _text((heard or {}).get("model")) or _text((heard or {}).get("modelVersion")) or _text(sent.get("model"))
        )
        if self.api not in ("openai.chat", "openai.completions"):
            call = {"api": self.api, "request": sent, "response": heard}
            return Said(model, None, None, None, None, None, None, call, failure)
        asked = sent.pop("messages", None)
        if self.api == "openai.completions":
            asked = sent.pop("prompt", None)
        sent.pop("model", None)
        heard = heard or {}
        usage = heard["usage"] if isinstance(heard.get("usage"), dict) else {}
        choices = [choice for choice in heard.get("choices") or () if isinstance(choice, dict)]
        output = answers_of(choices) if choices else None
        tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
        return Said(model, _listed(asked), sent, output, *tokens, thought(choices), None, failure)

    def _heard(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """The body of the reply and the error that it says, each None where there is none."""
        pieces = list(self.heard) if isinstance(self.heard, list) else None
        if pieces is not None and all(isinstance(piece, bytes) for piece in pieces):
            data = b"".join(pieces)
            if self.streams:
                return whole(self.api, list(events_of(data)))
            body = _object(data)
        elif self.streams:
            return whole(self.api, [event for event in map(_object, pieces or ()) if event])
        else:
            body = _object(self.heard)
        failed = body.get("error") if body else None
        return body, failed if isinstance(failed, dict) else None


def as_messages(messages: Any) -> Any:
    """Messages as a list of objects; a bare prompt is the one user message that it is."""
    if messages is None:
        return None
    return _listed(Snapshot(messages, WHOLE_CHARS, WHOLE_NODES).value)


def answer_of(message: Any) -> Any:
    """What an OpenAI-style assistant message says, in canonical form: its text, or a message where it says more."""
    from qbawa.model_apis import answers  # not while the application starts

    return answers.answer_of(message) if isinstance(message, Mapping) else message


def answers_of(choices: Any) -> Any:
    """The answer of a chat or text completion; a list where several were asked for."""
    answers = [answer_of(choice["message"]) if choice.get("message") else choice.get("text") for choice in choices]
    return answers[0] if len(answers) == 1 else answers


def _listed(messages: Any) -> Any:
    if messages is None or isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
        return messages
    return [{"role": "user", "content": messages}]


def thought(choices: Any) -> str | None:
    """What the model thought before it answered, under any of the names that servers give it."""
    from qbawa.model_apis import answers

    message = choices[0].get("message") if choices and isinstance(choices[0], Mapping) else None
    return answers.reasoning_of(message) if isinstance(message, Mapping) else None


def _object(body: Any) -> dict[str, Any] | None:
    if isinstance(body, bytes | str):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return None
    else:
        body = Snapshot(body, WHOLE_CHARS, WHOLE_NODES).value
    return body if isinstance(body, dict) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
