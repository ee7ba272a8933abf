"""The demo's newsdesk as a home without Dagster: recorded, ingested, chosen, declared, answered; made once a process."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from qbawa.cli.demo_app.pipeline import record_demo
from qbawa.ingest import stage as ingest_stage
from qbawa.project import Home, Project, open_project
from qbawa.replay import stage as replay_stage
from qbawa.replay.stage import replay, wanted_cells

REQUESTS = 4
CONFIG = """
strategies:
  - step: summarise
    name: plain
    prompt: "Sum this article up in one sentence.\\n\\n{{ article }}"
    models: [offline/lead-2, offline/textrank, offline/verbose, offline/chatty]
  - step: triage
    name: json
    prompt: "Triage this ticket. Return only JSON with the keys category, priority and sentiment.\\n\\nTicket: {{ ticket }}"
    models: [offline/triage-careful, offline/triage-null]
judges: {rubric: {model: offline/judge}, strict: {model: offline/judge-strict}}
tournament: {verdict_budget: 400}
"""

_template = Path(tempfile.mkdtemp(prefix="qbawa-newsdesk-"))
atexit.register(shutil.rmtree, _template, ignore_errors=True)


def newsdesk(root: Path, more: str = "") -> Project:
    """A project whose matrix is answered and whose matches are not played. `more` is added to its qbawa.yaml."""
    home = Home(_template / "home")
    if not home.config.exists():
        home.root.mkdir()
        home.config.write_text(CONFIG)
        record_demo(home.journal, REQUESTS)
        project = open_project(home)
        ingest_stage.ingest(project, ingest_stage.new_batches(project))
        replay_stage.choose_requests(project)
        replay_stage.declare_strategies(project)
        report = replay(project, wanted_cells(project.lake), run_id="newsdesk")
        assert report.ok == report.cells == REQUESTS * 8
    shutil.copytree(home.root, root / "home")
    return reopened(Home(root / "home"), CONFIG + more)


def reopened(home: Home, config: str) -> Project:
    """The project in a home under another qbawa.yaml."""
    home.config.write_text(config)
    return open_project(home)
