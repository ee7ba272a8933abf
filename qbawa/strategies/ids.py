"""Identifiers of strategies: a hash of everything that decides the answer, and of nothing else."""

import base64
import hashlib
import json
from typing import Any

RECORDED = "recorded"


def strategy_id(*, step: str, template: Any, model: str, params: Any, program: Any) -> str:
    """`s_` and 12 characters (60 bits) of SHA-256. The name does not count: a renamed strategy keeps its answers.

    `template` includes its examples. An edited prompt is a new strategy; `0` and `0.0` are the same temperature.
    """
    content = canonical({"step": step, "template": template, "model": model, "params": params, "program": program})
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).digest()
    return "s_" + base64.b32encode(digest)[:12].decode().lower()


def recorded_id(step: str) -> str:
    """Id of production's own way to answer a step, which competes as a strategy."""
    return f"{RECORDED}-{step}"


def canonical(value: Any) -> Any:
    """The value with whole floats as integers and objects without nulls, so that equal meaning gives equal content."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {str(key): canonical(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [canonical(inner) for inner in value]
    return value
