"""Cells that were billed and brought no answer: a state of their own, paid again only where somebody asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from scripted_provider import ScriptedProvider, scripted_provider

from qbawa.engine.session import held_calls, spent_usd
from qbawa.project import Home, Project, open_project
from qbawa.replay import stage as replay_stage
from qbawa.replay.cells import choose_cells
from qbawa.replay.runner import ReplayReport
from qbawa.replay.stage import replay, wanted_cells
from qbawa.replay.strategies.repository import write_strategies
from qbawa.replay.strategies.strategy import Template, make_strategy
from qbawa.storage.frames import frame, now
from qbawa.storage.lake import Lake

WAY = make_strategy(
    name="a", step="sum", model="scripted", template=Template("prompt", "Sum up: {{ text }}"), params={"max_tokens": 20}
)


def reply(message: dict[str, Any], finish: str) -> str:
    usage = {"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 40}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage})


REFUSALS = {
    "refused": (200, reply({"role": "assistant", "content": None}, "content_filter")),
    "cut_off": (200, reply({"role": "assistant", "content": ""}, "length")),
    "unsupported": (400, '{"error": {"code": "unsupported_parameter", "message": "Unsupported parameter: stop"}}'),
}


def project_in(folder: Path, provider: ScriptedProvider) -> Project:
    model = {"base_url": provider.base_url, "input_usd_per_million": 1_000.0, "output_usd_per_million": 1_000.0}
    home = Home(folder)
    home.config.write_text(yaml.safe_dump({"models": {"scripted": model}}))
    project = open_project(home)
    rows = [
        {"request_id": r, "recording_id": r, "step": "sum", "inputs": json.dumps({"text": r}), "output": "x",
         "recorded_at": now(), "block_id": "b"}
        for r in ("good", "bad")
    ]  # fmt: skip
    project.lake.replace("recordings", ["b"], frame("recordings", rows))
    chosen = [
        {"step": "sum", "request_id": r["request_id"], "recording_id": r["recording_id"], "block_id": "sum"}
        for r in rows
    ]
    project.lake.replace("replay_set", ["sum"], frame("replay_set", chosen))
    write_strategies(project.lake, [WAY])
    return project


def sweep(project: Project, run: str, *, again: bool = False) -> ReplayReport:
    states = ("missing", "failed", *(("refused",) if again else ()))
    return replay(project, choose_cells(wanted_cells(project.lake), states=states), run_id=run, retry_refused=again)


@pytest.mark.slow
@pytest.mark.parametrize("reason", REFUSALS)
def test_a_refused_cell_is_neither_red_nor_asked_again_until_somebody_asks(tmp_path: Path, reason: str) -> None:
    with scripted_provider() as provider:
        provider.fails = lambda prompt: REFUSALS[reason] if "bad" in prompt else None
        asked: list[str] = []
        say, fails = provider.say, provider.fails
        provider.fails = lambda prompt: (asked.append(prompt), fails(prompt))[1]
        project = project_in(tmp_path, provider)
        report = sweep(project, "one")
        assert (report.ok, report.refused, report.failed, report.missing) == (1, 1, 0, 0)
        assert report.reasons == {reason: 1} and "1 refused" in report.summary()
        cells = wanted_cells(project.lake)
        assert dict(cells.select("request_id", "state").iter_rows()) == {"good": "ok", "bad": "refused"}
        row = project.lake.read("replay_matrix", keep=pl.col("request_id") == "bad").row(0, named=True)
        assert row["status"] == "failed" and row["error"].startswith(f"{reason}: ")
        assert row["cost_usd"] == pytest.approx(0.0 if reason == "unsupported" else 0.04), "what was billed is known"
        assert replay_stage.failures_of_run(project, "one").is_empty(), "no run ends in failure over it"

        before = len(asked)
        assert sweep(project, "two").cells == 0 and len(asked) == before
        # Also where the cell itself is chosen, what was billed is not paid again unasked.
        bad = cells.filter(pl.col("request_id") == "bad")
        assert replay(project, bad, run_id="three").refused == 1
        assert len(asked) == before + (reason == "unsupported"), "what costs nothing may be asked again"

        provider.fails, provider.say = (lambda prompt: None), say
        assert sweep(project, "four", again=True).ok == 1
        assert set(wanted_cells(project.lake)["state"]) == {"ok"}


def test_a_lake_from_before_counts_its_calls_by_what_they_cost(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    row = {
        "call_key": "k" * 32,
        "step": "sum",
        "run_id": "r",
        "cost_usd": 0.5,
        "response_text": "x",
        "called_at": now(),
    }
    lake.replace("calls", ["b"], frame("calls", [row | {"block_id": "b"}]))
    day = f"day:{now():%Y-%m-%d}"
    assert [spent_usd(lake, account) for account in (day, "run:r", "step:sum", "run:else")] == [0.5, 0.5, 0.5, 0.0]
    assert [call["cost_usd"] for call in held_calls(lake, ["k" * 32])] == [0.5]
