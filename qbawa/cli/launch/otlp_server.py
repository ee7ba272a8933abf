"""The receiver of OpenTelemetry spans behind our rules of access: a process that `qbawa up` starts, or `qbawa otlp` is.

`python -m qbawa.cli.launch.otlp_server --help` lists its arguments. It listens on a socket that it inherits, and takes
the token that applications must bring from QBAWA_OTLP_TOKEN.
"""

import argparse
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from qbawa.cli.launch.access import OTLP_TOKEN_VARIABLE, Application, Receive, Refusal, Request, Rules, Scope, Send

STOP_PATIENCE_S = 3
# Exporters send every few seconds over one connection; one that is closed meanwhile costs them a batch.
KEEP_ALIVE_S = 300
MAX_REQUESTS = 1_000


class GuardedReceiver:
    """An ASGI application that hears of those requests alone that keep the rules."""

    def __init__(self, application: Application, rules: Rules) -> None:
        self._application, self._rules = application, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._application(scope, receive, send)
        try:
            request = Request(scope)
            if request.kind != "http":
                raise Refusal(403, "No WebSocket is opened here.")
            self._rules.check_source(request)
            if not self._rules.admits(request):
                raise Refusal(401, 'Bring the token: OTEL_EXPORTER_OTLP_HEADERS="Authorization=Bearer%20..."')
        except Refusal as refusal:
            if scope["type"] == "websocket":
                await receive()
                return await send({"type": "websocket.close", "code": 1008, "reason": refusal.sentence[:120]})
            return await _refuse(send, refusal)
        return await self._application(scope, receive, send)


def run(listener: socket.socket, rules: Rules, journal: Path) -> None:
    """Receive spans into a journal until SIGTERM or Ctrl-C; what was acknowledged is on disk by then."""
    import uvicorn

    from qbawa.ingest.otlp_endpoint import OtlpEndpoint
    from qbawa.storage.journal import JournalWriter

    server = uvicorn.Server(
        uvicorn.Config(
            GuardedReceiver(OtlpEndpoint(JournalWriter(journal)), rules),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="on",
            limit_concurrency=MAX_REQUESTS,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_PATIENCE_S,
        )
    )
    # Like Ctrl-C, so that everything is closed on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listener", type=int, required=True, help="file descriptor of the listening socket")
    parser.add_argument("--names", required=True, help="host names of this server, with commas")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--journal", type=Path, required=True, help="folder into which spans are written")
    arguments = parser.parse_args()
    # What is written here holds recordings: for the owner alone.
    os.umask(0o077)
    rules = Rules(
        names=frozenset(arguments.names.split(",")),
        token=os.environ.pop(OTLP_TOKEN_VARIABLE, None) or None,
        port=arguments.port,
    )
    run(socket.socket(fileno=arguments.listener), rules, arguments.journal)


async def _refuse(send: Callable[[MutableMapping[str, Any]], Awaitable[None]], refusal: Refusal) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"x-content-type-options", b"nosniff"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"message": refusal.sentence}).encode()})


if __name__ == "__main__":
    main()
