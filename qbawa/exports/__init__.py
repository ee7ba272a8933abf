"""Datasets out of pairs: versioned, documented, reproducible. See docs/datasets.md."""

from qbawa.exports.back import import_back
from qbawa.exports.dataset import ExportReport, export_dataset
from qbawa.exports.manifest import Diff, diff

__all__ = ["Diff", "ExportReport", "diff", "export_dataset", "import_back"]
