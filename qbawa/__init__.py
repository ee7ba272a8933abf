"""Record an AI pipeline, replay its steps with hundreds of strategies, keep question – best answer – worse answer.

    import qbawa
    qbawa.configure("journal/", pipeline="contracts")

    @qbawa.step
    def extract(contract: str) -> dict: ...

Importing this loads nothing beyond itself; the recorder, on first use, needs only Python's standard library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qbawa.record.calls import llm_call
    from qbawa.record.decorator import step
    from qbawa.record.litellm_calls import record_litellm
    from qbawa.record.openai_calls import wrap_openai
    from qbawa.record.session import configure, feedback, flush, request, stats
    from qbawa.record.threads import in_context

_HOMES = {
    "configure": "session",
    "feedback": "session",
    "flush": "session",
    "in_context": "threads",
    "llm_call": "calls",
    "record_litellm": "litellm_calls",
    "request": "session",
    "stats": "session",
    "step": "decorator",
    "wrap_openai": "openai_calls",
}

__all__ = [
    "configure",
    "feedback",
    "flush",
    "in_context",
    "llm_call",
    "record_litellm",
    "request",
    "stats",
    "step",
    "wrap_openai",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'qbawa' has no attribute {name!r}. Its public names: {', '.join(__all__)}")
    from importlib import import_module

    value = getattr(import_module(f"qbawa.record.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
