"""What is wrong with keys, prices, servers and caps is said before anything is spent, and nothing is billed for saying it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from newsdesk import newsdesk, reopened

from qbawa.cli.plan import command as plan
from qbawa.cli.status import command as status
from qbawa.config import BudgetConfig, ModelConfig
from qbawa.engine.caps import cap_notes
from qbawa.engine.preflight import Problem, examine
from qbawa.project import Project
from qbawa.tournaments.stage import play


class Server:
    """Lists its models to whoever has the key `good`, and counts every request."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.status, self.hangs = 200, False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked[f"GET {self.path}"] += 1
                while outer.hangs:
                    time.sleep(0.02)
                good = self.headers["authorization"] == "Bearer good"
                body = json.dumps({"object": "list", "data": [{"id": "gpt-large"}, {"id": "gpt-small"}]}).encode()
                with contextlib.suppress(OSError):  # whoever asked has gone
                    self.send_response(outer.status if good else 401)
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def do_POST(self) -> None:
                outer.asked[f"POST {self.path}"] += 1
                self.send_error(500)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.hangs = False
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("GOOD_KEY", "good")
    monkeypatch.setenv("DEAD_KEY", "dead")
    monkeypatch.delenv("NO_KEY", raising=False)
    running = Server()
    yield running
    running.close()


PRICE = {"input_usd_per_million": 1, "output_usd_per_million": 2}


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def found(models: dict[str, dict[str, Any]], **options: Any) -> list[Problem]:
    settings = {name: ModelConfig.model_validate(values) for name, values in models.items()}
    return asyncio.run(examine({name: ["strategy 's'"] for name in models}, settings, **options))


def test_each_fault_is_a_sentence_that_names_model_variable_and_what_would_be_right(server: Server) -> None:
    port = closed_port()
    here = {"base_url": server.base_url, "api_key_env": "GOOD_KEY", **PRICE}
    said = {
        problem.model: problem
        for problem in found(
            {
                "gpt-small": here,
                "gpt-smal": here,
                "dead": {**here, "api_key_env": "DEAD_KEY", "litellm_model": "openai/gpt-small"},
                "unset": {**here, "api_key_env": "NO_KEY"},
                "away": {**here, "base_url": f"http://127.0.0.1:{port}/v1"},
                "priceless": {"base_url": server.base_url, "api_key_env": "GOOD_KEY", "input_usd_per_million": 1},
                "claude": {"litellm_model": "anthropic/claude", "api_key_env": "NO_KEY", **PRICE},
                "offline/lead": {},
            }
        )
        if problem.model != "priceless" or problem.kind == "price"
    }
    assert set(said) == {"gpt-smal", "dead", "unset", "away", "priceless", "claude"}
    assert said["gpt-smal"].kind == "unknown_model" and "gpt-small" in said["gpt-smal"].text
    assert not said["gpt-smal"].certain
    assert "refuses the key in the environment variable DEAD_KEY for model 'dead'" in said["dead"].text
    assert "needs a key in the environment variable NO_KEY, which is not set" in said["unset"].text
    assert f"127.0.0.1:{port}" in said["away"].text and "models.away.base_url" in said["away"].text
    assert "input_usd_per_million and output_usd_per_million" in said["priceless"].text
    assert said["claude"].kind == "key" and "Used by strategy 's'" in said["claude"].line()


def test_a_server_is_asked_once_for_each_key_and_nothing_that_costs(server: Server) -> None:
    here = {"base_url": server.base_url, "api_key_env": "GOOD_KEY", **PRICE}
    assert found({"gpt-small": here, "gpt-large": here}) == []
    assert server.asked == {"GET /v1/models": 1}
    assert found({"gpt-small": here}, reach=False) == [] and server.asked.total() == 1


@pytest.mark.parametrize("status_code", [404, 429, 500, 501])
def test_a_server_without_such_a_list_is_there_all_the_same(server: Server, status_code: int) -> None:
    server.status = status_code
    assert found({"any": {"base_url": server.base_url, "api_key_env": "GOOD_KEY", **PRICE}}) == []


def test_servers_that_hang_hold_nobody_up_for_long(server: Server) -> None:
    server.hangs = True
    models = {f"m{n}": {"base_url": f"{server.base_url}/{n}", "api_key_env": "GOOD_KEY", **PRICE} for n in range(8)}
    began = time.monotonic()
    problems = found(models, timeout_s=0.4)
    assert time.monotonic() - began < 2 and {problem.kind for problem in problems} == {"unreachable"}
    assert "no answer within 0.4 s" in problems[0].text


def test_a_login_in_an_address_is_not_shown() -> None:
    [problem] = found({"m": {"base_url": f"http://me:secret@127.0.0.1:{closed_port()}/v1", **PRICE}})
    assert "secret" not in problem.text and "127.0.0.1" in problem.text


def test_the_cap_that_applies_is_named() -> None:
    budget = BudgetConfig(usd_per_run=2, usd_per_day=10)
    [run] = cap_notes(budget, 5)
    assert "budget.usd_per_run is $2, below the $5" in run
    assert list(cap_notes(budget, 1)) == [] == list(cap_notes(budget, None, 3.0))
    [day] = cap_notes(budget, 1.5, 9.0)
    assert "budget.usd_per_day is $10" in day and "at most $1.0000 of the $1.5" in day
    [empty] = cap_notes(budget, None, 10.0)
    assert "used up" in empty and "usd_per_day" in empty


def config_of(project: Project, **sections: Any) -> str:
    return yaml.safe_dump({**yaml.safe_load(project.home.config.read_text()), **sections})


def run(project: Project, command: Any, *arguments: str) -> tuple[int, str]:
    environment = {"QBAWA_HOME": str(project.home.root), "COLUMNS": "400"}
    done = CliRunner(env=environment).invoke(command, list(arguments), catch_exceptions=False)
    return done.exit_code, done.output


@pytest.mark.slow
def test_a_plan_says_what_is_wrong_and_exits_with_1(tmp_path: Path, server: Server) -> None:
    project = newsdesk(tmp_path)
    model = {"base_url": server.base_url, "api_key_env": "DEAD_KEY", **PRICE}
    strategies = [{"step": "summarise", "name": "new", "prompt": "Shorter: {{ article }}", "model": "m"}]
    project = reopened(
        project.home, config_of(project, models={"m": model}, strategies=strategies, judges={"j": {"model": "m"}})
    )
    code, said = run(project, plan)
    assert code == 1 and "✗ " in said and "variable DEAD_KEY for model 'm'" in said
    assert "strategy 'new'" in said and "judge 'j'" in said
    assert server.asked == {"GET /v1/models": 1}
    code, said = run(project, plan, "--offline", "--json")
    assert code == 0 and json.loads(said)["problems"] == [] and server.asked.total() == 1


@pytest.mark.slow
def test_a_used_up_verdict_budget_is_said_and_newcomers_get_their_share(tmp_path: Path) -> None:
    project = newsdesk(tmp_path)
    small = {"verdict_budget": 20, "goal": "order", "confidence": 0.999, "format": "successive_halving"}
    project = reopened(project.home, config_of(project, tournament=small))
    play(project, run_id="one", steps=["summarise"])
    for command in (plan, status):
        code, said = run(project, command)
        assert code == 0 and "Step 'summarise': the verdict budget is used up: 20 of 20" in said, said

    newcomer = {"step": "summarise", "name": "late", "prompt": "Now: {{ article }}", "model": "offline/luhn"}
    text = yaml.safe_load(project.home.config.read_text())
    text["strategies"].append(newcomer)
    project = reopened(project.home, yaml.safe_dump(text))
    from qbawa.replay import stage as replay_stage

    replay_stage.declare_strategies(project)
    replay_stage.replay(project, replay_stage.wanted_cells(project.lake), run_id="two")
    for command in (plan, status):
        _, said = run(project, command)
        assert "1 strategy was answered by and never judged: late" in said, said
    report = play(project, run_id="three", steps=["summarise"])
    share = 20 // 6
    assert 0 < report.steps["summarise"].verdicts <= share
    matches = project.lake.read("matches", ["strategy_a", "strategy_b", "verdicts"])
    ids = dict(project.lake.read("strategies", ["name", "strategy_id"]).iter_rows())
    assert sum(v for a, b, v in matches.iter_rows() if ids["late"] in (a, b)) == report.steps["summarise"].verdicts
    # Once: who has had it gets no more, and neither do the others.
    assert play(project, run_id="four", steps=["summarise"]).steps["summarise"].verdicts == 0
    _, said = run(project, status)
    assert "never judged" not in said
