"""Hostile words in recordings, answers, rationales, errors and names, in every place where a real browser shows them.

Nothing of them may run, and nothing may be fetched: a picture on somebody's server would tell when it is looked at.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from browser import chromium_page, needs_chromium
from dagster_home import configure, dagster_on
from markdown_it import MarkdownIt
from running_up import Up, running_up
from scripted_provider import ScriptedProvider

import qbawa
from qbawa.judges.prompt import read_blocks
from qbawa.project import Home
from qbawa_assets.definitions import ASSETS

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.hostile, pytest.mark.browser, needs_chromium]


class Beacon:
    """A server that should never be asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        beacon = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                beacon.asked.append(self.path)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def listening() -> Iterator[Beacon]:
    beacon = Beacon()
    threading.Thread(target=beacon.server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield beacon
    finally:
        beacon.server.shutdown()
        beacon.server.server_close()


def payloads(url: str, where: str) -> list[str]:
    """Short ones first: what is shown is often cut."""
    return [
        f"![]({url}/{where}/1)",
        f"<img src={url}/{where}/2>",
        "<img src=x onerror=pwned=1>",
        "</script><script>pwned=1</script>",
        "[x](javascript:pwned=1)",
        "<svg onload=pwned=1>",
        f"![][r]\n\n[r]: {url}/{where}/3",
        f"|\n\n![]({url}/{where}/4)",
        f"\\![]({url}/{where}/5)",
        f"`\n\n![]({url}/{where}/6)",
        f"<style>*{{background:url({url}/{where}/7)}}</style>",
        f"<iframe src=javascript:top.pwned=1></iframe><iframe src={url}/{where}/8></iframe>",
        f"<a href=javascript:pwned=1>x</a> <video poster={url}/{where}/9> \u202e \u0007",
        f"<img src='data:image/svg+xml,<svg onload=pwned=1>{'A' * 5_000}'>",
    ]


@dataclass(frozen=True)
class Seen:
    up: Up
    beacon: Beacon
    requests: list[str]
    runs: list[str]


@pytest.fixture(scope="module")
def seen(server: ScriptedProvider) -> Iterator[Seen]:
    """A home of nothing but hostile words, turned once, and `qbawa up` on it."""
    home = Home(Path(tempfile.mkdtemp(prefix="qb-", dir="/tmp")))
    try:
        with listening() as beacon:
            server.say = lambda prompt: say(prompt, beacon.url)
            odd = '{"error": {"message": ' + json.dumps(" ".join(payloads(beacon.url, "error")[:4])) + "}}"
            server.fails = lambda prompt: (400, odd) if "FAIL" in prompt else None
            step = payloads(beacon.url, "step")
            steps = [step[0], f"a`{step[2]}"]
            configure(
                home,
                server,
                strategies=[
                    {
                        "step": name,
                        "name": f"{payloads(beacon.url, 'strategy')[number]}",
                        "prompts": {tag: f"{tag} {{{{ topic }}}}" for tag in ("<b>", "![](x)", "FAIL")},
                        "model": "scripted",
                    }
                    for number, name in enumerate(steps)
                ],
                judges={"<i>![](x)": {"model": "scripted", "rubric": "JUDGE <script>pwned=1</script>"}},
                datasets={"pairs": {"p_best": 0.5}},
            )
            requests = record(home, beacon.url, steps)
            with dagster_on(home) as here:
                results = [here.run("flywheel")]
                results.append(
                    here.materialize("recordings", here.instance.get_dynamic_partitions("recording_batch")[0])
                )
            with running_up(home) as up:
                yield Seen(up, beacon, requests, [result.run_id for result in results])
    finally:
        shutil.rmtree(home.root, ignore_errors=True)


def say(prompt: str, url: str) -> str:
    if "JUDGE" not in prompt:
        return payloads(url, "answer")[len(prompt) % 14] + prompt[-40:]
    one, two = (read_blocks(prompt)[f"answer_{number}"] for number in (1, 2))
    return json.dumps({"rationale": " ".join(payloads(url, "rationale")[:6]), "verdict": "1" if one < two else "2"})


def record(home: Home, url: str, steps: list[str]) -> list[str]:
    """Requests whose every part is hostile."""
    parts = payloads(url, "recording")
    requests = [*payloads(url, "request")[:6], "</textarea>&quot;><img src=x onerror=pwned=1>"]
    qbawa.configure(home.journal, pipeline=payloads(url, "pipeline")[1])
    for number, request in enumerate(requests):
        with qbawa.request(request_id=request, user=parts[0], tags={parts[0]: parts[1]}) as this:
            for step in steps:

                def answer(topic: str, step: str = step, number: int = number) -> str:
                    messages = [{"role": "user", "content": f"{topic} {parts[number]}"}]
                    qbawa.llm_call(model=parts[1], messages=messages, output=parts[-number], cost_usd=0.0)
                    return parts[-number]

                qbawa.step(name=step)(answer)(f"{parts[number]} {number}")
            this.feedback(score=1.0, comment=parts[1])
    assert qbawa.flush()
    qbawa.configure(None)
    # Lines that cannot be taken in are shown with their reason.
    (home.journal / "zz-broken.jsonl").write_text(json.dumps({"kind": parts[1], "v": parts[0]}) + "\n")
    return requests


def pages(seen: Seen) -> Iterator[str]:
    """Every kind of page that shows something of a home; the long ones of runs with their logs."""
    yield from ("asset-groups", "runs", "automation", "overview/activity/timeline")
    for asset in ASSETS:
        name = asset.key.to_user_string()
        yield f"assets/{name}?view=overview"
        if list(asset.check_specs):
            yield f"assets/{name}?view=checks"
        if asset.partitions_def is not None:
            yield f"assets/{name}?view=partitions"
    yield from ("assets/replay_set?view=events", "assets/qbawa?view=events")
    yield from (
        f"assets/tournament_brackets?view=partitions&partition={quote(name, safe='')}" for name in seen.requests[:3]
    )
    yield from (f"runs/{run}" for run in seen.runs)
    yield "locations/qbawa/jobs/replay_sweep/playground"


class Visitor:
    """A browser on the UI, and what it noticed that should never be."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.dialogs: list[str] = []
        self.foreign: list[str] = []
        self.shown: list[str] = []
        """Texts of pages, and of what stood behind their buttons."""
        self._under_way = 0
        page.on("dialog", self._dialog)
        page.on("request", self._request)
        page.on("requestfinished", self._ended)
        page.on("requestfailed", self._ended)
        page.goto(url)

    def visit(self, address: str) -> str:
        """Go there as a click does, look at everything that unfolds; the type of what a payload would set."""
        go = "to => { history.pushState({}, '', to); dispatchEvent(new PopStateEvent('popstate', { state: {} })) }"
        self.page.evaluate(go, f"/{address}")
        self._settle()
        if address.startswith("runs/"):  # its log comes by a socket, which no request tells of
            self.page.get_by_text(re.compile("RUN_(SUCCESS|FAILURE)")).first.wait_for(timeout=60_000)
            self._settle()
        self.shown.append(self.page.inner_text("body"))
        for kind in ("Show Markdown", "Show JSON", "View full message"):
            for number in range(min(2, self.page.get_by_text(kind).filter(visible=True).count())):
                self._unfold(kind, number)
        return str(self.page.evaluate("typeof pwned"))

    def _unfold(self, kind: str, number: int) -> None:
        from playwright.sync_api import TimeoutError

        dialog = self.page.get_by_role("dialog")
        with suppress(TimeoutError):  # logs move on while they load; the test counts what was seen
            self.page.get_by_text(kind).filter(visible=True).nth(number).click(timeout=2_000)
            dialog.wait_for(timeout=2_000)
            self._settle(0.1)
            self.shown.append(dialog.inner_html())
            dialog.get_by_role("button", name=re.compile("Close|Done|OK")).last.click(timeout=2_000)
            dialog.wait_for(state="detached", timeout=2_000)
        if dialog.count():
            self.page.reload()
            self._settle()

    def _settle(self, quiet_s: float = 0.25) -> None:
        until, quiet = time.monotonic() + 10, time.monotonic()
        while time.monotonic() < min(until, quiet + quiet_s):
            self.page.wait_for_timeout(50)
            if self._under_way > 0:
                quiet = time.monotonic()

    def _request(self, request: Any) -> None:
        self._under_way += 1
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.foreign.append(request.url)

    def _ended(self, _: Any) -> None:
        self._under_way -= 1

    def _dialog(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium_page(1600, 2400) as page:
        yield page


def test_nothing_runs_and_nothing_is_fetched_on_any_page(seen: Seen, page: Page) -> None:
    visitor = Visitor(page, seen.up.url)
    ran = {address: visitor.visit(address) for address in pages(seen)}
    assert set(ran.values()) == {"undefined"}, ran
    assert visitor.dialogs == []
    everything = "\n".join(visitor.shown)
    for part in ("request", "step", "error"):
        assert f"{seen.beacon.url}/{part}/" in everything, f"nothing of {part} was seen"
    assert "onerror=pwned" in everything and everything.count("<td") > 50, "previews were not looked at"
    assert seen.beacon.asked == [] and visitor.foreign == []


def test_a_dataset_card_is_text_whatever_its_pairs_say(seen: Seen, page: Page) -> None:
    cards = list((seen.up.home.root / "exports").rglob("README.md"))
    assert cards
    for card in cards:
        text = card.read_text()
        assert f"{seen.beacon.url}/step/" in text
        elsewhere = page.context.new_page()  # without the UI's rules
        elsewhere.set_content(MarkdownIt("commonmark", {"html": True}).enable("table").render(text), wait_until="load")
        assert elsewhere.evaluate("typeof pwned") == "undefined"
        assert f"{seen.beacon.url}/step/" in elsewhere.inner_text("body")
    assert seen.beacon.asked == []


def test_the_ui_fetches_nothing_from_elsewhere_even_where_markup_asks_for_it(seen: Seen, page: Page) -> None:
    fetch = (
        "to => new Promise(end => { const it = new Image(); it.onload = it.onerror = end; it.src = to }).then(() => 1)"
    )
    send = "to => window.fetch(to, { mode: 'no-cors' }).then(() => 1, () => 0)"
    page.goto(seen.up.url)
    page.evaluate(fetch, f"{seen.beacon.url}/picture")
    assert page.evaluate(send, f"{seen.beacon.url}/sent") == 0
    elsewhere = page.context.new_page()
    elsewhere.evaluate(fetch, f"{seen.beacon.url}/control")
    assert seen.beacon.asked == ["/control"], "the beacon hears what is really fetched"
