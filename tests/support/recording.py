"""What the recorder's tests share: processes that record, and readers of what was written."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import qbawa
from qbawa.storage.journal import adopt_orphans, all_segments, read_lines

CALL = dict(
    model="m",
    messages=[{"role": "user", "content": "q"}],
    output="said",
    parameters={"temperature": 0},
    input_tokens=3,
    output_tokens=4,
    cost_usd=0.5,
    latency_s=0.1,
)
"""A model call, as `qbawa.llm_call` takes it."""


def rows(folder: Path, kind: str = "step") -> list[dict[str, Any]]:
    """Rows of one kind, in the order in which they were written."""
    found = [json.loads(line) for path in all_segments(folder) for line in read_lines(path)]
    assert all(row["v"] == 1 for row in found)
    return [row for row in found if row["kind"] == kind]


def written(folder: Path, kind: str = "step") -> list[dict[str, Any]]:
    """`rows`, once all that this process recorded is there."""
    assert qbawa.flush(10)
    return rows(folder, kind)


def step_named(found: list[dict[str, Any]], name: str) -> dict[str, Any]:
    [row] = [row for row in found if row["step"] == name]
    return row


def run(code: str, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """A process that runs `code` with QBAWA_JOURNAL set and ends well; the segments that it left open are adopted."""
    env = {"QBAWA_JOURNAL": str(folder), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True, timeout=60, **options
    )
    assert done.returncode == 0, done.stderr
    adopt_orphans(folder)
    return done
