"""Models that need neither network nor key: `offline/…`, deterministic and free."""

from __future__ import annotations

import asyncio

from qbawa.engine.calls import Answer, ModelCall
from qbawa.engine.offline_models.models import MODELS, complete, estimate_tokens
from qbawa.errors import FinalError, QbawaError


class OfflineProvider:
    """Answers in this process. Tokens are estimated."""

    async def send(self, call: ModelCall) -> Answer:
        if call.model not in MODELS:
            raise FinalError("unknown_model", f"No model '{call.model}'. Offline models: {', '.join(MODELS)}.")
        await asyncio.sleep(0)  # thousands of them must not starve the event loop
        try:
            text = complete(call.model, call.messages, {**call.params, "sample": call.sample})
        except QbawaError as error:
            raise FinalError("bad_request", str(error)) from None
        return Answer(
            text, sum(estimate_tokens(str(m.get("content") or "")) for m in call.messages), estimate_tokens(text)
        )

    async def close(self) -> None: ...
