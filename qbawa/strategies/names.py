"""Readable names for the strategies of a grid: `terse/gpt-4.1-mini/t0.7`.

What the configuration lists (prompts, models, parameter values) is an axis and stands in the name, even with one
value, so that adding a second value renames nothing. What it gives once does not, unless nothing else would tell.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from qbawa.config import StrategyConfig

_SHORT = {"temperature": "t", "top_p": "p", "max_tokens": "max", "max_completion_tokens": "max", "seed": "seed"}


def short_models(models: Sequence[str]) -> dict[str, str]:
    """Model → its last part, or the whole where two of these models end alike."""
    last = {model: model.rsplit("/", 1)[-1] for model in models}
    ends = list(last.values())
    return {model: end if ends.count(end) == 1 else model for model, end in last.items()}


def strategy_name(entry: StrategyConfig, prompt: str | None, model: str, axes: Mapping[str, Any]) -> str:
    """Name of one point of an entry's grid, given the prompt's name, the short model and the listed parameters."""
    parts = [entry.name] if entry.name else []
    if prompt is not None:
        parts.append(prompt)
    elif not entry.name:
        parts.append(_kind(entry))
    if entry.models or not (entry.name or prompt):
        parts.append(model)
    parts += [_axis(name, value) for name, value in axes.items()]
    if entry.program.kind != "single" and not entry.name:
        parts.append(
            f"best-of-{entry.program.n}" if entry.program.kind == "best_of_n" else entry.program.kind.replace("_", "-")
        )
    return "/".join(parts)


def _kind(entry: StrategyConfig) -> str:
    if entry.file:
        return PurePosixPath(entry.file).name.split(".", 1)[0]
    return "keep-prompt" if entry.keep_prompt else "replace-system" if entry.replace_system is not None else "prompt"


def _axis(name: str, value: Any) -> str:
    if isinstance(value, dict | list):
        text = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:6]
    elif isinstance(value, bool) or value is None:
        text = {True: "on", False: "off", None: "none"}[value]
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{_SHORT[name]}{text}" if name in _SHORT else f"{name}={text}"
