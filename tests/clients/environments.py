"""An environment of its own for each client, made by uv out of a lock and kept under build/clients.

`python tests/clients/environments.py` resolves the locks again.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
UV = Path(sys.executable).parent / "uv"
CLIENTS = {
    "openai": ["openai"],
    "anthropic": ["anthropic"],
    "google_genai": ["google-genai", "aiohttp"],
    "groq": ["groq"],
    "litellm": ["litellm[proxy]"],
    "langchain": ["langchain-openai", "langchain-anthropic", "langchain-google-genai", "langgraph"],
    "llama_index": [
        "llama-index-core",
        "llama-index-llms-openai",
        "llama-index-llms-anthropic",
        "llama-index-llms-google-genai",
        "anthropic<1",  # of a later one llama-index-llms-anthropic 0.11 cannot build messages
    ],
    "dspy": ["dspy[litellm]"],
    "pydantic_ai": ["pydantic-ai-slim[openai,anthropic,google]"],
    "openai_agents": ["openai-agents"],
    "crewai": ["crewai[anthropic]"],
    "haystack": ["haystack-ai"],
    "instructor": ["instructor", "anthropic"],
}
"""What is installed for each; the locks hold all that this needs."""
SENDERS = {"opentelemetry": ["opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"]}
"""Likewise, of what sends spans instead of being recorded."""


def lock_of(client: str) -> Path:
    return HERE / "locks" / f"{client}.txt"


def python_of(client: str) -> Path:
    """The interpreter of a client's environment, which is made now if it is not there."""
    lock = lock_of(client)
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = ROOT / "build" / "clients" / f"{client}-{digest}"
    done = folder / "complete"
    if not done.exists():
        _run("venv", "--quiet", "--clear", "--python", sys.executable, folder)
        _run("pip", "install", "--quiet", "--compile-bytecode", "--python", folder / "bin" / "python", "-r", lock)
        done.touch()
    return folder / "bin" / "python"


def resolve(client: str) -> None:
    """Write a client's lock anew."""
    lock_of(client).parent.mkdir(exist_ok=True)
    wanted = "\n".join({**CLIENTS, **SENDERS}[client])
    options = ("--universal", "--python-version", "3.11", "--no-header", "--no-annotate", "--quiet", "--upgrade")
    _run("pip", "compile", *options, "--output-file", lock_of(client), "-", text=wanted)


def _run(*command: object, text: str | None = None) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([str(UV), *map(str, command)], input=text, text=True, check=True, env=env, cwd=ROOT)


if __name__ == "__main__":
    for name in sys.argv[1:] or (*CLIENTS, *SENDERS):
        resolve(name)
