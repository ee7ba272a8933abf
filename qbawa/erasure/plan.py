"""What identifies a request, noted before anything is removed: once its rows are gone nobody could tell any more."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import polars as pl

from qbawa.datasets.exports.manifest import LINEAGE, NAME
from qbawa.erasure.files import rewrite
from qbawa.erasure.quotes import Quotes, leaves, pieces_of
from qbawa.errors import InputError
from qbawa.project import Home
from qbawa.storage.lake import Lake
from qbawa.storage.occupancy import UNFINISHED

OWN_WORDS = 24
"""Characters from which a text ("yes", the name of a colour) says whose it is, enough to remove a call or a strategy."""
QUOTED = 12
"""The same where it is only cut out of what was logged."""
_COLUMNS = {
    "recordings": ("inputs", "messages", "output", "reasoning", "request", "tags", "error", "user"),
    "feedback": ("comment",),
    "replay_matrix": ("answer", "error"),
    "verdicts": ("rationale", "raw"),
    "calls": ("response_text", "error"),
}
_BATCH = 20_000
"""Rows whose texts are looked through at once, each time for all that the request said."""
_ANSWERED = {"recordings": ("inputs", "messages", "output"), "replay_matrix": ("answer",)}


@dataclass(frozen=True, slots=True)
class Plan:
    """Lies in the home while a request is being forgotten, readable by its owner alone; the last thing to be removed."""

    request_id: str
    texts: list[str] = field(default_factory=list)
    """Its inputs, messages, outputs and answers that no other request has: where they stand, it is quoted."""
    pieces: list[str] = field(default_factory=list)
    """Pieces of everything said in it, that nothing said in others holds."""
    strategies: list[str] = field(default_factory=list)
    """Strategies that carry its text."""
    stale_steps: list[str] = field(default_factory=list)
    pictured: bool = False
    """Whether pictures of the replay set and of the matrix have a place for it."""
    datasets: list[str] = field(default_factory=list)
    """Folders of the exported versions that hold it, those of the home relative to it."""
    imported_from: list[str] = field(default_factory=list)
    """Files outside that it was imported from."""

    @property
    def quotes(self) -> Quotes:
        return Quotes(self.request_id, self.pieces)

    def write(self, home: Home) -> None:
        home.root.mkdir(parents=True, exist_ok=True)
        rewrite(home.root / UNFINISHED, json.dumps(asdict(self)).encode(), mode=0o600)

    def done(self, home: Home) -> None:
        (home.root / UNFINISHED).unlink(missing_ok=True)
        folder = os.open(home.root, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def unfinished(home: Home) -> Plan | None:
    """The plan of a `forget` that was interrupted, None where there is none."""
    path = home.root / UNFINISHED
    return read_plan(path) if path.exists() else None


def read_plan(path: Path) -> Plan:
    """The plan in a file. Raises InputError where it cannot be read."""
    try:
        return Plan(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}). Remove it and call `qbawa forget` once more.") from None


def make_plan(lake: Lake, home: Home, request_id: str) -> Plan:
    """What identifies the request, as far as the lake knows it by now."""
    own = pl.col("request_id") == request_id
    texts = _not_elsewhere(lake, own, {t for t in _said(lake, _ANSWERED, own) if len(t) >= OWN_WORDS}, _ANSWERED)
    said = {piece for text in _said(lake, _COLUMNS, own) if len(text) >= QUOTED for piece in pieces_of(text)}
    pieces = _not_elsewhere(lake, own, said, _COLUMNS)
    recordings = lake.read("recordings", ["source"], keep=own)["source"].drop_nulls().unique().sort().to_list()
    noted = versions_of(lake, request_id)["path"]
    steps = {step for t in ("replay_matrix", "matches", "qbawa") for step in lake.read(t, ["step"], keep=own)["step"]}
    strategies = lake.read("strategies").filter(holds(("template", "params", "program"), texts))["strategy_id"]
    shown = any(lake.read(t, ["request_id"], keep=own).height for t in ("replay_set", "replay_matrix"))
    return Plan(
        request_id=request_id,
        texts=texts,
        pieces=pieces,
        strategies=strategies.sort().to_list(),
        stale_steps=sorted(steps),
        pictured=shown,
        datasets=sorted({_in_home(home, path) for path in (*holding(home.exports, request_id), *noted.drop_nulls())}),
        imported_from=[source for source in recordings if not source.endswith("(journal)")],
    )


def versions_of(lake: Lake, request_id: str, folders: Sequence[str] = ()) -> pl.DataFrame:
    """Dataset versions that hold the request or lie in one of these folders: dataset, version, path, block_id."""
    names = ["dataset", "version", "path", "block_id"]
    holding_it = pl.col("request_ids").list.contains(request_id) | pl.col("path").is_in(list(folders))
    # A row lists up to millions of ids: one at a time.
    parts = [
        part.filter(holding_it).select(names) for part in lake.batches("datasets", [*names, "request_ids"], rows=1)
    ]
    return pl.concat([pl.DataFrame(schema=dict.fromkeys(names, pl.String)), *parts])


def _in_home(home: Home, path: Path | str) -> str:
    """The path as tables write it: relative to the home where it lies there."""
    whole = home.root / path
    return str(whole.relative_to(home.root) if whole.is_relative_to(home.root) else whole)


def holding(exports: Path, request_id: str) -> Iterator[Path]:
    """Dataset versions in a folder whose own lineage names the request, and drafts that a killed export has left."""
    for path in exports.glob(f"*/*/{LINEAGE}"):
        try:
            names = request_id in pl.read_parquet(path, columns=["request_id"])["request_id"]
        except pl.exceptions.PolarsError:
            names = not (path.parent / NAME).exists()
        if names:
            yield path.parent


def holds(columns: Sequence[str], texts: Sequence[str]) -> pl.Expr:
    """Whether one of the columns (text or JSON) contains one of the texts."""
    patterns = sorted({form for text in texts for form in forms(text)})
    if not patterns:
        return pl.lit(False)
    return pl.any_horizontal(pl.col(c).fill_null("").str.contains_any(patterns) for c in columns)


def forms(text: str) -> set[str]:
    """The text as it stands by itself and inside a JSON string, of whichever writer."""
    return {text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]}


def _said(lake: Lake, columns: dict[str, tuple[str, ...]], own: pl.Expr) -> Iterator[str]:
    for table, names in columns.items():
        for row in lake.read(table, names, keep=own).rows():
            for cell in row:
                yield from leaves(cell)


def _not_elsewhere(lake: Lake, own: pl.Expr, texts: set[str], columns: dict[str, tuple[str, ...]]) -> list[str]:
    """Those of the texts that no other request has: a system prompt, a stock answer is everybody's, so nobody's."""
    if not texts:
        return []
    meant: dict[str, list[str]] = {}
    for text in texts:
        for form in forms(text):
            meant.setdefault(form, []).append(text)
    patterns, common = sorted(meant), set[str]()
    for table, names in columns.items():
        for part in lake.batches(table, ["request_id", *names], rows=_BATCH):
            words = pl.concat([part.filter(~own)[name].drop_nulls().alias("text") for name in names]).unique()
            # All at once: a pass for each text would take hours over a large lake.
            found = words.str.extract_many(patterns, overlapping=True).explode(empty_as_null=True).drop_nulls().unique()
            common.update(text for form in found for text in meant[form])
    return sorted(texts - common)
