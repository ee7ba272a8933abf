"""A request is shown as the tree of its steps; what was recorded can neither style the page nor drive the terminal."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from qbawa.errors import InputError
from qbawa.storage.frames import frame
from qbawa.storage.lake import Lake
from qbawa.storage.step_tree import MAX_DEPTH, load_request, request_tree

BEGAN = datetime(2026, 3, 1, 9, tzinfo=UTC)


def put(lake: Lake, *steps: dict[str, Any]) -> None:
    rows = [
        {
            "request_id": "r1", "recording_id": f"s{n}", "step": f"step{n}", "latency_s": 0.5, "block_id": "b",
            "recorded_at": BEGAN + timedelta(seconds=n), "output": "fine", "pipeline": "p",
        }
        | changes
        for n, changes in enumerate(steps)
    ]  # fmt: skip
    lake.replace("recordings", ["b"], frame("recordings", rows))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def test_steps_stand_below_their_parents_with_time_model_cost_and_outcome(lake: Lake) -> None:
    put(
        lake,
        {"step": "review", "user": "u1", "tags": '{"plan": "pro"}'},
        {
            "step": "extract",
            "parent_id": "s0",
            "model": "gpt-x",
            "input_tokens": 1200,
            "output_tokens": 7,
            "cost_usd": 0.0123,
        },
        {"step": "check", "parent_id": "s0", "cost_usd": 0.5, "error": '{"type": "ValueError", "message": "no date"}'},
        {"step": "look", "parent_id": "s1"},
    )
    feedback = {"request_id": "r1", "score": 0.0, "comment": "wrong party", "given_at": BEGAN, "block_id": "b"}
    lake.replace("feedback", ["b"], frame("feedback", [feedback]))
    head, review, extract, look, check, said = request_tree(lake, "r1", width=200).splitlines()
    assert head == "r1  p · 2026-03-01 09:00:00 UTC · 4 steps · $0.5123 · 1 failed · user u1 · plan=pro"
    assert review == "├── review  +0.000 s · 0.500 s  ✓ fine"
    assert extract == "│   ├── extract  +1.000 s · 0.500 s · gpt-x · 1,200 → 7 tokens · $0.0123  ✓ fine"
    assert look == "│   │   └── look  +3.000 s · 0.500 s  ✓ fine"
    assert check == "│   └── check  +2.000 s · 0.500 s · $0.5000  ✗ ValueError: no date"
    assert said == "└── feedback 0: wrong party"


def test_hostile_text_is_shown_as_text(lake: Lake) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07[red]x[/red] [link=file:///etc/passwd]y[/link]\u202e\r\nnext \x9b31m"
    row = dict.fromkeys(("step", "output", "model", "user", "pipeline"), evil)
    put(lake, row | {"tags": '{"a": "\\u001b[2J"}'}, {"error": evil, "parent_id": "s0"})
    shown = request_tree(lake, "r1", width=400)
    assert not set(shown) & set("\x1b\x07\x9b\u202e\r") and "[red]x[/red]" in shown and "\\u{1b}[2J" in shown
    assert len(shown.splitlines()) == 3


def test_forged_circles_and_lost_parents_end_as_roots(lake: Lake) -> None:
    put(lake, {"parent_id": "s1"}, {"parent_id": "s0"}, {"parent_id": "s2"}, {"parent_id": "gone"}, {"parent_id": "s1"})
    tree = load_request(lake, "r1")
    assert [root.row["recording_id"] for root in tree.steps] == ["s0", "s1", "s2", "s3"]
    assert sum(1 for root in tree.steps for _ in root.walk()) == 5


def test_a_very_deep_tree_is_shown_whole(lake: Lake) -> None:
    put(lake, *({"parent_id": f"s{n - 1}" if n else None} for n in range(3 * MAX_DEPTH)))
    shown = request_tree(lake, "r1", width=300)
    assert all(f"step{n} " in shown for n in range(3 * MAX_DEPTH))


def test_an_unknown_request_is_named(lake: Lake) -> None:
    with pytest.raises(InputError, match="'no\\\\u{1b}' OR 1=1'"):
        request_tree(lake, "no\x1b' OR 1=1")
