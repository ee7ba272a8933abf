"""The real OpenTelemetry SDK, pointed at the live endpoint by its environment variables and nothing else."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import environments
import pytest

pytestmark = [pytest.mark.clients, pytest.mark.xdist_group("opentelemetry")]
APPLICATION = """
import json
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
exporter = OTLPSpanExporter()
provider.add_span_processor(BatchSpanProcessor(exporter))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("app")
with tracer.start_as_current_span("handle"):
    with tracer.start_as_current_span("extract.task") as task:
        task.set_attributes({"traceloop.span.kind": "task", "traceloop.entity.name": "extract"})
        with tracer.start_as_current_span("chat gpt-x", kind=trace.SpanKind.CLIENT) as call:
            call.set_attributes({
                "gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-x", "gen_ai.usage.input_tokens": 11,
                "gen_ai.request.stop_sequences": ["END"], "gen_ai.request.temperature": 0.5,
                "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": "Why?"}]}]),
                "gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "So."}]}]),
            })
    with tracer.start_as_current_span("embeddings e-1") as failing:
        failing.set_attributes({"gen_ai.operation.name": "embeddings", "gen_ai.request.model": "e-1"})
        failing.record_exception(ValueError("no such model"))
        failing.set_status(trace.StatusCode.ERROR, "no such model")
print("flushed", provider.force_flush())
provider.shutdown()
"""


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_the_sdk_s_own_exporter_records_an_application(tmp_path: Path, compression: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    python = sys.executable  # the application has an interpreter of its own, without qbawa
    environment = {**os.environ, "QBAWA_HOME": str(tmp_path / "home")}
    server = subprocess.Popen([python, "-m", "qbawa", "otlp", "--port", str(port)], env=environment)
    try:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
            "OTEL_SERVICE_NAME": "contracts",
        }
        done = subprocess.run(
            [environments.python_of("opentelemetry"), "-c", APPLICATION],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.stdout, done.returncode) == ("flushed True\n", 0), done.stderr
        assert "Failed" not in done.stderr and "rror" not in done.stderr
    finally:
        server.terminate()
        server.wait(20)
    rows = _rows(python, tmp_path)
    assert {row["step"] for row in rows} == {"handle", "extract.task", "extract", "embeddings"}
    call = next(row for row in rows if row["step"] == "extract")
    assert (call["model"], call["pipeline"], call["input_tokens"], call["output"]) == ("gpt-x", "contracts", 11, "So.")
    assert json.loads(call["parameters"]) == {"stop": ["END"], "temperature": 0.5}
    failed = next(row for row in rows if row["step"] == "embeddings")
    assert json.loads(failed["error"])["message"] == "no such model"


def _rows(python: str, root: Path) -> list[dict[str, object]]:
    """What the lake holds once the journal is taken in."""
    take_in = (
        "import json, sys; from pathlib import Path\n"
        "from qbawa.ingest.stage import ingest_batch, pending_batches; from qbawa.storage.lake import Lake\n"
        "lake, journal = Lake(sys.argv[2]), Path(sys.argv[1])\n"
        "for batch in pending_batches(lake, [journal]): ingest_batch(lake, batch)\n"
        "print(json.dumps(lake.read('recordings').rows(named=True), default=str))\n"
    )
    command = [python, "-c", take_in, str(root / "home" / "journal"), str(root / "lake")]
    found: list[dict[str, object]] = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )
    return found
