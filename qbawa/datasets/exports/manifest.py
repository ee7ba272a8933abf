"""What a dataset version is made of, and how two versions differ."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from qbawa.config import DatasetConfig
from qbawa.datasets.exports.write import SLICE, sha256_of
from qbawa.errors import InputError

Json = Any
NAME = "manifest.json"
LINEAGE = "lineage.parquet"
# Goes up where the same pairs are to be written otherwise than before, so that they get a new version.
_LAYOUT = 2
_TOOL_LAYOUT = 1  # the same for pairs that hold tools, whose versions alone change with it
_DATA = ("pair_id", "split", "step", "request_id", "question", "best_answer", "worse_answer")


def canonical(value: Json) -> bytes:
    """JSON with sorted keys: equal values, equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def file_hashes(folder: Path) -> dict[str, dict[str, Json]]:
    """sha256 and bytes of every file in a folder but the manifest, by its path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != NAME)
    return {p.relative_to(folder).as_posix(): {"sha256": sha256_of(p), "bytes": p.stat().st_size} for p in files}


def declared(config: DatasetConfig) -> Json:
    """What of a dataset's settings decides what stands in it; how many versions are kept does not."""
    return orjson.loads(config.model_dump_json(exclude={"keep"}))


def version_of(rows: pl.DataFrame, inputs: Mapping[str, Json], declaration: Json, tool_form: bool = False) -> str:
    """12 hex digits over data and declaration: the same dataset has the same version wherever and whenever it is made.

    `rows`: the pairs as they are published, in order; `inputs`: what a format holds of their requests beside them. Which
    pairs there are counts, by id, split and text. What is only told about them does not, such as costs, judges' reliability
    and p_best, which moves a little with every match of the step: a night without other pairs makes no other version.
    What was asked besides the messages counts where tools are written (`tool_form`).
    """
    digest = hashlib.sha256(canonical([_LAYOUT, declaration, inputs]))
    for start in range(0, rows.height, SLICE):
        digest.update(orjson.dumps(rows.slice(start, SLICE).select(_DATA).rows()))
    if tool_form:
        asked = [column for column in ("pair_id", "parameters") if column in rows.columns]
        digest.update(orjson.dumps([_TOOL_LAYOUT, rows.select(asked).drop_nulls().rows()]))
    return digest.hexdigest()[:12]


def read_manifest(folder: Path) -> dict[str, Json]:
    """A version's manifest. Raises InputError where the folder holds no dataset."""
    try:
        manifest: dict[str, Json] = orjson.loads((folder / NAME).read_bytes())
    except FileNotFoundError:
        raise InputError(f"{folder} holds no dataset: it has no {NAME}.") from None
    return manifest


@dataclass(frozen=True, slots=True)
class Diff:
    """How a dataset version differs from an older one; pairs are named by pair_id."""

    old: str
    new: str
    added: list[str]
    removed: list[str]
    moved: list[str]
    """In another split than before: must be empty, a request never moves."""
    p_changed: list[str]
    """Pairs whose p_best moved by 0.01 or more."""
    settings: dict[str, tuple[Json, Json]]
    """Declarations that changed: old and new value."""

    @property
    def summary(self) -> str:
        return (
            f"{self.old} → {self.new}: {len(self.added)} pairs added, {len(self.removed)} removed, "
            f"{len(self.p_changed)} with another p_best, {len(self.moved)} moved between splits, "
            f"settings changed: {', '.join(self.settings) or 'none'}"
        )


def diff(old: Path, new: Path) -> Diff:
    """How the dataset version in folder `new` differs from that in folder `old`."""
    before, after = read_manifest(old), read_manifest(new)
    columns = ["pair_id", "split", "p_best"]
    a, b = (pl.read_parquet(folder / LINEAGE, columns=columns).unique("pair_id") for folder in (old, new))
    both = a.join(b, on="pair_id", suffix="_new").sort("pair_id")
    was, now = before["declaration"], after["declaration"]
    return Diff(
        before["version"],
        after["version"],
        b.join(a, on="pair_id", how="anti")["pair_id"].sort().to_list(),
        a.join(b, on="pair_id", how="anti")["pair_id"].sort().to_list(),
        both.filter(pl.col("split") != pl.col("split_new"))["pair_id"].to_list(),
        both.filter((pl.col("p_best") - pl.col("p_best_new")).abs() >= 0.01)["pair_id"].to_list(),
        {k: (was.get(k), now.get(k)) for k in sorted(was.keys() | now.keys()) if was.get(k) != now.get(k)},
    )
