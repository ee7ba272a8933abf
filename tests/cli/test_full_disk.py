"""A disk that fills up under a run, PostgreSQL and all: said in one sentence, and made good by the next run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.hostile

MOUNTS = ["unshare", "--mount", "--map-root-user"] if os.geteuid() else ["unshare", "--mount"]
RECORD = (
    "import sys; from pathlib import Path; from qbawa.cli.demo_app.pipeline import record_demo; "
    "record_demo(Path(sys.argv[1]), 2)"
)
COUNTS = (
    "SELECT (SELECT count(*) FROM recordings) rows, (SELECT count(*) FROM replay_matrix WHERE status = 'ok') cells, \
(SELECT count(*) FROM calls) calls, (SELECT count(DISTINCT call_key) FROM calls) keys"
)
SCRIPT = """
set -e
M=$(mktemp -d) && mount -t tmpfs -o size=300m none "$M" && cd "$M" && export QBAWA_HOME="$M/home"
$Q init > /dev/null && $Q run maintain_lake > /dev/null 2>&1
$P -c "$RECORD" "$M/home/journal"
head -c $(( ($(df -k "$M" | tail -1 | awk '{print $4}') - 1024) * 1024 )) /dev/zero > "$M/rest"
set +e
$Q run flywheel > "$M/../said" 2>&1; echo "full $?"
grep "No space left on device" "$M/../said" > /dev/null && echo said
grep "^Traceback\\|^  File" "$M/../said" > /dev/null && echo traceback
pgrep -f "$M/home" > /dev/null && echo left
rm "$M/rest"
$Q run flywheel > "$M/../said" 2>&1 && echo "after $?" || cat "$M/../said"
$Q sql --json "$COUNTS"
"""


def test_the_next_run_makes_good_what_a_full_disk_has_stopped() -> None:
    if shutil.which("unshare") is None or subprocess.run([*MOUNTS, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount: run as root, or allow user namespaces")
    environment = os.environ | {
        "Q": f"{sys.executable} -m qbawa", "P": sys.executable, "RECORD": RECORD, "COUNTS": COUNTS
    }  # fmt: skip
    done = subprocess.run([*MOUNTS, "sh", "-c", SCRIPT], capture_output=True, text=True, timeout=240, env=environment)
    *told, counted = done.stdout.splitlines()
    assert told[0] in ("full 1", "full 2") and told[1:] == ["said", "after 0"], done.stdout + done.stderr
    found = json.loads(counted)
    assert found["rows"] == 6 and found["cells"] == 40 and found["calls"] == found["keys"] > 40
