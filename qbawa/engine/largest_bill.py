"""The most that a call can be billed for, whatever the provider answers; what `budget.caps: hard` sets aside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson

from qbawa.engine.calls import ModelCall, ModelSettings
from qbawa.engine.prices import Price
from qbawa.engine.providers.openai_wire import merged_params
from qbawa.engine.token_usage import max_tokens
from qbawa.errors import FinalError
from qbawa.model_apis.canonical import read_request

IMAGE_TOKENS = 50_000
"""Above what any provider counts for a picture: gpt-4o-mini's 2,833 + 5,667 for each of at most 8 tiles are 48,169."""
FRAME_TOKENS = 64
"""For what a provider's chat template adds to a request; the body's own names and quotes are counted besides."""
TOOL_TOKENS = 1_024
"""For the instructions that providers add where tools are offered (Anthropic's longest takes 530)."""
_IMAGES = frozenset({"image_url", "input_image", "image"})
_TEXTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking"})


def largest_bill_usd(call: ModelCall, settings: ModelSettings, price: Price) -> float | None:
    """The most that one attempt at this call can cost; None where the call, or the model, sets no bound."""
    output_tokens = most_output_tokens(call, settings)
    if output_tokens is None:
        return None
    input_tokens = most_input_tokens(call, settings.extra)
    return None if input_tokens is None else price.of(input_tokens, output_tokens)


def most_output_tokens(call: ModelCall, settings: ModelSettings) -> float | None:
    """The longest answer that the call allows or the model can give, reasoning included; None where neither says."""
    params = merged_params(call.params, settings.extra)
    most = max_tokens(params)
    if most is None:
        most = settings.max_output_tokens
    several = params.get("n")
    return most if most is None else most * (several if isinstance(several, int) and several > 1 else 1)


def most_input_tokens(call: ModelCall, extra: Mapping[str, Any]) -> float | None:
    """No token is shorter than a byte, so the request's bytes bound it.

    None where sound, video or files are sent, or where the provider reads more than that by itself, as a hosted search does.
    """
    if call.native is not None and read_request(call.native.api, call.native.body).untranslated:
        return None
    if merged_params(call.params, extra).get("web_search_options"):
        return None
    pictures = 0
    messages: list[Any] = []
    for message in call.messages:
        content = message.get("content")
        if isinstance(content, list):
            kept = []
            for part in content:
                kind = part.get("type") if isinstance(part, Mapping) else "text"
                if kind in _IMAGES:
                    pictures += 1
                elif kind in _TEXTS:
                    kept.append(part)
                else:
                    return None
            message = {**message, "content": kept}
        messages.append(message)
    params = merged_params(call.params, extra)
    tools = TOOL_TOKENS if params.get("tools") or params.get("functions") else 0
    return _size([messages, params]) + FRAME_TOKENS + tools + pictures * IMAGE_TOKENS


def refuse_unbounded(call: ModelCall) -> FinalError:
    """What to say of a call that hard caps cannot price."""
    return FinalError(
        "unbounded",
        f"A call to '{call.model}' sends sound, video or a file, or lets the provider read more than that; its price is not "
        "known beforehand, so `caps: hard` does not allow it. Use `caps: soft` for this run, or leave the step out.",
    )


def _size(content: Any) -> int:
    try:
        return len(orjson.dumps(content))
    except TypeError:
        return len(json.dumps(content, default=str).encode())
