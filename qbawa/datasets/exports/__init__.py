"""Datasets out of pairs: versioned, documented, reproducible. See docs/datasets.md."""
