"""What the readers of all APIs return, and how they look into JSON that may be anything. Standard library only."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from qbawa.errors import InputError

Api = Literal["openai.chat", "openai.responses", "anthropic.messages", "google.generate_content"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What one call asked, as a chat completion would ask it."""

    messages: list[dict[str, Any]]
    parameters: dict[str, Any]
    """Under the names of chat completions; a field that has no such name keeps its own."""
    untranslated: tuple[str, ...] = ()
    """Paths of what a chat completion cannot say: faithful replay needs the API that the question came from."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What one call answered."""

    output: Any = None
    """Text; a message without ids where it calls tools or holds more than text; a list where several were asked for."""
    reasoning: str | None = None
    """What the model thought before it answered, where the provider says so; never part of `output`."""
    model: str | None = None
    input_tokens: int | None = None
    """All tokens of the prompt, cached ones included; None where nobody counted."""
    output_tokens: int | None = None
    cached_tokens: int | None = None
    finish_reason: str | None = None
    """In the words of chat completions: stop, length, tool_calls, content_filter; another word as it came."""


class Untranslated:
    """Collects the paths of what has no equivalent, each once, in order."""

    def __init__(self) -> None:
        self._paths: dict[str, None] = {}

    def add(self, path: str, what: object = None) -> None:
        self._paths[f"{path}: {what}" if what else path] = None

    def paths(self) -> tuple[str, ...]:
        return tuple(self._paths)


TRANSPORT = frozenset(
    {"stream", "stream_options", "timeout", "extra_headers", "extra_query", "http_options", "httpOptions", "api_key",
     "api_base", "base_url", "api_version", "organization", "max_retries", "num_retries"}
)  # fmt: skip
"""How a call was made rather than what was asked."""
ACCOUNTING = frozenset({"user", "metadata", "safety_identifier", "labels"})
"""Who asked and for what: of the recording, not of the question."""


def mapping(value: Any, where: str) -> dict[str, Any]:
    """The value, which must be an object."""
    if not isinstance(value, dict):
        raise InputError(f"{where} must be an object, not {shown(value)}.")
    return value


def objects(value: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a list, each with its place; None is an empty list."""
    if value is None:
        return
    if not isinstance(value, list):
        raise InputError(f"{where} must be a list, not {shown(value)}.")
    for number, item in enumerate(value):
        yield f"{where}[{number}]", mapping(item, f"{where}[{number}]")


def string(value: Any, where: str) -> str:
    """The value, which must be a text."""
    if not isinstance(value, str):
        raise InputError(f"{where} must be a text, not {shown(value)}.")
    return value


def string_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def kind_of(value: Mapping[str, Any], name: str = "type") -> str:
    """The word that says what an object is; empty where there is none."""
    kind = value.get(name)
    return kind if isinstance(kind, str) else ""


def count_of(value: Any) -> int | None:
    """A number of tokens; None for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def without(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """A copy without these keys and without those that hold null."""
    return {key: inner for key, inner in value.items() if inner is not None and key not in names}


def request_body(body: Any, what: str) -> dict[str, Any]:
    """The fields of a request that ask something: `extra_body` merged in, transport and nulls left out."""
    asked = without(mapping(body, what), "extra_body", *TRANSPORT)
    extra = body.get("extra_body")
    return {**asked, **without(extra, *TRANSPORT)} if isinstance(extra, dict) else asked


def decoded(arguments: Any) -> Any:
    """Arguments of a tool call as an object; the text itself where it is no JSON object or list."""
    if not isinstance(arguments, str):
        return arguments
    if not arguments.strip():
        return {}
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict | list) else arguments


def json_text(value: Any) -> str:
    """A value as JSON text; a text as it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def shown(value: Any) -> str:
    """A value in an error message."""
    if isinstance(value, dict):
        return f"an object with the keys {', '.join(str(key)[:40] for key in list(value)[:6]) or 'none'}"
    return "a list" if isinstance(value, list) else f"{value!r:.60}"
