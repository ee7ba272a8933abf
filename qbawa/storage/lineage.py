"""The whole history of a pair, match, verdict, cell, call, request or dataset version.

Back: pair → matches → verdicts with their rationale → cells → calls → strategies → recordings. Forward: call → cells and
verdicts → matches → pairs → datasets. docs/lineage.md has the same joins in SQL; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from qbawa.errors import InputError
from qbawa.storage.frames import schema_of
from qbawa.storage.lake import Lake
from qbawa.text import shorten

Json = Any
Kind = Literal["pair", "match", "verdict", "cell", "call", "request", "dataset"]
# Where an id is looked for, in this order.
_HOMES: tuple[tuple[Kind, str, str], ...] = (
    ("pair", "qbawa", "pair_id"),
    ("match", "matches", "match_id"),
    ("verdict", "verdicts", "verdict_id"),
    ("cell", "replay_matrix", "cell_id"),
    ("call", "calls", "call_key"),
    ("request", "recordings", "request_id"),
    ("dataset", "datasets", "version"),
)
TABLES = ("qbawa", "matches", "verdicts", "replay_matrix", "calls", "strategies", "recordings", "datasets")
# A dataset version holds up to millions of pairs: their ids say enough.
_LIGHT = ["pair_id", "step", "request_id", "best_strategy", "worse_strategy", "best_cell", "worse_cell", "p_best", "basis",
          "judges", "split", "match_ids"]  # fmt: skip
# So does a row of `datasets`, which lists them all.
_NOTED = [name for name in schema_of("datasets") if name not in ("pair_ids", "request_ids")]


@dataclass(frozen=True, slots=True)
class Lineage:
    """What `trace` returns: the rows of every table that belong to the history of one thing."""

    id: str
    kind: Kind
    tables: dict[str, pl.DataFrame] = field(repr=False)
    """Rows by table, sorted by the table's own id. Of `datasets` without the lists of what they hold."""

    def as_json(self) -> dict[str, Json]:
        """Everything, as lists of objects."""
        return {"id": self.id, "kind": self.kind} | {name: rows.to_dicts() for name, rows in self.tables.items()}

    @property
    def text(self) -> str:
        """The history for people, newest thing first; whatever models and users wrote is shown as plain text."""
        return "\n".join(_draw(self))


def trace(lake: Lake, id: str) -> Lineage:
    """The lineage of whatever has this id. Raises InputError where nothing has it."""
    kind = _kind_of(lake, id)
    found = _FINDERS[kind](_Finder(lake), id)
    tables = {name: found[name] if name in found else _none(name) for name in TABLES}
    return Lineage(id, kind, {name: _sorted(rows) for name, rows in tables.items()})


def _kind_of(lake: Lake, id: str) -> Kind:
    for kind, table, column in _HOMES:
        if lake.scan(table).filter(pl.col(column) == id).select(column).head(1).collect().height:
            return kind
    kinds = ", ".join(f"{kind} ({table}.{column})" for kind, table, column in _HOMES)
    raise InputError(f"Nothing in the lake has the id '{shorten(id, 80)}'. Ids that can be traced: {kinds}.")


def _none(table: str) -> pl.DataFrame:
    columns = _NOTED if table == "datasets" else list(schema_of(table))
    return schema_of(table).to_frame().select(columns)


class _Finder:
    """Rows of the lake by the ids that link them.

    Of a table that may have millions of rows no more is held at once than what is looked for, and a batch.
    """

    def __init__(self, lake: Lake) -> None:
        self.lake = lake

    def rows(
        self, table: str, column: str, values: Iterable[str | None], columns: list[str] | None = None
    ) -> pl.DataFrame:
        wanted = sorted({value for value in values if value is not None})
        if not wanted:
            return _none(table).select(columns or pl.all())
        return self.lake.read(table, columns, keep=pl.col(column).is_in(wanted))

    def datasets(self, column: str, values: Iterable[str]) -> pl.DataFrame:
        """The versions that hold one of the pairs or requests, without the lists of what they hold."""
        wanted = sorted(set(values))
        if not wanted:
            return _none("datasets")
        # A row lists up to millions of ids: one at a time.
        parts = self.lake.batches("datasets", ["dataset", "version", column], rows=1)
        found = [part.drop(column) for part in parts if part[column].explode(empty_as_null=True).is_in(wanted).any()]
        names = pl.concat([_none("datasets").select("dataset", "version"), *found])
        rows = self.rows("datasets", "version", names["version"], _NOTED)
        return rows.join(names, on=["dataset", "version"], how="semi")

    def pairs_of(self, matches: pl.DataFrame) -> pl.DataFrame:
        """The pairs that name one of these matches."""
        wanted = matches["match_id"].to_list()
        if not wanted:
            return self.none("qbawa")
        named = pl.col("match_ids").list.eval(pl.element().is_in(wanted)).list.any()
        parts = self.lake.batches("qbawa", ["pair_id", "match_ids"])
        return self.rows("qbawa", "pair_id", {pair for part in parts for pair in part.filter(named)["pair_id"]})

    def behind(self, pairs: pl.DataFrame, matches: pl.DataFrame, cells: pl.DataFrame) -> dict[str, pl.DataFrame]:
        """Everything that these pairs, matches and cells were made of, and the datasets that hold the pairs."""
        named = pairs["match_ids"].explode(empty_as_null=True).to_list() if pairs.height else []
        matches = self.rows("matches", "match_id", [*matches["match_id"], *named])
        verdicts = self.rows("verdicts", "match_id", matches["match_id"])
        needed = [*cells["cell_id"], *pairs["best_cell"], *pairs["worse_cell"], *matches["cell_a"], *matches["cell_b"]]
        cells = self.rows("replay_matrix", "cell_id", needed)
        keys = [
            *(cells["call_keys"].explode(empty_as_null=True).to_list() if cells.height else []),
            # A pointwise judge is asked about each answer alone: two calls, joined by `+`.
            *(key for both in verdicts["call_key"].drop_nulls() for key in both.split("+")),
        ]
        recordings = self.rows("recordings", "request_id", {*cells["request_id"], *pairs["request_id"]})
        of_step = pl.concat([frame.select("request_id", "step") for frame in (cells, pairs)]).unique()
        return {
            "qbawa": pairs,
            "matches": matches,
            "verdicts": verdicts,
            "replay_matrix": cells,
            "calls": self.rows("calls", "call_key", keys),
            "strategies": self.rows("strategies", "strategy_id", cells["strategy_id"]),
            "recordings": recordings.join(of_step, on=["request_id", "step"], how="semi"),
            "datasets": self.datasets("pair_ids", pairs["pair_id"]),
        }

    def none(self, table: str) -> pl.DataFrame:
        return _none(table)

    def of_pair(self, id: str) -> dict[str, pl.DataFrame]:
        return self.behind(self.rows("qbawa", "pair_id", [id]), self.none("matches"), self.none("replay_matrix"))

    def of_match(self, id: str) -> dict[str, pl.DataFrame]:
        return self.of_matches([id])

    def of_matches(self, ids: Iterable[str]) -> dict[str, pl.DataFrame]:
        matches = self.rows("matches", "match_id", ids)
        pairs = self.pairs_of(matches)
        # Forward from matches: the other matches that the same pairs lean on are not their history.
        behind = self.behind(self.none("qbawa"), matches, self.none("replay_matrix"))
        return behind | {"qbawa": pairs, "datasets": self.datasets("pair_ids", pairs["pair_id"])}

    def of_verdict(self, id: str) -> dict[str, pl.DataFrame]:
        return self.of_matches(self.rows("verdicts", "verdict_id", [id])["match_id"])

    def of_cell(self, id: str) -> dict[str, pl.DataFrame]:
        return self.of_cells([id])

    def of_cells(self, ids: Iterable[str]) -> dict[str, pl.DataFrame]:
        cells = self.rows("replay_matrix", "cell_id", ids)
        wanted = cells["cell_id"].to_list()
        matches = self.lake.read("matches", keep=pl.col("cell_a").is_in(wanted) | pl.col("cell_b").is_in(wanted))
        pairs = self.lake.read("qbawa", keep=pl.col("best_cell").is_in(wanted) | pl.col("worse_cell").is_in(wanted))
        own = self.behind(self.none("qbawa"), self.none("matches"), cells)
        return own | {
            "matches": matches,
            "verdicts": self.rows("verdicts", "match_id", matches["match_id"]),
            "qbawa": pairs,
            "datasets": self.datasets("pair_ids", pairs["pair_id"]),
        }

    def of_call(self, id: str) -> dict[str, pl.DataFrame]:
        cells = self.lake.read("replay_matrix", keep=pl.col("call_keys").list.contains(id))
        verdicts = self.lake.read("verdicts", keep=pl.col("call_key").str.split("+").list.contains(id))
        by_cell, by_verdict = self.of_cells(cells["cell_id"]), self.of_matches(verdicts["match_id"])
        both = {name: pl.concat([by_cell[name], by_verdict[name]]).unique(maintain_order=True) for name in TABLES}
        return both | {"calls": self.rows("calls", "call_key", [id])}

    def of_request(self, id: str) -> dict[str, pl.DataFrame]:
        cells = self.lake.read("replay_matrix", blocks=[id])
        found = self.behind(self.rows("qbawa", "request_id", [id]), self.lake.read("matches", blocks=[id]), cells)
        return found | {
            "recordings": self.rows("recordings", "request_id", [id]),
            "datasets": self.datasets("request_ids", [id]),
        }

    def of_dataset(self, id: str) -> dict[str, pl.DataFrame]:
        held = self.rows("datasets", "version", [id], ["pair_ids"])["pair_ids"].explode(empty_as_null=True).drop_nulls()
        # Up to millions of them, and as many pairs: never as objects of Python.
        wanted = held.to_frame("pair_id").lazy()
        pairs = (
            self.lake.scan("qbawa").select(_LIGHT).join(wanted, on="pair_id", how="semi").collect(engine="streaming")
        )
        return {"datasets": self.rows("datasets", "version", [id], _NOTED), "qbawa": pairs}


_FINDERS: dict[Kind, Callable[[_Finder, str], dict[str, pl.DataFrame]]] = {
    "pair": _Finder.of_pair,
    "match": _Finder.of_match,
    "verdict": _Finder.of_verdict,
    "cell": _Finder.of_cell,
    "call": _Finder.of_call,
    "request": _Finder.of_request,
    "dataset": _Finder.of_dataset,
}


def _sorted(rows: pl.DataFrame) -> pl.DataFrame:
    rows = rows.drop("block_id") if "block_id" in rows.columns else rows
    plain = [name for name, dtype in rows.schema.items() if name.endswith(("_id", "_key", "version", "sample"))]
    return rows.sort(plain, nulls_last=True) if plain else rows


_SHOWN = 20
_TITLES = {
    "datasets": "exported in",
    "qbawa": "pairs",
    "matches": "matches",
    "verdicts": "verdicts",
    "replay_matrix": "cells",
    "calls": "calls",
    "strategies": "strategies",
    "recordings": "recordings",
}


def _draw(lineage: Lineage) -> Iterator[str]:
    yield f"{lineage.kind} {shorten(lineage.id, 80)}"
    names = dict(lineage.tables["strategies"].select("strategy_id", "name").rows())
    for table in _TITLES:
        rows = lineage.tables[table]
        yield f"\n{_TITLES[table]} ({rows.height})"
        for row in rows.head(_SHOWN).iter_rows(named=True):
            for number, line in enumerate(_LINES[table](row, names)):
                yield ("  • " if number == 0 else "      ") + line
        if rows.height > _SHOWN:
            yield f"  … and {rows.height - _SHOWN} more; --json shows all"


Row = dict[str, Json]
Names = dict[str, str]


def _name(strategy: Json, names: Names) -> str:
    return shorten(str(names.get(strategy) or strategy), 50)


def _text(value: Json, length: int = 100) -> str:
    return "–" if value is None else shorten(str(value), length)


def _money(value: Json) -> str:
    return "$?" if value is None else f"${value:.6f}"


def _pair(row: Row, names: Names) -> Iterator[str]:
    p = f"P(best is better) = {row['p_best']:.3f}, {row['basis']}, {row['split']}"
    yield f"{row['pair_id']}  step {_text(row['step'], 40)}, request {_text(row['request_id'], 40)}: {p}"
    if "question" in row:
        yield f"question: {_text(row['question'])}"
    best, worse = _name(row["best_strategy"], names), _name(row["worse_strategy"], names)
    yield f"best, {best}: {_text(row.get('best_answer'))}"
    yield f"worse, {worse}: {_text(row.get('worse_answer'))}"
    yield f"judges {_text(', '.join(row['judges'] or []))}; matches {_text(', '.join(row['match_ids'] or []), 140)}"


def _match(row: Row, names: Names) -> Iterator[str]:
    p = "unscored" if row["p_a"] is None else f"p_a = {row['p_a']:.3f}, winner {row['winner']}"
    sides = f"a {_name(row['strategy_a'], names)} – b {_name(row['strategy_b'], names)}"
    yield f"{row['match_id']}  request {_text(row['request_id'], 40)}, round {row['round']}: {sides}: {p}"


def _verdict(row: Row, names: Names) -> Iterator[str]:
    said = f"{row['verdict']} (shown first: {row['shown_first'] or '?'})"
    yield f"{row['verdict_id']}  match {row['match_id']}, {_text(row['judge'], 40)} ({row['judge_kind']}): {said}"
    if row["rationale"]:
        yield f"because: {_text(row['rationale'], 300)}"
    if row["call_key"]:
        yield f"call {row['call_key']}"


def _cell(row: Row, names: Names) -> Iterator[str]:
    end = row["status"] if row["error"] is None else f"{row['status']}: {_text(row['error'], 80)}"
    yield f"{row['cell_id']}  {_name(row['strategy_id'], names)}, sample {row['sample']}: {end}, {_money(row['cost_usd'])}"
    yield f"answer: {_text(row['answer'])}"
    if row["call_keys"]:
        yield f"calls {', '.join(row['call_keys'][:4])}{', …' if len(row['call_keys']) > 4 else ''}"


def _call(row: Row, names: Names) -> Iterator[str]:
    what = f"{row['purpose']}, {_text(row['model'], 50)}, {_money(row['cost_usd'])}, run {_text(row['run_id'], 40)}"
    yield f"{row['call_key']}  {what}, {row['called_at']}"
    yield f"said: {_text(row['response_text'])}"


def _strategy(row: Row, names: Names) -> Iterator[str]:
    yield f"{row['strategy_id']}  {_text(row['name'], 50)}: model {_text(row['model'], 50)}, from {_text(row['origin'], 20)}"


def _recording(row: Row, names: Names) -> Iterator[str]:
    where = f"request {_text(row['request_id'], 40)}, step {_text(row['step'], 40)}, {row['recorded_at']}"
    yield f"{_text(row['recording_id'], 40)}  {where}, source {_text(row['source'], 60)}"
    yield f"inputs: {_text(row['inputs'])}"
    yield f"output: {_text(row['output'])}"


def _dataset(row: Row, names: Names) -> Iterator[str]:
    gone = f" (files deleted {row['pruned_at']:%Y-%m-%d})" if row["pruned_at"] else ""
    yield f"{_text(row['dataset'], 40)} {row['version']}  {row['format']}, {row['rows']:,} rows, {_text(row['path'], 120)}{gone}"


_LINES: dict[str, Callable[[Row, Names], Iterator[str]]] = {
    "qbawa": _pair,
    "matches": _match,
    "verdicts": _verdict,
    "replay_matrix": _cell,
    "calls": _call,
    "strategies": _strategy,
    "recordings": _recording,
    "datasets": _dataset,
}
