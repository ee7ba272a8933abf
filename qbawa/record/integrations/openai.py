"""`qbawa.wrap_openai(client)`: one client of the openai package, sync or async. Nothing is imported.

`qbawa.instrument()` records every client of every package; this is for those who want one client recorded.
"""

from __future__ import annotations

from typing import Any, TypeVar

from qbawa.record.integrations.stainless import record_client
from qbawa.record.snapshot import type_name

Client = TypeVar("Client")


def wrap_openai(client: Client) -> Client:
    """The same client, an `OpenAI` or `AsyncOpenAI` or one of their Azure kin, which now records its model calls.

    Covers chat completions, completions and responses by whatever method, streaming or not, and clients made from this
    one by `with_options` and `copy`. A streamed call is recorded when its stream ends or is closed.
    Raises TypeError for anything else, which would not be recorded.
    """
    bases = type(client).__mro__
    if any(kind.__name__ in ("SyncAPIClient", "AsyncAPIClient") for kind in bases) and _speaks_openai(client):
        record_client(client)
        return client
    package = type(client).__module__.partition(".")[0]
    if isinstance(client, type):
        instead = "Give it the client itself, not its class."
    elif any(kind.__module__.partition(".")[0] == "openai" for kind in bases):
        instead = "Give it the client, `OpenAI()`, not a part of it."
    elif package == "instructor":
        instead = "Wrap the client before Instructor does, or call qbawa.instrument() once at the start."
    elif package in ("anthropic", "google", "litellm"):
        instead = "Call qbawa.instrument() once at the start: it records every client of that package."
    else:
        instead = (
            "qbawa.instrument() says what it can record; for any other client call qbawa.llm_call() after each call."
        )
    raise TypeError(f"qbawa.wrap_openai() records clients of the openai package, not {_name(client)}. {instead}")


def _speaks_openai(client: Any) -> bool:
    return hasattr(getattr(client, "chat", None), "completions") and callable(getattr(client, "request", None))


def _name(client: Any) -> str:
    return client.__qualname__ if isinstance(client, type) else type_name(client)
