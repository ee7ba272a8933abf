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
    from qbawa.record.api import configure, feedback, flush, request, stats
    from qbawa.record.decorator import step
    from qbawa.record.instrument import instrument
    from qbawa.record.integrations.litellm import record_litellm
    from qbawa.record.integrations.openai import wrap_openai
    from qbawa.record.llm_call import llm_call
    from qbawa.record.threads import in_context

_MODULES = {
    "configure": "api",
    "feedback": "api",
    "flush": "api",
    "in_context": "threads",
    "instrument": "instrument",
    "litellm_proxy": "integrations.litellm",
    "llm_call": "llm_call",
    "record_litellm": "integrations.litellm",
    "request": "api",
    "stats": "api",
    "step": "decorator",
    "wrap_openai": "integrations.openai",
}

__all__ = [
    "configure",
    "feedback",
    "flush",
    "in_context",
    "instrument",
    "llm_call",
    "record_litellm",
    "request",
    "stats",
    "step",
    "wrap_openai",
]


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'qbawa' has no attribute {name!r}. Its public names: {', '.join(__all__)}")
    from importlib import import_module

    value = getattr(import_module(f"qbawa.record.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
