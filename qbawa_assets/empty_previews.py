"""A preview of a backfill over no partition: Dagster's server fails at it (HTTP 500), and the dialog offers it at once."""

import json
from collections.abc import MutableMapping
from typing import Any

from qbawa.cli.launch.access import Application, Receive, Scope, Send

# The question with no names is short; whatever is longer is none of ours.
LONGEST = 8_192
ANSWER = json.dumps({"data": {"assetBackfillPreview": []}}).encode()


class EmptyPreviews:
    """An ASGI application around Dagster's: answers this one question with an empty list, and passes all others on."""

    def __init__(self, application: Application) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != "/graphql":
            return await self.application(scope, receive, send)
        first = await receive()
        if not first.get("more_body") and _is_empty_preview(first.get("body", b"")):
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            return await send({"type": "http.response.body", "body": ANSWER})
        unread = [first]

        async def receive_again() -> MutableMapping[str, Any]:
            return unread.pop() if unread else await receive()

        await self.application(scope, receive_again, send)


def _is_empty_preview(body: bytes) -> bool:
    if len(body) > LONGEST or b"assetBackfillPreview" not in body:
        return False
    try:
        return bool(json.loads(body)["variables"]["partitionNames"] == [])
    except (ValueError, KeyError, TypeError):
        return False
