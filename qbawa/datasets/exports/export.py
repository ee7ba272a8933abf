"""A dataset version: selected, checked for leaks, written, described, put in its place."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from qbawa import __version__
from qbawa.config import DatasetConfig
from qbawa.datasets.exports.card import Facts, write_card
from qbawa.datasets.exports.contents import TOOL_FORM, Holds, contents
from qbawa.datasets.exports.formats import FORMATS
from qbawa.datasets.exports.loaders import write_loaders
from qbawa.datasets.exports.manifest import LINEAGE, NAME, canonical, declared, file_hashes, read_manifest, version_of
from qbawa.datasets.exports.select import select_rows
from qbawa.datasets.exports.write import to_rows, write_lineage, write_split
from qbawa.datasets.splits import leak_check
from qbawa.errors import InputError

Json = Any
_ORDER = {"train": 0, "validation": 1, "test": 2}
_LINEAGE = (
    "pair_id", "step", "request_id", "best_strategy", "worse_strategy", "best_cell", "worse_cell", "p_best", "margin",
    "basis", "judges", "dissent", "cluster", "match_ids",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What `export_dataset` returns."""

    dataset: str
    version: str
    path: Path
    format: str
    rows: dict[str, int]
    """Rows of each split."""
    removed: dict[str, int]
    """Pairs that were left out, by reason."""
    sha256: str
    """Of the manifest."""
    lake_versions: dict[str, int]
    pair_ids: list[str]
    request_ids: list[str]
    new: bool
    """False where this very version was there already."""


STAGING = ".staging-"
EVEN = "answer as often worse as best"
_STALE_S = 86_400.0


def export_dataset(
    pairs: pl.DataFrame,
    name: str,
    config: DatasetConfig,
    folder: Path,
    lake_versions: Mapping[str, int] | None = None,
    *,
    requests: pl.DataFrame | None = None,
    facts: Callable[[], Facts] = Facts,
) -> ExportReport:
    """Write the dataset to `folder`/`name`/VERSION and say what is in it.

    `pairs`: rows of the view `qbawa`. `requests`: one row per request with request_id, consent, license and inputs (JSON
    object), as far as the dataset needs them. `facts` says what the card tells of judges and money. The version is a
    hash of data and declaration; where it is there already nothing is written, and its files stay as they are. Files appear
    at once or not at all. Raises LeakError where one question would stand in two splits, InputError where no pair is left.
    """
    removed: Counter[str] = Counter()
    rows = select_rows(pairs, name, config, requests, removed)
    if rows.is_empty():
        reasons = ", ".join(f"{n} × {reason}" for reason, n in removed.most_common() if n)
        raise InputError(f"Dataset '{name}' would be empty. Left out: {reasons or 'there were no pairs at all'}.")
    leak_check(rows)
    inputs, declaration = _inputs(rows, config, requests), declared(config)
    spec = FORMATS[config.format]
    held = contents(rows, "best_answer", "worse_answer")
    written_otherwise = TOOL_FORM | (Holds.PICTURES if spec.parts else Holds(0))
    tool_form = bool((held.to_numpy() & int(written_otherwise)).any())
    version = version_of(rows, inputs, declaration, tool_form)
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    _clear(target)
    path = target / version
    new = not path.exists()
    if new:
        staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=target))
        try:
            counts = _write(rows, name, config, staging, inputs, tool_form, removed)
            left_out = _counted(removed)
            write_card(staging, name, config, rows, counts, left_out, facts())
            manifest = {
                "dataset": name,
                "version": version,
                "format": config.format,
                "rows": counts,
                "pairs": rows.height,
                "removed": left_out,
                "declaration": declaration,
                "files": file_hashes(staging),
                "lake_versions": dict(lake_versions or {}),
                "code_version": __version__,
            }
            (staging / NAME).write_bytes(canonical(manifest))
            staging.chmod(0o755)
            try:
                staging.rename(path)
            except OSError:
                if not path.exists():
                    raise
                new = False  # another process was faster, with the same data
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    stored = read_manifest(path)
    # Counted while rows are written; the same pairs give the same number.
    removed[EVEN] = stored["removed"].get(EVEN, 0)
    return ExportReport(
        name,
        version,
        path,
        config.format,
        stored["rows"],
        _counted(removed),
        hashlib.sha256((path / NAME).read_bytes()).hexdigest(),
        stored["lake_versions"],
        rows["pair_id"].to_list(),
        rows["request_id"].unique().sort().to_list(),
        new,
    )


def _counted(removed: Counter[str]) -> dict[str, int]:
    return {reason: n for reason, n in sorted(removed.items()) if n}


def _clear(folder: Path) -> None:
    """Delete what exports that were killed have left: no export takes a day."""
    for left in folder.glob(f"{STAGING}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_S:
                shutil.rmtree(left, ignore_errors=True)


def _inputs(pairs: pl.DataFrame, config: DatasetConfig, requests: pl.DataFrame | None) -> dict[str, dict[str, Json]]:
    """The step's inputs by request, where the format names them."""
    if config.format != "dspy" or requests is None or "inputs" not in requests.columns:
        return {}
    wanted = requests.join(pairs.select("request_id").unique(), on="request_id", how="semi").sort("request_id")
    loaded = {r: orjson.loads(text) for r, text in wanted.select("request_id", "inputs").drop_nulls().rows()}
    return {r: value for r, value in loaded.items() if isinstance(value, dict) and value}


def _write(
    pairs: pl.DataFrame,
    name: str,
    config: DatasetConfig,
    folder: Path,
    inputs: Mapping[str, Mapping[str, Json]],
    tool_form: bool,
    removed: Counter[str],
) -> dict[str, int]:
    rows, even = to_rows(pairs, config.format)
    removed[EVEN] += even
    counts = {}
    for split in sorted(pairs["split"].unique(), key=lambda s: (_ORDER.get(s, 9), s)):
        counts[split] = write_split(rows, config.format, folder / split, inputs, tool_form)
    write_lineage(pairs.select("split", *_LINEAGE), folder / LINEAGE)
    write_loaders(folder, name, config.format, list(counts), FORMATS[config.format].holds, tool_form)
    return counts
