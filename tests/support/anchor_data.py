"""Answers and verdicts of real models and people, which may lie beside the checkout."""

from pathlib import Path

import pytest

ANCHORS = Path(__file__).parents[3] / "shared/data/anchors"

needs_anchors = pytest.mark.skipif(not ANCHORS.is_dir(), reason="needs ../shared/data/anchors beside the checkout")
