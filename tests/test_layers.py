"""What the recorder costs the application that imports it; which room may import which is import-linter's to say."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_importing_qbawa_loads_nothing_of_third_parties() -> None:
    script = (
        "import sys; before = set(sys.modules); import qbawa; "
        "new = {m.split('.')[0] for m in set(sys.modules) - before}; "
        "print(' '.join(sorted(new - set(sys.stdlib_module_names) - {'qbawa'})))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.strip() == ""


def test_rooms_import_one_way() -> None:
    linted = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], capture_output=True, text=True, cwd=ROOT
    )
    assert linted.returncode == 0, linted.stdout
