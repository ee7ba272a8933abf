"""When two answers say the same: a key that differs only where they mean something else."""

import json
import math
from typing import Any

from qbawa.model_apis.answers import answer_of


def meaning(answer_text: str) -> str:
    """The answer for comparing: JSON without what means nothing in it, text without white space at line ends.

    JSON is a whole text that is an object or a list. Order of keys, the spelling of numbers and white space mean nothing
    in it; nor do ids of tool calls, and their arguments are the same as text and as an object.
    """
    text = answer_text.strip()
    if text[:1] in ("{", "["):
        try:
            return json.dumps(_plain(json.loads(text)), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        except (ValueError, RecursionError):
            pass
    lines = answer_text.replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip() for line in lines).rstrip("\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        if (
            isinstance(value.get("tool_calls"), list)
            and value["tool_calls"]
            and value.get("role") in ("assistant", None)
        ):
            value = answer_of(value)
        return {key: _plain(inner) for key, inner in value.items()} if isinstance(value, dict) else value
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("no number of JSON")
        return int(value) if value.is_integer() else value
    return value
