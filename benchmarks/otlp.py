"""Spans of OpenTelemetry through the live endpoint: how many a second, and what a kill takes.

    python benchmarks/otlp.py [--json] [--quick]

The server is `qbawa otlp` in a process of its own; clients are threads here, each with one connection, as exporters send:
protobuf, gzip, 512 spans a request (the default of the SDKs), every second span a model call with about 2 KB of messages.
A request is answered once its spans are on disk. The last line is one JSON object:

    otlp_spans_per_s       spans ÷ seconds of CPU of the whole server process
    otlp_spans_per_s_wall  spans ÷ seconds, with clients on the same machine
    otlp_lost_after_kill   acknowledged spans that the journal does not hold after kill -9, of several kills
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from otlp_traces import model_call, protobuf_body, span  # noqa: E402

from qbawa.storage.journal import adopt_orphans, all_segments, read_lines  # noqa: E402

SPANS_A_REQUEST = 512
PROTOBUF = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}


@dataclass(frozen=True)
class Server:
    port: int
    journal: Path
    process: subprocess.Popen[bytes]

    def cpu_s(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system


def spans_per_s(seconds: float = 20.0, clients: int = 2) -> tuple[float, float]:
    """Spans a second of CPU of the server, and a second of the clock."""
    bodies = [gzip.compress(protobuf_body(_batch(number)), 1) for number in range(4)]
    counts = [0] * clients
    with _serving() as server:
        _send(server.port, bodies[0])  # the first request imports protobuf
        cpu, began = server.cpu_s(), time.monotonic()

        def run(client: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            while time.monotonic() < began + seconds:
                _send(connection, bodies[counts[client] % len(bodies)])
                counts[client] += 1

        _all([threading.Thread(target=run, args=(client,)) for client in range(clients)])
        spent, clock = server.cpu_s() - cpu, time.monotonic() - began
    sent = sum(counts) * SPANS_A_REQUEST
    return sent / spent, sent / clock


def lost_after_kill(kills: int = 5, clients: int = 4, run_s: float = 1.0) -> tuple[int, int]:
    """Acknowledged spans that are not in the journal after kill -9, and how many were acknowledged."""
    lost = acknowledged = 0
    for kill in range(kills):
        sure: list[str] = []
        with _serving() as server:

            def run(client: int, kill: int = kill, sure: list[str] = sure, port: int = server.port) -> None:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                for number in range(1_000_000):
                    spans = _batch(number, 8, f"{kill + 1:08x}{client + 1:08x}")
                    try:
                        _send(connection, gzip.compress(protobuf_body(spans), 1))
                    except (OSError, http.client.HTTPException):
                        return
                    sure.extend(f"{one['traceId']}.{one['spanId']}" for one in spans)

            threads = [threading.Thread(target=run, args=(client,)) for client in range(clients)]
            for thread in threads:
                thread.start()
            time.sleep(run_s + kill * 0.037)
            os.kill(server.process.pid, signal.SIGKILL)
            for thread in threads:
                thread.join()
            adopt_orphans(server.journal)
            lines = (line for path in all_segments(server.journal) for line in read_lines(path))
            kept = {json.loads(line)["recording_id"] for line in lines}
        lost += len(set(sure) - kept)
        acknowledged += len(sure)
    return lost, acknowledged


def measure(*, quick: bool) -> dict[str, float]:
    """The keys of the docstring."""
    per_cpu, per_clock = spans_per_s(5.0 if quick else 20.0)
    lost, acknowledged = lost_after_kill(3 if quick else 10)
    if not acknowledged:
        raise RuntimeError("The server was killed before it had acknowledged a span: nothing was measured.")
    return {
        "otlp_spans_per_s": round(per_cpu),
        "otlp_spans_per_s_wall": round(per_clock),
        "otlp_lost_after_kill": lost,
        "otlp_acknowledged": acknowledged,
    }


def _batch(number: int, count: int = SPANS_A_REQUEST, prefix: str = "0" * 16) -> list[dict[str, object]]:
    """Spans of traces of two: a model call, and the function around it."""
    found: list[dict[str, object]] = []
    for pair in range(count // 2):
        trace = {"traceId": f"{prefix}{number:08x}{pair + 1:08x}"}
        found.append(model_call(2, 1, "Why is it so? " * 100, "Because. " * 60) | trace)
        found.append(span(1, None, "handle", {"customer": "c7", "http.route": "/ask"}) | trace)
    return found


def _send(to: int | http.client.HTTPConnection, body: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", to, timeout=60) if isinstance(to, int) else to
    connection.request("POST", "/v1/traces", body, PROTOBUF)
    answer = connection.getresponse()
    said = answer.read()
    if answer.status != 200 or said:
        raise RuntimeError(f"{answer.status}: {said[:200]!r}")


def _all(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def _serving() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="qb-otlp-") as root:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        process = subprocess.Popen(
            [sys.executable, "-m", "qbawa", "otlp", "--port", str(port)],
            env={**os.environ, "QBAWA_HOME": root},
            stdout=subprocess.DEVNULL,
        )
        try:
            until = time.monotonic() + 60
            while True:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("the server did not start")
                time.sleep(0.05)
            yield Server(port, Path(root) / "journal", process)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="nothing but the JSON object")
    parser.add_argument("--quick", action="store_true", help="within half a minute")
    arguments = parser.parse_args()
    found = measure(quick=arguments.quick)
    if not arguments.json:
        for name, value in found.items():
            print(f"{name}: {value:,}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
