"""The commented qbawa.yaml that `qbawa init` and `qbawa demo` start from."""

from pathlib import Path

from qbawa.project import Home

SAMPLE_CONFIG = Path(__file__).parent / "qbawa.yaml"


def write_sample(home: Home) -> bool:
    """Put the sample into a home that has no qbawa.yaml; False where it has one."""
    if home.config.exists():
        return False
    home.make_private()
    home.config.write_text(SAMPLE_CONFIG.read_text(encoding="utf-8"), encoding="utf-8")
    return True
