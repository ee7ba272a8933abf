"""Whether what an app asked is asked again as it was: real client libraries, recorded, replayed, compared on the wire.

Applications (`_fidelity_app.py`) ask a server on loopback through the libraries of OpenAI (chat completions and responses),
Anthropic and Google, each request in another of the ways that the API offers. The server keeps what it receives. The
recordings are taken in, every request is replayed with `keep_prompt`, and what then arrives is held against what the
application sent, field by field, but for those that only say how a request travels. The last line is a JSON object:

    wire_identical        share of replayed requests that equal the app's in every field that bears on the answer
    kinds                 distinct request fields and kinds of part in them
    fields_never_asked    fields that the libraries' own types know and no scenario has, by API; those that bear on the answer
    refused               requests that were refused as not replayable, with the reason
    clients_complete      share of `clients`, those of `make test-clients`, whose calls were recorded whole: model, messages,
                          output, usage, latency, errors, tool calls; null with --quick
    otlp_spans_per_s      spans that one core takes in over HTTP (benchmarks/otlp.py)
    otlp_lost_after_kill  acknowledged spans that a kill -9 of the server lost

    python benchmarks/fidelity.py [--json] [--quick] [--apps FOLDER] [--seed N]

The libraries are installed into --apps (default: a cache under build/) on the first run; so are the environments of the
clients, which takes some minutes then. --quick leaves out those and litellm's applications, and sends a tenth of the spans.
--seed changes every text and number that is asked.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).parent.parent))

import otlp
import yaml

from qbawa.engine.prompting.question import NOT_ASKED
from qbawa.project import Home, open_project
from qbawa.replay.stage import choose_requests, declare_strategies, replay, wanted_cells
from tests.support.model_apis_server import ModelServer, Received, model_server

ROOT = Path(__file__).parent.parent
APPS = {
    "openai.chat": "openai/gpt-x",
    "openai.responses": "openai/gpt-x",
    "anthropic.messages": "anthropic/claude-x",
    "google.generate_content": "gemini/gemini-x",
    "litellm.openai": "openai/gpt-x",
    "litellm.anthropic": "anthropic/claude-x",
    "litellm.gemini": "gemini/gemini-x",
}
"""Applications, and the model by which each is replayed."""
LIBRARIES = ("openai", "anthropic", "google-genai")  # litellm is here
TRAVEL = NOT_ASKED | {"model", "background", "service_tier", "metadata"}
"""Fields that do not bear on the answer."""


def main() -> None:
    arguments = _arguments()
    began = time.monotonic()
    os.environ["FIDELITY_KEY"] = "k"
    python = prepared(arguments.apps)
    apps = [app for app in APPS if not (arguments.quick and app.startswith("litellm"))]
    result = measure_wire(python, apps, arguments.seed)
    clients = {} if arguments.quick else measure_clients()
    complete = [name for name, failures in clients.items() if not failures]
    result["clients_complete"] = round(len(complete) / len(clients), 4) if clients else None
    result["clients"] = len(clients)
    result["incomplete"] = {name: failures for name, failures in clients.items() if failures}
    result |= otlp.measure(quick=arguments.quick)
    result["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print nothing but the last line")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--apps", type=Path, default=ROOT / "build" / "fidelity")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def prepared(folder: Path) -> Path:
    """The Python of an environment with the client libraries."""
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *LIBRARIES], check=True)
        done.touch()
    return python


def measure_wire(python: Path, apps: list[str], seed: int) -> dict[str, Any]:
    """Record every application, replay every request, and compare."""
    with tempfile.TemporaryDirectory(prefix="qb-fidelity-") as folder, model_server() as server:
        home = Home(Path(folder) / "home")
        asked: dict[str, Received] = {}
        failed: dict[str, str] = {}
        known: dict[str, set[str]] = {}
        for api in apps:
            outcomes, fields = run_app(sys.executable if api.startswith("litellm") else python, api, server, home, seed)
            known[api] = set(fields)
            failed |= {f"{api}/{name}": error for name, error in outcomes.items() if error}
            made = [name for name, error in outcomes.items() if not error]
            asked |= dict(zip((f"{api}/{name}" for name in made), server.received, strict=True))
            server.received.clear()
        refused, replayed = replay_all(home, server, list(asked))
        kinds = Counter(kind for one in asked.values() for kind in kinds_of(one))
        differences = {name: difference(one, replayed.get(name)) for name, one in asked.items() if name not in refused}
        differing = {name: found for name, found in differences.items() if found}
        return {
            "wire_identical": round(1 - (len(differing) + len(refused)) / len(asked), 4),
            "requests": len(asked),
            "kinds": len(kinds),
            "fields_never_asked": {api: sorted(known[api] - asked_fields(asked, api)) for api in apps if known[api]},
            "different": differing,
            "refused": refused,
            "not_made": failed,
        }


def measure_clients() -> dict[str, list[str]]:
    """Names of failed tests by client, from the project's own suite."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "clients.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", "-m", "clients"]
        subprocess.run(
            [*command, f"--junitxml={report}", "tests/clients/test_clients.py"],
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        found: dict[str, list[str]] = {}
        for case in ElementTree.parse(report).iter("testcase"):
            name, _, rest = case.get("name", "").partition("[")
            client = rest.partition("]")[0].partition("@")[0]
            if client:
                failed = case.find("failure") is not None or case.find("error") is not None
                found.setdefault(client, []).extend([name] if failed else [])
    return found


def run_app(
    python: Path | str, api: str, server: ModelServer, home: Home, seed: int
) -> tuple[dict[str, str | None], list[str]]:
    """What became of each scenario of one application, and the fields that its library knows."""
    home.journal.mkdir(parents=True, exist_ok=True)
    command = [python, ROOT / "benchmarks" / "_fidelity_app.py", api, server.url, home.journal, str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"})
    if done.returncode:
        raise SystemExit(f"The application of {api} failed:\n{done.stderr[-3000:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    return said["outcomes"], said["fields"]


def replay_all(home: Home, server: ModelServer, requests: list[str]) -> tuple[dict[str, str], dict[str, Received]]:
    """Every recorded request asked again: why it was refused, or what arrived, by request."""
    models = {
        "openai/gpt-x": {"base_url": f"{server.url}/v1"},
        "anthropic/claude-x": {"base_url": server.url, "litellm_model": "anthropic/claude-x"},
        "gemini/gemini-x": {"base_url": server.url, "litellm_model": "gemini/gemini-x"},
    }
    config = {
        "models": {name: its | {"free": True, "api_key_env": "FIDELITY_KEY"} for name, its in models.items()},
        "replay_set": {"size": len(requests), "pin": requests},
        "strategies": [
            {"step": app, "name": "again", "keep_prompt": True, "model": model} for app, model in APPS.items()
        ],
    }
    home.config.write_text(yaml.safe_dump(config))
    project = open_project(home)
    from qbawa.ingest.stage import ingest, new_batches

    ingest(project, new_batches(project))
    choose_requests(project)
    declare_strategies(project)
    cells = wanted_cells(project.lake)
    cells = cells.filter(cells["origin"] == "config")
    arrived: dict[str, Received] = {}
    refused: dict[str, str] = {}
    for cell in cells.partition_by("cell_id"):  # one by one, so that what arrives is known to be this request's
        server.received.clear()
        report = replay(project, cell, run_id="again")
        request = str(cell["request_id"][0])
        if server.received:
            arrived[request] = server.received[0]
        if report.ok != 1:
            row = project.lake.read("replay_matrix").filter(cell_id=cell["cell_id"][0])
            refused[request] = str(row["error"][0] if row.height else report.stopped)[:300]
    return {name: why for name, why in refused.items() if name not in arrived}, arrived


def difference(sent: Received, again: Received | None) -> str | None:
    """Where a replayed request is not the app's; None where it is."""
    if again is None:
        return "never replayed"
    if sent.api != again.api:
        return f"asked of {again.api}"
    one, other = (
        {name: stated(value) for name, value in each.body.items() if name not in TRAVEL} for each in (sent, again)
    )
    for name in {**one, **other}:
        if one.get(name) != other.get(name):
            return f"{name}: {json.dumps(one.get(name))[:200]} became {json.dumps(other.get(name))[:200]}"
    beta = "anthropic-beta"
    return None if sent.headers.get(beta) == again.headers.get(beta) else beta


def stated(value: Any) -> Any:
    """The value without nulls, which every API reads as absent."""
    if isinstance(value, dict):
        return {key: stated(inner) for key, inner in value.items() if inner is not None}
    return [stated(inner) for inner in value] if isinstance(value, list) else value


def asked_fields(asked: Mapping[str, Received], api: str) -> set[str]:
    """The fields that scenarios of an API have, and those that do not bear on the answer."""
    fields = set(TRAVEL)
    for one in asked.values():
        if one.api == api:
            config = one.body.get("generationConfig")
            fields |= one.body.keys() | (config.keys() if isinstance(config, Mapping) else set())
    return fields


def kinds_of(sent: Received) -> Iterator[str]:
    """Fields and kinds of part in a request."""
    for name, value in sent.body.items():
        if name in TRAVEL:
            continue
        yield f"{sent.api} {name}"
        if name == "generationConfig" and isinstance(value, Mapping):
            yield from (f"{sent.api} generationConfig.{inner}" for inner in value)
        yield from (f"{sent.api} {name} {kind}" for kind in _parts(value))


def _parts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        kind = value.get("type")
        if isinstance(kind, str) and kind not in ("object", "string", "integer", "boolean"):
            yield kind
        for name, inner in value.items():
            if name in (
                "tool_calls",
                "cache_control",
                "is_error",
                "inlineData",
                "fileData",
                "functionCall",
                "functionResponse",
            ):
                yield name
            if name not in ("parameters", "input_schema", "schema", "properties"):
                yield from _parts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _parts(inner)


if __name__ == "__main__":
    main()
