"""Identifiers of strategies: a hash of everything that decides the answer, and of nothing else."""

import base64
import hashlib
import json
import re
from typing import Any

RECORDED = "recorded"


def strategy_id(*, step: str, template: Any, model: str, params: Any, program: Any) -> str:
    """Readable: step, model and 10 characters (50 bits) of SHA-256, such as `summarise.gpt-4.1-mini.k3v7qa2mzt`.

    The name does not count: a renamed strategy keeps its answers. `template` includes its examples. An edited prompt is
    a new strategy; `0` and `0.0` are the same temperature. Ids are partition keys in Dagster, which is why they speak.
    """
    content = canonical({"step": step, "template": template, "model": model, "params": params, "program": program})
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = base64.b32encode(hashlib.sha256(text.encode()).digest())[:10].decode().lower()
    return f"{_slug(step)}.{_slug(model.rsplit('/', 1)[-1])}.{digest}"


def _slug(text: str) -> str:
    """Letters, digits, `-`, `_` and `.` of a text, the rest as `-`, at most 24 characters; no partition key is refused."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:24].strip("-.") or "x"


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
