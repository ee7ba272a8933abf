"""The commented qbawa.yaml that `qbawa init` and `qbawa demo` start from."""

from pathlib import Path

SAMPLE_CONFIG = Path(__file__).parent / "qbawa.yaml"
