"""The receiver of OpenTelemetry spans as a process: what it acknowledges it keeps, and whatever comes, it goes on."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from otlp_traces import JSON, PROTOBUF, TRACE, json_body, model_call, one_trace, packed, protobuf_body, span
from running_up import environment, free_port, qbawa

from qbawa.ingest.stage import ingest_batch, pending_batches
from qbawa.project import Home
from qbawa.storage.journal import adopt_orphans, all_segments, closed_segments, read_lines
from qbawa.storage.lake import Lake

pytestmark = pytest.mark.slow
Sent = tuple[int, bytes, dict[str, str]]


class Receiver:
    """A running `qbawa otlp`."""

    def __init__(self, home: Home, port: int, process: subprocess.Popen[str]) -> None:
        self.home, self.port, self.process = home, port, process

    def send(
        self, body: bytes, kind: str = PROTOBUF, *, path: str = "/v1/traces", method: str = "POST", **headers: str
    ) -> Sent:
        """Status, body and headers of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, {"Content-Type": kind, **named})
            answer = connection.getresponse()
            return answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()}
        finally:
            connection.close()

    def ids(self) -> list[str]:
        """Recordings of the journal's lines, as many times as they stand there."""
        lines = (line for path in all_segments(self.home.journal) for line in read_lines(path))
        return [json.loads(line)["recording_id"] for line in lines]


@contextmanager
def receiving(root: Path, *arguments: str, before: Callable[[], None] | None = None) -> Iterator[Receiver]:
    home, port = Home(root), free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "qbawa", "otlp", "--port", str(port), *arguments],
        env={**environment(home), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=(root.parent / f"{root.name}.said").open("w"),
        text=True,
        preexec_fn=before,
    )
    until = time.monotonic() + 30
    try:
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        yield Receiver(home, port, process)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with receiving(tmp_path_factory.mktemp("receiver") / "home") as running:
        yield running


def fresh(number: int) -> list[dict[str, object]]:
    """Spans of a trace of their own."""
    return [one | {"traceId": f"{number:032x}"} for one in one_trace()]


@pytest.mark.parametrize(
    "kind, body, nothing",
    [(PROTOBUF, protobuf_body, b""), (JSON, json_body, b"{}")],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_what_is_acknowledged_is_on_disk(
    receiver: Receiver, kind: str, body: Callable[..., bytes], nothing: bytes, zipped: bool
) -> None:
    number = random.getrandbits(100)
    data = body(fresh(number))
    headers = {"Content_Encoding": "gzip"} if zipped else {}
    status, answer, said = receiver.send(packed(data) if zipped else data, kind, **headers)
    assert (status, answer, said["content-type"]) == (200, nothing, kind)
    assert sum(one.startswith(f"{number:032x}.") for one in receiver.ids()) == len(one_trace())


def test_spans_that_are_none_are_refused_and_the_others_kept(receiver: Receiver) -> None:
    number = random.getrandbits(100)
    good, bad = fresh(number)[:2], fresh(number)[2] | {"spanId": "0" * 16}
    status, answer, _ = receiver.send(json_body([good[0], bad, good[1]]), JSON)
    refused = json.loads(answer)["partialSuccess"]
    assert status == 200 and refused["rejectedSpans"] == "1" and "extract.task" in refused["errorMessage"]
    status, answer, _ = receiver.send(protobuf_body([bad, good[0]]))
    # partial_success (1) { rejected_spans (1): 1, error_message (2) }
    assert status == 200 and answer[:1] == b"\x0a" and answer[2:5] == b"\x08\x01\x12" and b"extract.task" in answer


@pytest.mark.parametrize(
    "kind, body, headers, status",
    [
        (JSON, b"", {}, 400),
        (JSON, b"[]", {}, 400),
        (JSON, b'{"resourceSpans": 3}', {}, 400),
        (JSON, b'{"resourceSpans":' * 5_000, {}, 400),
        (JSON, b"[" * 1_000_000, {}, 400),
        (JSON, b'{"resourceSpans": [' + b"1" * 5_000 + b"]}", {}, 400),
        (JSON, packed(b'{"resourceSpans": [' + b"{}," * 8_000_000 + b"{}]}"), {"Content_Encoding": "gzip"}, 400),
        (PROTOBUF, packed(b"\x0a\x00" * 4_000_000), {"Content_Encoding": "gzip"}, 400),
        (PROTOBUF, b"no protobuf", {}, 400),
        (PROTOBUF, b"\x0a\xff\xff\xff\xff\x0f", {}, 400),
        (PROTOBUF, b"\x0a\x80" * 1_000, {}, 400),
        (PROTOBUF, protobuf_body([one_trace()[0]])[:-3], {}, 400),
        (PROTOBUF, b"no gzip", {"Content_Encoding": "gzip"}, 400),
        (PROTOBUF, packed(protobuf_body(one_trace()))[:-20], {"Content_Encoding": "gzip"}, 400),
        (PROTOBUF, gzip.compress(b"\0" * (33 << 20), 9), {"Content_Encoding": "gzip"}, 413),
        (PROTOBUF, b"", {"Content_Length": str(1 << 40)}, 413),
        (PROTOBUF, b"x", {"Content_Encoding": "br"}, 415),
        ("text/plain", json_body(one_trace()), {}, 415),
        (JSON, json_body(one_trace()), {"Host": "evil.example"}, 403),
        (JSON, json_body(one_trace()), {"Origin": "https://evil.example"}, 403),
        (JSON, json_body(one_trace()), {"Sec_Fetch_Site": "cross-site"}, 403),
    ],
)
def test_any_other_body_is_answered_and_nothing_else_happens(
    receiver: Receiver, kind: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    before = receiver.ids()
    assert receiver.send(body, kind, **headers)[0] == status
    assert receiver.ids() == before


def test_deep_values_and_odd_ones_cost_their_span_alone(receiver: Receiver) -> None:
    deep: dict[str, object] = {"stringValue": "x"}
    for _ in range(120):
        deep = {"arrayValue": {"values": [deep]}}
    number = random.getrandbits(100)
    first, second = fresh(number)[:2]
    first["attributes"] = [{"key": "deep", "value": deep}]
    second["attributes"] = [
        {"key": "odd", "value": {"arrayValue": 7}}, {"key": None, "value": None}, 5, {"key": "n", "value": {"intValue": "x"}},
        {"key": "big", "value": {"intValue": str(10**400)}}, {"key": "nan", "value": {"doubleValue": "NaN"}},
    ]  # fmt: skip
    status, answer, _ = receiver.send(json_body([first, second]), JSON)
    assert status == 200 and json.loads(answer)["partialSuccess"]["rejectedSpans"] in ("1", "2")


@pytest.mark.hostile
def test_mutated_bodies_never_end_it(receiver: Receiver) -> None:
    chance, good = random.Random(7), protobuf_body(one_trace())
    found = set()
    for _ in range(150):
        body = bytearray(good)
        for _ in range(chance.randint(1, 8)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        found.add(receiver.send(bytes(body))[0])
    assert found <= {200, 400} and receiver.process.poll() is None


def test_metrics_and_logs_are_let_go_and_the_rest_is_not_there(receiver: Receiver) -> None:
    assert receiver.send(b"\x0a\x00", path="/v1/metrics")[0] == receiver.send(b"{}", JSON, path="/v1/logs")[0] == 200
    assert receiver.send(b"{}", JSON, path="/v1/other")[0] == 404
    assert receiver.send(b"", JSON, method="GET")[0] == 405


def test_beyond_loopback_and_by_other_names_a_token_is_asked_for(tmp_path: Path) -> None:
    refused = qbawa(Home(tmp_path / "home"), "otlp", "--host", "0.0.0.0", "--port", str(free_port()))
    assert refused.returncode == 2 and "--token" in refused.stderr and refused.stderr.count("\n") == 1
    with receiving(tmp_path / "home", "--host", "0.0.0.0", "--token", "--name", "host.docker.internal") as running:
        token = (running.home.root / "otlp.token").read_text()
        body = json_body(one_trace())
        assert running.send(body, JSON)[0] == 401
        assert running.send(body, JSON, Authorization="Bearer wrong-wrong-wrong")[0] == 401
        assert not closed_segments(running.home.journal) and not running.ids()
        host = f"host.docker.internal:{running.port}"
        assert running.send(body, JSON, Authorization=f"Bearer {token}", Host=host)[0] == 200
    assert token not in (tmp_path / "home.said").read_text()


def test_a_port_that_is_taken_is_one_sentence(receiver: Receiver, tmp_path: Path) -> None:
    second = qbawa(Home(tmp_path), "otlp", "--port", str(receiver.port))
    assert second.returncode == 2 and second.stderr.count("\n") == 1
    assert str(receiver.port) in second.stderr and "--port" in second.stderr


@pytest.mark.hostile
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    with receiving(tmp_path / "home") as running:

        def send(client: int) -> None:
            for number in range(10_000):
                spans = [
                    one | {"traceId": f"{client:016x}{number + 1:016x}"}
                    for one in (model_call(2, 1, "a" * 2_000, "b"), span(1, None, "handle", {}))
                ]
                try:
                    status, _, _ = running.send(packed(protobuf_body(spans)), Content_Encoding="gzip")
                except OSError:
                    return
                except http.client.HTTPException:
                    return
                if status == 200:
                    acknowledged.extend(f"{one['traceId']}.{one['spanId']}" for one in spans)

        clients = [threading.Thread(target=send, args=(client + 1,)) for client in range(4)]
        for client in clients:
            client.start()
        time.sleep(1.5)
        os.kill(running.process.pid, signal.SIGKILL)
        for client in clients:
            client.join()
        adopt_orphans(running.home.journal)
        assert len(acknowledged) > 100
        assert set(acknowledged) <= set(running.ids())
    lake = Lake(tmp_path / "lake")
    for batch in pending_batches(lake, [running.home.journal]):
        ingest_batch(lake, batch)
    rows = lake.read("recordings")
    assert set(acknowledged) <= set(rows["recording_id"]) and rows["recording_id"].is_unique().all()


@pytest.mark.hostile
def test_a_disk_that_refuses_is_said_and_taken_up_again(tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    with receiving(tmp_path / "home", before=small_files) as running:
        assert running.send(json_body(one_trace()), JSON)[0] == 200
        kept = running.ids()
        status, answer, headers = running.send(json_body([model_call(4, None, "a" * 60_000, "b")]), JSON)
        assert status == 503 and "retry-after" in headers and "journal" in json.loads(answer)["message"]
        assert running.ids() == kept and running.process.poll() is None
        assert running.send(json_body(one_trace()), JSON)[0] == 503


def test_stopping_it_closes_the_segment(tmp_path: Path) -> None:
    with receiving(tmp_path / "home") as running:
        assert running.send(protobuf_body(one_trace()))[0] == 200
    assert running.process.returncode == 0
    (segment,) = closed_segments(running.home.journal)
    assert TRACE in segment.read_text()
