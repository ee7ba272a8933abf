"""What the recorder's tests share: a process that records, and a reader of what it wrote."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from qbawa.journal import adopt_orphans, all_segments, read_lines


def rows(folder: Path, kind: str = "step") -> list[dict[str, Any]]:
    """Rows of one kind, in the order in which they were written."""
    found = [json.loads(line) for path in all_segments(folder) for line in read_lines(path)]
    assert all(row["v"] == 1 for row in found)
    return [row for row in found if row["kind"] == kind]


def run(code: str, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """A process that runs `code` with QBAWA_JOURNAL set and ends well; the segments that it left open are adopted."""
    env = {"QBAWA_JOURNAL": str(folder), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True, timeout=60, **options
    )
    assert done.returncode == 0, done.stderr
    adopt_orphans(folder)
    return done
