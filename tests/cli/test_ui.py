"""The Dagster UI as its user has it: `qbawa up`, a real browser, and nothing but clicks."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from browser import chromium_page, needs_chromium
from dagster_home import configure, dagster_on, prompts, record
from PIL import Image
from running_up import PATIENCE_S, Up, qbawa, running_up
from scripted_provider import ScriptedProvider, first_words

from qbawa.judges.prompt import read_blocks
from qbawa.project import Home, open_project
from qbawa_assets.definitions import ASSETS

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = [pytest.mark.ui, pytest.mark.browser, needs_chromium]

REQUESTS = [f"r{number:02}" for number in range(20)]
WAYS = 25
"""Strategies beside `recorded`: 500 cells to ask for, and 20 that production has answered."""
PICTURES = os.environ.get("QBAWA_SCREENSHOTS")


@dataclass(frozen=True)
class Ui:
    up: Up
    page: Page
    said: Path
    """What the failure hook was told, a JSON a line."""

    @property
    def home(self) -> Home:
        return self.up.home

    def open(self, address: str) -> None:
        self.page.goto(f"{self.up.url}/{address}")

    def wait_for(self, happened: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> float:
        """Seconds until it happened, as the open page shows it."""
        began = time.monotonic()
        while not happened():
            assert time.monotonic() - began < patience_s, f"waited in vain for {what}:\n{self.text[-3_000:]}"
            self.page.wait_for_timeout(500)
        return time.monotonic() - began

    def see(self, *texts: str) -> None:
        """Wait until all of them stand on the page."""
        self.wait_for(lambda: all(text in self.text for text in texts), " and ".join(texts), 60)

    @property
    def text(self) -> str:
        return self.page.inner_text("body")

    def partitions(self) -> dict[str, int]:
        """Numbers beside the boxes of a page of partitions."""
        found = re.findall(r"^(Failed|Materialized|Materializing|Missing) \((\d+)\)$", self.text, re.MULTILINE)
        return {name: int(number) for name, number in found}

    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog").last

    def materialize(self, which: str) -> None:
        """On an asset's page: Materialize… → the partitions under a button of the dialog → launch."""
        self.page.get_by_text("Materialize…").first.click()
        dialog = self.dialog()
        dialog.get_by_text(which, exact=True).click()
        dialog.get_by_text(re.compile("^Launch (backfill|1 run)$")).last.click()
        dialog.wait_for(state="detached", timeout=30_000)

    def picture(self, name: str) -> None:
        """Keep what the page shows for the documentation, where somebody asks for it."""
        if PICTURES:
            self.page.wait_for_timeout(1_500)
            Path(PICTURES).mkdir(parents=True, exist_ok=True)
            with Image.open(io.BytesIO(self.page.screenshot())) as shot:
                shot.convert("RGB").quantize(64).save(Path(PICTURES) / f"{name}.png", optimize=True)


@pytest.fixture(scope="module")
def ui(server: ScriptedProvider) -> Iterator[Ui]:
    home = Home(Path(tempfile.mkdtemp(prefix="qb-", dir="/tmp")))
    said = home.root / "hook.jsonl"
    server.say = say
    tell = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + '\\n')"
    configure(
        home,
        server,
        strategies=[prompts(WAYS)],
        judges={"jury": {"model": "scripted", "rubric": "JUDGE which answer is better."}},
        tournament={"format": "swiss", "verdict_budget": 120},
        datasets={"pairs": {"p_best": 0.6}},
        dagster={
            "owners": ["team:search"],
            "schedules": {"replay_new_requests": "* * * * *"},
            "on_failure": {"command": [sys.executable, "-c", tell, str(said)]},
        },
    )
    # Before anybody judges, so that no sensor starts a tournament between clicks.
    content = yaml.safe_load(home.config.read_text())
    home.config.write_text(yaml.safe_dump({**content, "judges": {}}))
    record(home, REQUESTS)
    try:
        assert qbawa(home, "run", "take_new_recordings").returncode == 0
        with running_up(home) as up, chromium_page(1500, 1000) as page:
            yield Ui(up, page, said)
    finally:
        shutil.rmtree(home.root, ignore_errors=True)


def say(prompt: str) -> str:
    if "JUDGE" not in prompt:
        return first_words(prompt)
    one, two = (read_blocks(prompt)[f"answer_{number}"] for number in (1, 2))
    return json.dumps({"rationale": "by the alphabet", "verdict": "1" if one < two else "2"})


@pytest.mark.parametrize("name", [asset.key.to_user_string() for asset in ASSETS])
def test_the_page_of_every_asset_says_what_makes_it_by_itself(ui: Ui, name: str) -> None:
    ui.open(f"assets/{name}?view=overview")
    ui.see("Automation details", "team:search".removeprefix("team:"))
    ui.wait_for(lambda: re.search(r"^(Sensors|Schedules|Automation condition)$", ui.text, re.MULTILINE), "automation")
    assert "No automations found" not in ui.text


def test_strategies_are_listed_with_name_and_prompt_beside_their_keys(ui: Ui) -> None:
    strategy = next(key for key in strategies(ui.home) if not key.startswith("recorded"))
    ui.open("assets/strategies?view=events")
    ui.see(strategy, "way/w24", "In way 24, explain {{ topic }}.", "scripted")


def test_a_preview_of_no_partition_is_an_empty_list(ui: Ui) -> None:
    answers: list[int] = []
    ui.page.on("response", lambda response: answers.append(response.status))
    ui.open("assets/replay_by_request?view=partitions")
    ui.page.get_by_text("Materialize…").first.click()
    ui.dialog().get_by_text("Preview", exact=True).click()
    ui.page.wait_for_timeout(2_000)
    assert len(answers) > 3 and max(answers) < 400


def test_a_rectangle_of_500_cells_by_clicks_and_a_failed_cell_red_alone(ui: Ui, server: ScriptedProvider) -> None:
    server.refuses = lambda prompt: "In way 7, " in prompt and prompt.endswith("part 3.")
    ui.open("assets/replay_by_request?view=partitions")
    ui.wait_for(lambda: ui.partitions().get("Missing") == len(REQUESTS), "the partitions")
    began = time.monotonic()
    ui.materialize("All")
    ui.wait_for(
        lambda: ui.partitions() == {"Failed": 1, "Materialized": 19, "Materializing": 0, "Missing": 0}, "the rows"
    )
    took = time.monotonic() - began
    assert server.calls == 499
    ui.open("assets/replay_matrix?view=partitions")
    cells = {"Failed": 1, "Materialized": len(REQUESTS) * (WAYS + 1) - 1, "Materializing": 0, "Missing": 0}
    ui.wait_for(lambda: ui.partitions() == cells, "the cells")
    ui.picture("matrix")
    ui.page.get_by_text(REQUESTS[0], exact=True).first.click()
    ui.page.get_by_text(strategies(ui.home)[0], exact=True).first.click()
    ui.see("latency_s", "strategy", "way/w", "In way ")
    print(f"{took:.0f} s from the click to 500 cells")


def test_the_failure_hook_is_told_once(ui: Ui) -> None:
    ui.wait_for(lambda: ui.said.exists(), "the hook", 90)
    ui.page.wait_for_timeout(3_000)
    [told] = [json.loads(line) for line in ui.said.read_text().splitlines()]
    assert "refused by the script" in told["text"] and told["run_id"]


def test_the_failed_cell_is_asked_again_alone(ui: Ui, server: ScriptedProvider) -> None:
    server.refuses = lambda prompt: False
    before = server.calls
    ui.open("assets/replay_by_request?view=partitions")
    ui.wait_for(lambda: ui.partitions().get("Failed") == 1, "the partitions")
    ui.materialize("Failed")
    ui.wait_for(lambda: ui.partitions().get("Materialized") == len(REQUESTS), "the row")
    assert server.calls == before + 1 and server.asked_again() == 0
    ui.open("assets/replay_matrix?view=partitions")
    ui.wait_for(lambda: ui.partitions().get("Materialized") == len(REQUESTS) * (WAYS + 1), "the cell")


def test_what_a_cancelled_run_has_kept_stands_in_its_log(ui: Ui, server: ScriptedProvider) -> None:
    """A new strategy over 20 requests, cancelled in the middle by two clicks."""
    content = yaml.safe_load(ui.home.config.read_text())
    content["strategies"].append(
        {"step": "explain", "name": "slow", "prompt": "Slowly: {{ topic }}", "model": "scripted"}
    )
    content["models"]["scripted"]["max_in_flight"] = 2
    ui.home.config.write_text(yaml.safe_dump(content))
    assert qbawa(ui.home, "run", "take_new_recordings").returncode == 0
    before, server.latency_s = server.calls, 1.5
    ui.open("assets/replay_by_strategy?view=partitions")
    ui.wait_for(lambda: ui.partitions().get("Missing") == 1, "the new strategy")
    ui.materialize("Missing")
    ui.wait_for(lambda: server.calls >= before + 2, "calls")
    run = newest_run(ui)
    ui.open(f"runs/{run}")
    ui.page.get_by_role("button", name="Terminate").first.click()
    ui.page.get_by_text("Terminate 1 run", exact=True).click()
    ui.see("RUN_CANCELED")
    kept = re.search(r"Stopped: (\d+) of 20 cells are done and kept", ui.text)
    assert kept and int(kept[1]) == server.calls - before and 0 < int(kept[1]) < 20
    server.latency_s = 0.0


def test_a_tick_of_the_schedule_backfills_new_requests(ui: Ui, server: ScriptedProvider) -> None:
    """Switched on by a click; new requests are recorded, and the rest is done by sensor and schedule."""
    new = [f"n{number:02}" for number in range(5)]
    ui.open("locations/qbawa/schedules/replay_new_requests")
    ui.see("Every minute")
    ui.page.locator("label:has(input[type=checkbox])").last.click()
    record(ui.home, new, first=100)
    ui.wait_for(lambda: set(new) <= answered(ui.home), "the answers", 180)
    ui.see("replay_new_requests")
    ui.wait_for(lambda: re.search(r"1 requested|Run requested|1 run", ui.text), "the tick")
    ui.picture("schedule")
    ui.open("runs")
    ui.see("replay_requests", "replay_new_requests")
    assert server.asked_again() == 0


def test_numbers_over_three_runs_are_plotted_and_checks_have_numbers(ui: Ui) -> None:
    content = yaml.safe_load(ui.home.config.read_text())
    content["judges"] = {"jury": {"model": "scripted", "rubric": "JUDGE which answer is better."}}
    ui.home.config.write_text(yaml.safe_dump(content))
    assert qbawa(ui.home, "run", "tournament_sweep").returncode == 0
    with dagster_on(ui.home) as here:
        assert all(here.materialize("ratings").success for _ in range(2))
        assert all(here.materialize("qbawa").success for _ in range(3))
    ui.open("assets/ratings?view=overview")
    ui.see("Plots", "judging_usd_explain", "order_effect_points_explain", "unscored_share_explain")
    ui.page.get_by_text("Plots", exact=True).last.click()
    ui.wait_for(lambda: ui.page.locator("canvas").count() >= 3, "the plots", 30)
    ui.picture("plots")
    ui.open("assets/ratings?view=events")
    ui.see("preview", "strength", "way/w")
    ui.picture("ratings")
    ui.open("assets/qbawa?view=overview")
    ui.see("Plots", "mean_p_best")
    ui.open("assets/ratings?view=checks&checkDetail=unscored_share")
    ui.see("unscored_share", "Plots", "explain")
    assert re.search(r"explain\s+0(\.0+)?\b", ui.text)


def test_pages_for_the_documentation(ui: Ui) -> None:
    ui.open("runs")
    ui.page.get_by_text("Lineage", exact=True).first.click()
    ui.see("Global asset lineage", "stage_1_record")
    ui.page.keyboard.press("Alt+e")
    ui.see("replay_matrix", "human_verdicts", "champions")
    ui.picture("graph")
    ui.open("automation")
    ui.see("inputs_changed", "missing_cells")
    ui.picture("automation")
    played = open_project(ui.home).lake.read("matches", ["request_id"])["request_id"].sort()[0]
    ui.open(f"assets/tournament_brackets?view=partitions&partition={played}")
    ui.see("bracket", "Show Markdown")
    ui.page.get_by_text("Show Markdown").first.click()
    picture = ui.dialog().locator("img")
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 200
    ui.picture("bracket")


def strategies(home: Home) -> list[str]:
    return sorted(open_project(home).lake.read("strategies", ["strategy_id"])["strategy_id"])


def answered(home: Home) -> set[str]:
    """Requests of which every strategy has an answer."""
    cells = open_project(home).lake.read("replay_matrix", ["request_id", "strategy_id", "status"])
    counts = cells.filter(cells["status"] == "ok").group_by("request_id").len()
    return set(counts.filter(counts["len"] >= WAYS + 1)["request_id"])


def newest_run(ui: Ui) -> str:
    query = "{ runsOrError(limit: 1) { ... on Runs { results { runId } } } }"
    answer = ui.page.evaluate(
        "([url, query]) => fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, "
        "body: JSON.stringify({ query }) }).then(answer => answer.json())",
        [f"{ui.up.url}/graphql", query],
    )
    return str(answer["data"]["runsOrError"]["results"][0]["runId"])
