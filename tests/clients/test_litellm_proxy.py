"""A real `litellm --config` proxy with one line of ours: every call that goes through it is recorded."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import environments
import openai
import pytest
from model_apis_server import model_server
from recording import rows

from qbawa.storage.journal import adopt_orphans

pytestmark = [pytest.mark.clients, pytest.mark.xdist_group("litellm")]
ROOT = Path(__file__).parents[2]
CONFIG = """
model_list:
  - model_name: small
    litellm_params: {{model: openai/gpt-4o-mini, api_base: "{url}/v1", api_key: k}}
  - model_name: claude
    litellm_params: {{model: anthropic/claude-sonnet-4-5, api_base: "{url}", api_key: k}}
litellm_settings:
  callbacks: qbawa.litellm_proxy
  num_retries: 0
"""
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


def answers(url):
    try:
        with urllib.request.urlopen(f"{url}/health/liveliness", timeout=2) as response:
            return response.status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The rows that the proxy leaves behind, by the text that was asked."""
    home = tmp_path_factory.mktemp("proxy")
    journal, config = home / "journal", home / "config.yaml"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with model_server() as server, (home / "log").open("w") as log:
        config.write_text(CONFIG.format(url=server.url))
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env |= {"PYTHONPATH": str(ROOT), "QBAWA_JOURNAL": str(journal), "HOME": str(home)}
        env |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": "sk-master"}
        command = [environments.python_of("litellm").parent / "litellm", "--config", config, "--port", str(port)]
        command += ["--host", "127.0.0.1", "--telemetry", "False"]
        proxy = subprocess.Popen(command, env=env, cwd=home, stdout=log, stderr=subprocess.STDOUT)
        try:
            url, until = f"http://127.0.0.1:{port}", time.monotonic() + 120
            while not answers(url):
                assert proxy.poll() is None and time.monotonic() < until, (home / "log").read_text()[-4_000:]
                time.sleep(0.2)
            use(url)
            until = time.monotonic() + 20  # reports come after the answer
            while time.monotonic() < until and len(rows(journal)) < 7:
                time.sleep(0.2)
        finally:
            proxy.send_signal(signal.SIGTERM)
            proxy.wait(30)
    adopt_orphans(journal)
    found = rows(journal)
    asked = [row["messages"][-1]["content"] if row["messages"] else row["call"]["request"]["input"] for row in found]
    assert len(set(asked)) == len(asked), asked  # each once
    return dict(zip(asked, found, strict=True))


def use(url):
    client = openai.OpenAI(base_url=url, api_key="sk-master", max_retries=0)

    def ask(text, model="small", **more):
        return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **more)

    metadata = {"tags": ["pro"], "step": "greet", "session_id": "chat-7"}
    ask("hello", temperature=0.5, user="u42", extra_body={"metadata": metadata, "litellm_session_id": "chat-7"})
    ask("tool", tools=TOOLS)
    ask("claude", model="claude", max_tokens=50)
    list(ask("stream", stream=True, stream_options={"include_usage": True}))
    client.responses.create(model="small", input="responses", instructions="Be brief.")
    for text, model, mine in (("fail", "small", client), ("nobody", "unknown", client)):
        with pytest.raises(openai.APIStatusError):
            mine.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])


def test_every_call_of_the_proxy_is_recorded_with_its_cost(recorded):
    assert recorded.keys() == {"hello", "tool", "claude", "stream", "responses", "fail", "nobody"}
    for text in ("hello", "tool", "claude", "stream", "responses"):
        row = recorded[text]
        assert row["error"] is None and row["cost_usd"] > 0 and 0 < row["latency_s"] < 60, text
        assert (row["input_tokens"], row["output_tokens"]) == (5, 2), text
    assert recorded["hello"]["output"] == "echo hello" and recorded["stream"]["output"] == "echo stream"
    assert recorded["tool"]["output"]["tool_calls"][0]["function"]["name"] == "look"


def test_parameters_and_the_apis_own_form_are_recorded(recorded):
    assert recorded["hello"]["parameters"]["temperature"] == 0.5
    assert recorded["tool"]["parameters"]["tools"] == TOOLS
    assert recorded["claude"]["parameters"]["max_tokens"] == 50
    assert recorded["responses"]["call"]["api"] == "openai.responses"
    assert recorded["responses"]["call"]["request"]["instructions"] == "Be brief."


def test_who_asked_and_for_which_step_is_recorded(recorded):
    row = recorded["hello"]
    assert (row["step"], row["user"], row["request_id"]) == ("greet", "u42", "chat-7")
    assert row["tags"]["pro"] is True and row["tags"]["group"] == "small" and row["tags"]["provider"] == "openai"


def test_failures_at_a_model_and_before_any_model_are_recorded(recorded):
    assert "refused" in recorded["fail"]["error"]["message"] and recorded["fail"]["cost_usd"] is None
    assert "unknown" in recorded["nobody"]["error"]["message"] and recorded["nobody"]["model"] == "unknown"
    assert not any("sk-master" in str(row) for row in recorded.values())
