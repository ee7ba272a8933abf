"""A full disk, a read-only home and a wrong key are each one sentence that says what to do, without a traceback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qbawa.storage.faults import explain

MOUNTS = ["unshare", "--mount", "--map-root-user"] if os.geteuid() else ["unshare", "--mount"]


def one_sentence(said: subprocess.CompletedProcess[str], *words: str) -> None:
    assert said.returncode == 2, (said.returncode, said.stdout, said.stderr)
    assert said.stderr.startswith("qbawa: ") and said.stderr.count("\n") == 1, said.stderr
    assert all(word in said.stderr for word in words), said.stderr


def run_on_mount(options: str, script: str) -> subprocess.CompletedProcess[str]:
    """A shell script on a small file system of its own, mounted at $M and seen by nobody else."""
    if shutil.which("unshare") is None or subprocess.run([*MOUNTS, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount: run as root, or allow user namespaces")
    whole = f'M=$(mktemp -d) && mount -t tmpfs -o {options} none "$M" && export QBAWA_HOME="$M/home" && {script}'
    environment = os.environ | {"Q": f"{sys.executable} -m qbawa"}
    return subprocess.run([*MOUNTS, "sh", "-c", whole], capture_output=True, text=True, timeout=120, env=environment)


FILL = 'head -c 10000000 /dev/zero > "$M/rest" 2>/dev/null; '


@pytest.mark.slow
@pytest.mark.parametrize("command", ["init", "run maintain_lake"])
def test_a_full_disk_is_said_in_one_sentence(command: str) -> None:
    before = "" if command == "init" else "$Q init > /dev/null && "
    said = run_on_mount("size=64k", before + FILL + f"$Q {command}")
    one_sentence(said, "disk is full", "Free some space")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["init", "status", "import"])
def test_a_read_only_home_is_said_in_one_sentence(command: str) -> None:
    before = "" if command == "init" else "$Q init > /dev/null && "
    said = run_on_mount("size=1m", before + f'mount -o remount,ro "$M" && $Q {command}')
    one_sentence(said, "Read-only file system", "QBAWA_HOME")


_STORE = """
import http.server
class Refusal(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'<Error><Code>InvalidAccessKeyId</Code><Message>The key does not exist in our records.</Message></Error>'
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_PUT = do_HEAD = do_POST = do_GET
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def refusing_store() -> Iterator[str]:
    """An object store that knows nobody's key; a process of its own, since Delta's client holds the interpreter's lock."""
    process = subprocess.Popen([sys.executable, "-c", _STORE], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("command", [("status",), ("run", "maintain_lake")])
def test_a_wrong_key_is_said_in_one_sentence(tmp_path: Path, refusing_store: str, command: tuple[str, ...]) -> None:
    (tmp_path / "qbawa.yaml").write_text(
        "lake:\n  uri: s3://bucket/lake\n  storage_options:\n"
        f"    aws_endpoint_url: {refusing_store}\n    aws_allow_http: 'true'\n    aws_region: eu-central-1\n"
        "    aws_access_key_id: wrong\n    aws_secret_access_key: $QBAWA_TEST_SECRET\n"
    )
    began = time.monotonic()
    said = subprocess.run(
        [sys.executable, "-m", "qbawa", *command],
        env=os.environ | {"QBAWA_HOME": str(tmp_path), "QBAWA_TEST_SECRET": "hush"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    one_sentence(said, "InvalidAccessKeyId", "lake.storage_options")
    assert "hush" not in said.stderr and time.monotonic() - began < 60


def test_an_error_that_is_not_storage_stays_what_it_is() -> None:
    assert explain(ValueError("too many values")) is None
    assert explain(ConnectionRefusedError(111, "Connection refused")) is None
    with socket.socket() as probe:
        assert explain(OSError(98, f"Address already in use: {probe.family}")) is None


def test_what_caused_an_error_counts() -> None:
    try:
        try:
            raise OSError(28, "No space left on device", "/data/journal/x.open")
        except OSError as full:
            raise RuntimeError("could not go on") from full
    except RuntimeError as error:
        said = explain(error)
    assert said is not None and "/data/journal/x.open" in str(said)
