"""Which versions of a dataset nobody needs any more, and the deletion of their files."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from qbawa.datasets.exports.export import STAGING
from qbawa.datasets.exports.manifest import read_manifest
from qbawa.errors import InputError


def unneeded(versions: pl.DataFrame, keep: int, current: str, texts: Iterable[str]) -> list[str]:
    """Versions of one dataset to delete, oldest first: neither the current one, nor among the newest `keep`, nor named.

    `versions`: version, created_at, pruned_at. `texts`: whatever may name a version that is still in use.
    """
    there = versions.filter(pl.col("pruned_at").is_null())
    # The current version may be an old one that came back: it counts as the newest.
    newest = there.sort(pl.col("version") == current, "created_at", "version", descending=[True, True, True])
    old = newest["version"].to_list()[keep:]
    said = pl.Series(list(texts), dtype=pl.String)
    named = set(said.str.extract_many(old, overlapping=True).explode(empty_as_null=True)) if old else set()
    return [version for version in reversed(old) if version not in named and version != current]


def files_of(exports: Path, dataset: str, version: str) -> Path | None:
    """The folder of a version, where it lies in these exports itself and holds that very version; else None."""
    folder = exports / dataset / version
    if not folder.is_dir() or folder.resolve() != exports.resolve() / dataset / version:
        return None  # absent, or a link to what is not ours
    try:
        manifest = read_manifest(folder)
    except (InputError, ValueError):
        return None
    return folder if (manifest.get("dataset"), manifest.get("version")) == (dataset, version) else None


def delete(folder: Path) -> None:
    """Delete a version's files; out of its place at once, so that nobody reads half of it."""
    draft = folder.with_name(f"{STAGING}{uuid.uuid4().hex}")
    folder.rename(draft)
    shutil.rmtree(draft, ignore_errors=True)
