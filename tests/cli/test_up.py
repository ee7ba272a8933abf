"""`qbawa up`: PostgreSQL, daemon and UI really running; recordings that arrive by themselves; the UI in Chromium."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import chromium_page, needs_chromium
from dagster import AssetKey
from dagster_home import configure, dagster_on, record
from otlp_traces import PROTOBUF, TRACE, one_trace, protobuf_body
from running_up import Up, environment, free_port, processes_of, qbawa, running_up, wait_for

from qbawa.cli.launch.processes import end_leftovers
from qbawa.project import Home
from qbawa.storage.journal import all_segments, read_lines
from qbawa_assets.definitions import ASSETS

if TYPE_CHECKING:
    from playwright.sync_api import Locator

pytestmark = [pytest.mark.slow, pytest.mark.ui]
STRATEGIES = {
    "step": "explain",
    "name": "plain",
    "prompt": "Explain {{ topic }} in one sentence. It is a matter of {{ topic }} alone.",
    "models": ["offline/lead", "offline/verbose"],
}


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    """A home with nothing but a configuration, and `qbawa up` on it."""
    home = Home(Path(tempfile.mkdtemp(prefix="qb-", dir="/tmp")))
    configure(home, strategies=[STRATEGIES])
    try:
        with running_up(home, "--otlp-port", str(free_port())) as running:
            yield running
    finally:
        shutil.rmtree(home.root, ignore_errors=True)


def test_it_says_where_the_ui_is(up: Up) -> None:
    assert f"http://127.0.0.1:{up.port}" in up.said
    assert "Traceback" not in up.said


def test_a_second_one_on_the_same_home_says_so(up: Up) -> None:
    second = qbawa(up.home, "up", "--port", str(free_port()))
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    assert "up on" in second.stderr and str(up.process.pid) in second.stderr


def test_a_port_that_is_taken_is_said(up: Up, tmp_path: Path) -> None:
    other = Home(tmp_path)
    configure(other)
    second = qbawa(other, "up", "--port", str(up.port))
    assert second.returncode == 2
    assert str(up.port) in second.stderr and "--port" in second.stderr
    assert not processes_of(other)


def test_a_port_for_traces_that_is_taken_is_said(up: Up, tmp_path: Path) -> None:
    other = Home(tmp_path)
    configure(other)
    second = qbawa(other, "up", "--port", str(free_port()), "--otlp-port", str(up.port))
    assert second.returncode == 2 and second.stderr.count("\n") == 1
    assert str(up.port) in second.stderr and "--otlp-port" in second.stderr
    assert not processes_of(other)


def test_a_segment_that_is_dropped_becomes_a_batch_and_joins_the_matrix_by_itself(up: Up) -> None:
    record(up.home, ["r1", "r2"])
    with dagster_on(up.home) as here:
        wait_for(
            lambda: {"r1", "r2"} <= set(here.instance.get_dynamic_partitions("request")), up, "the matrix's requests"
        )
        wait_for(lambda: len(here.instance.get_dynamic_partitions("strategy")) == 3, up, "the matrix's strategies")
        batches = here.instance.get_dynamic_partitions("recording_batch")
        assert len(batches) == 1
        assert here.instance.get_materialized_partitions(AssetKey("recordings")) == set(batches)
        assert here.rows("SELECT DISTINCT request_id FROM recordings ORDER BY 1") == [("r1",), ("r2",)]


@pytest.mark.browser
@needs_chromium
def test_the_ui_shows_the_flywheel_and_materializes_a_row(up: Up) -> None:
    from playwright.sync_api import expect

    ui, complaints = f"http://127.0.0.1:{up.port}", []
    with chromium_page(1600, 1000) as page:
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)

        # The graph: four stages in their order, and every asset once they are opened.
        page.goto(f"{ui}/asset-groups")
        stages = [page.get_by_text(f"stage_{name}").last for name in ("1_record", "2_replay", "3_judge", "4_qbawa")]
        for stage in stages:
            expect(stage).to_be_visible()
        across = [box["x"] for stage in stages if (box := stage.bounding_box())]
        assert across == sorted(across) and len(across) == 4
        page.keyboard.press("Alt+e")
        for asset in ASSETS:
            # The middle of a long name is cut.
            start = asset.key.to_user_string()[:7]
            expect(page.get_by_text(re.compile(f"^{start}")).first).to_be_visible()

        # The matrix: two dimensions, one row launched from the dialog.
        page.goto(f"{ui}/assets/replay_matrix?view=partitions")
        expect(page.get_by_placeholder("Filter by request")).to_be_visible()
        expect(page.get_by_placeholder("Filter by strategy")).to_be_visible()
        expect(page.get_by_text("Missing (6)")).to_be_visible()
        page.get_by_role("button", name="Materialize").first.click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_text("Select a partition").first.click()
        page.get_by_text("r1", exact=True).filter(visible=True).last.click()
        page.keyboard.press("Escape")
        dialog.get_by_role("button", name="All", exact=True).last.click()
        expect(dialog.get_by_text("3 partitions", exact=True)).to_be_visible()
        dialog.get_by_role("button", name="Launch").click()
        expect(dialog).to_be_hidden()
        done = page.get_by_text("Materialized (3)")
        wait_for(lambda: page.reload() and _appears(done), up, "the row in the UI")
        expect(page.get_by_text("Missing (3)")).to_be_visible()
    assert complaints == []
    with dagster_on(up.home) as here:
        assert here.statuses()["materialized"] == set(here.row("r1"))


def _appears(wanted: Locator) -> bool:
    from playwright.sync_api import TimeoutError

    try:
        wanted.wait_for(timeout=5_000)
    except TimeoutError:
        return False
    return True


def test_traces_that_are_sent_are_in_the_journal_once_acknowledged(up: Up) -> None:
    (endpoint,) = re.findall(r"OTEL_EXPORTER_OTLP_ENDPOINT=(\S+)", up.said)
    request = urllib.request.Request(f"{endpoint}/v1/traces", protobuf_body(one_trace()), {"Content-Type": PROTOBUF})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert (answer.status, answer.read()) == (200, b"")
    lines = [line for path in all_segments(up.home.journal) for line in read_lines(path)]
    assert sum(TRACE.encode() in line for line in lines) == len(one_trace())


def test_what_a_killed_one_left_running_is_ended_by_the_next(tmp_path: Path) -> None:
    home, stranger = Home(tmp_path), Home(tmp_path / "stranger")
    both = [
        subprocess.Popen(["sleep", "600"], env=environment(whose), start_new_session=True) for whose in (home, stranger)
    ]
    try:
        for process in both:
            (tmp_path / "up.session").write_text(str(process.pid))
            end_leftovers(home)
        assert both[0].poll() is not None
        assert both[1].poll() is None
    finally:
        for process in both:
            process.kill()
            process.wait()


def test_ctrl_c_leaves_no_process_behind(up: Up) -> None:
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0
    assert processes_of(up.home) == []
    assert "Traceback" not in up.said
