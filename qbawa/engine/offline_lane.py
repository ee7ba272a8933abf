"""Models that need neither network nor key: `offline/…`, deterministic and free."""

from __future__ import annotations

import asyncio

from qbawa import offline
from qbawa.engine.types import Answer, ModelCall
from qbawa.errors import FinalError, QbawaError


class OfflineLane:
    """Answers by `qbawa.offline.complete`, in this process. Tokens are counted as words and marks would be, roughly."""

    async def send(self, call: ModelCall) -> Answer:
        if call.model not in offline.MODELS:
            raise FinalError("unknown_model", f"No model '{call.model}'. Offline models: {', '.join(offline.MODELS)}.")
        await asyncio.sleep(0)  # thousands of them must not starve the event loop
        try:
            text = offline.complete(call.model, call.messages, {**call.params, "sample": call.sample})
        except QbawaError as error:
            raise FinalError("bad_request", str(error)) from None
        return Answer(text, sum(count_tokens(str(m.get("content") or "")) for m in call.messages), count_tokens(text))

    async def close(self) -> None: ...


def count_tokens(text: str) -> int:
    """About as many tokens as a real tokenizer would count: four characters each."""
    return (len(text) + 3) // 4
