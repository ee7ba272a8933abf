"""Who is told of a run that failed: a web address, a program; and what happens where they do not take it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from qbawa.config import FailureHookConfig
from qbawa.errors import ConfigError
from sensors.failure_hook import tell

ABOUT = {"job": "flywheel", "text": "it failed; $(touch pwned) `touch pwned`"}


class Receiver:
    """A server that notes what it is sent, and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[str, Any]] = []
        self.status, self.location = 200, ""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.path, json.loads(body)))
                self.send_response(receiver.status)
                if receiver.location:
                    self.send_header("Location", receiver.location)
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook/secret"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    it = Receiver()
    threading.Thread(target=it.server.serve_forever, args=(0.02,), daemon=True).start()
    yield it
    it.server.shutdown()
    it.server.server_close()


def test_a_webhook_gets_the_run_as_json(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(FailureHookConfig(webhook=receiver.url), ABOUT, tmp_path)
    monkeypatch.setenv("HOOK", receiver.url)
    tell(FailureHookConfig(webhook="$HOOK"), ABOUT, tmp_path)
    assert receiver.got == [("/hook/secret", ABOUT)] * 2


@pytest.mark.parametrize("status", [301, 307, 404, 500])
def test_a_webhook_that_does_not_take_it_is_said_without_its_address(
    receiver: Receiver, tmp_path: Path, status: int
) -> None:
    receiver.status, receiver.location = status, f"{receiver.url}/elsewhere"
    with pytest.raises(ConfigError, match=f"webhook did not take it: HTTP {status}") as raised:
        tell(FailureHookConfig(webhook=receiver.url), ABOUT, tmp_path)
    assert "secret" not in str(raised.value)
    assert len(receiver.got) == 1, "nobody else is told"


def test_a_webhook_of_a_variable_that_is_not_set_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="environment variable HOOK_THAT_IS_NOT_SET is not set"):
        tell(FailureHookConfig(webhook="$HOOK_THAT_IS_NOT_SET"), ABOUT, tmp_path)


def test_a_command_gets_it_on_its_standard_input_and_no_shell_reads_it(receiver: Receiver, tmp_path: Path) -> None:
    keep = "import sys; open('told', 'w').write(sys.stdin.read())"
    receiver.status = 500
    with pytest.raises(ConfigError, match="HTTP 500"):
        tell(FailureHookConfig(webhook=receiver.url, command=(sys.executable, "-c", keep)), ABOUT, tmp_path)
    assert json.loads((tmp_path / "told").read_text()) == ABOUT, "the command is run although the webhook failed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["told"]


def test_a_command_that_fails_is_said_with_what_it_printed(tmp_path: Path) -> None:
    fail = "import sys; sys.exit('no such channel')"
    with pytest.raises(ConfigError, match="command did not take it: no such channel"):
        tell(FailureHookConfig(command=(sys.executable, "-c", fail)), ABOUT, tmp_path)
    with pytest.raises(ConfigError, match="No such file"):
        tell(FailureHookConfig(command=("there-is-no-such-program",)), ABOUT, tmp_path)
