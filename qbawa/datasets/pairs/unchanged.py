"""What the pairs of a step were built of: where nothing of it has changed, they would be the same again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl

from qbawa import __version__

Json = Any


@dataclass(frozen=True, slots=True)
class BuiltStep:
    """One step's build: what it was made of and what came of it, each as a hash, and what its report said."""

    made_of: str
    pairs: str
    removed: dict[str, int]
    effect: float


@dataclass(frozen=True, slots=True)
class Built:
    """The last build of all steps. Not a store: without it everything is built once more."""

    inputs: str = ""
    """What it was made of as a whole: settings, and versions of the tables as they were before they were read."""
    pairs: Json = None
    """Version of the table of pairs afterwards."""
    steps: dict[str, BuiltStep] = field(default_factory=dict)

    def text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def read(cls, text: str) -> Built:
        """From `text`; nothing was built where it is empty or says something else."""
        try:
            found = json.loads(text)
            return cls(
                found["inputs"], found["pairs"], {name: BuiltStep(**step) for name, step in found["steps"].items()}
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls()


def hash_of(settings: Mapping[str, Json], frames: Iterable[pl.DataFrame] = ()) -> str:
    """A hash of settings and of rows in their order; columns of lists, which repeat what stands elsewhere, do not count.

    Polars may hash otherwise in another version, which then counts as a change.
    """
    digest = hashlib.sha256(json.dumps([__version__, pl.__version__, settings], sort_keys=True).encode())
    for rows in frames:
        plain = rows.select(pl.exclude(pl.List(pl.String)))
        digest.update(json.dumps([rows.height, plain.columns]).encode())
        if rows.height:
            digest.update(plain.hash_rows(0).to_numpy().tobytes())
    return digest.hexdigest()
