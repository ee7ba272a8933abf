"""The sample app records nested steps through the real recorder, and its material is fit for what the demo claims."""

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import qbawa
from qbawa.cli.demo_app import articles, tickets
from qbawa.cli.demo_app.pipeline import SUMMARY_MODEL, TRIAGE_MODEL, handle, record_demo
from qbawa.config_file import parse_config
from qbawa.engine.offline_models.models import MODELS, complete
from qbawa.engine.offline_models.prompt import read_prompt
from qbawa.engine.offline_models.text import words
from qbawa.engine.offline_models.triage import CATEGORIES
from qbawa.errors import InputError, QbawaError

Row = dict[str, Any]


def rows_in(folder: Path) -> list[Row]:
    """Rows of the closed segments of a journal."""
    return [
        json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text("utf-8").splitlines()
    ]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[Row]]:
    folder = tmp_path_factory.mktemp("journal")
    requests = record_demo(folder)
    return requests, rows_in(folder)


def steps(rows: list[Row]) -> dict[str, dict[str, Row]]:
    """Step rows by request and step."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["kind"] == "step":
            found.setdefault(row["request_id"], {})[row["step"]] = row
    return found


def test_every_request_is_on_disk_in_a_closed_segment(recorded: tuple[list[str], list[Row]]) -> None:
    requests, rows = recorded
    assert requests == [f"demo-{n:02d}" for n in range(1, 31)]
    assert set(steps(rows)) == set(requests)
    assert len([row for row in rows if row["kind"] == "step"]) == 90


def test_summarise_and_triage_nest_in_handle(recorded: tuple[list[str], list[Row]]) -> None:
    for by_step in steps(recorded[1]).values():
        assert by_step.keys() == {"handle", "summarise", "triage"}
        assert by_step["handle"]["parent_id"] is None and by_step["handle"]["messages"] is None
        for name in ("summarise", "triage"):
            assert by_step[name]["parent_id"] == by_step["handle"]["recording_id"]


def test_steps_carry_inputs_messages_model_and_usage(recorded: tuple[list[str], list[Row]]) -> None:
    for number, by_step in enumerate(steps(recorded[1]).values()):
        summary, triage = by_step["summarise"], by_step["triage"]
        assert summary["inputs"] == {"article": articles()[number].text}
        assert triage["inputs"] == {"ticket": tickets()[number].text}
        for row, model in ((summary, SUMMARY_MODEL), (triage, TRIAGE_MODEL)):
            assert row["model"] == model and row["cost_usd"] == 0 and row["error"] is None
            assert row["input_tokens"] > row["output_tokens"] > 0
            assert row["output"] == complete(model, row["messages"], row["parameters"])
        assert read_prompt(summary["messages"]).source == articles()[number].text
        assert read_prompt(triage["messages"]).source == tickets()[number].text
        assert json.loads(triage["output"])["category"] in CATEGORIES


def test_recording_twice_gives_the_same_requests_and_answers(tmp_path: Path) -> None:
    runs = []
    for name in ("one", "two"):
        requests = record_demo(tmp_path / name, articles=3)
        answers = {r: {s: row["output"] for s, row in by.items()} for r, by in steps(rows_in(tmp_path / name)).items()}
        runs.append((requests, answers))
    assert runs[0] == runs[1] and len(runs[0][1]) == 3


@pytest.mark.parametrize("number", [0, -1, 31, 10**9])
def test_more_articles_than_there_are_is_refused(tmp_path: Path, number: int) -> None:
    with pytest.raises(InputError, match="30 articles.*1 to 30"):
        record_demo(tmp_path, articles=number)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_journal_that_takes_nothing_is_reported(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file, not a folder")
    with pytest.raises(QbawaError, match="did not all reach"):
        record_demo(tmp_path / "journal", articles=1)


def test_the_app_runs_the_same_without_recording() -> None:
    qbawa.configure(None)
    desk = handle(articles()[0].text, tickets()[0].text)
    assert desk["summary"] == complete(SUMMARY_MODEL, [{"role": "user", "content": articles()[0].text}])
    assert desk["triage"]["category"] == "billing"


def test_the_pipeline_needs_the_standard_library_alone() -> None:
    """Third-party modules are made unimportable, as in a bare wheel."""
    code = (
        "import sys\n"
        "for name in ('numpy', 'polars', 'pydantic', 'yaml', 'orjson', 'msgspec', 'jinja2'): sys.modules[name] = None\n"
        "from qbawa.cli.demo_app.pipeline import handle\n"
        "print(handle('A cat slept. It slept all day on the mat.', 'Where is my paper?')['summary'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "QBAWA_JOURNAL"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "It slept all day on the mat."


def test_articles_are_varied_and_of_the_promised_length() -> None:
    material = articles()
    assert len(material) == len({a.id for a in material}) == len({a.text for a in material}) == 30
    assert all(120 <= len(a.text.split()) <= 260 for a in material)
    assert all(len(a.gist.split()) <= 35 and a.gist not in a.text for a in material)
    # The awkward forms that the demo promises: lists, quotes, letters outside ASCII.
    assert any("\n- " in a.text for a in material) and any("\n1. " in a.text for a in material)
    assert sum(not a.text.isascii() for a in material) >= 5


def test_the_point_often_does_not_stand_in_the_first_sentence() -> None:
    def overlap(gist: str, sentence: str) -> float:
        said = {w.lower() for w in words(gist)}
        return len(said & {w.lower() for w in words(sentence)}) / len(said)

    late = [
        a for a in articles() if overlap(a.gist, complete("offline/lead", [{"role": "user", "content": a.text}])) < 0.4
    ]
    assert len(late) >= 10


def test_tickets_cover_every_category_and_priority() -> None:
    assert len(tickets()) >= 30
    assert {t.category for t in tickets()} == set(CATEGORIES)
    assert {t.priority for t in tickets()} == {"low", "normal", "high", "urgent"}


def test_the_strategies_of_the_demo_are_a_valid_configuration_over_models_that_exist() -> None:
    config = parse_config((files("qbawa.cli.demo_app") / "strategies.yaml").read_text(encoding="utf-8"))
    per_step = {"summarise": 0, "triage": 0}
    for strategy in config.strategies:
        models = strategy.models or (strategy.model,)
        assert set(models) <= set(MODELS)
        per_step[strategy.step] += len(models) * max(1, len(strategy.prompts))
    assert per_step["summarise"] >= 8 and per_step["triage"] >= 4
    assert {judge.model for judge in config.judges.values()} <= set(MODELS)
