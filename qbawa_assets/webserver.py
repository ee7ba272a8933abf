"""Dagster's web interface behind our rules of access: a process that `qbawa up` starts.

`python -m qbawa_assets.webserver --help` lists its arguments. It listens on a socket
that it inherits, and takes the token that visitors must bring from QBAWA_UI_TOKEN.
"""

import argparse
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import uvicorn
from dagster import DagsterInstance
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.version import __version__

from qbawa.cli.launch.access import TOKEN_VARIABLE, Guarded, Rules
from qbawa.cli.launch.supervisor import unix_socket_answers
from qbawa_assets.empty_previews import EmptyPreviews

# As `dagster dev` sets them.
STATEMENT_TIMEOUT_MS, RECYCLE_CONNECTIONS_S, EXTRA_CONNECTIONS, POLL_MS = 15_000, 3_600, 20, 2_000
# Open WebSockets are closed at once; only answers under way are worth waiting for.
STOP_PATIENCE_S = 3
# Longer than one takes to start; a UI without code still shows what went wrong.
CODE_SERVER_PATIENCE_S = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--code-server", required=True, type=Path, help="its socket; waited for for a while")
    parser.add_argument("--listener", type=int, required=True, help="file descriptor of the listening socket")
    parser.add_argument("--names", required=True, help="host names of this server, with commas")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    rules = Rules(
        names=frozenset(arguments.names.split(",")),
        # Out of the environment, so that nothing that is started from here inherits it.
        token=os.environ.pop(TOKEN_VARIABLE, None) or None,
        port=arguments.port,
    )
    # Like Ctrl-C, so that everything is closed on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), DagsterInstance.get() as instance:
        _wait_for(arguments.code_server)
        instance.optimize_for_webserver(STATEMENT_TIMEOUT_MS, RECYCLE_CONNECTIONS_S, EXTRA_CONNECTIONS)
        with WorkspaceProcessContext(
            instance, version=__version__, workspace_load_target=WorkspaceFileTarget([arguments.workspace])
        ) as workspace:
            application = create_app_from_workspace_process_context(workspace, live_data_poll_rate=POLL_MS)
            server = uvicorn.Server(
                uvicorn.Config(
                    Guarded(EmptyPreviews(application), rules),
                    log_level="warning",
                    access_log=False,
                    server_header=False,
                    timeout_graceful_shutdown=STOP_PATIENCE_S,
                )
            )
            server.run(sockets=[socket.socket(fileno=arguments.listener)])


def _wait_for(code_server: Path) -> None:
    until = time.monotonic() + CODE_SERVER_PATIENCE_S
    while not unix_socket_answers(code_server) and time.monotonic() < until:
        time.sleep(0.1)


if __name__ == "__main__":
    main()
