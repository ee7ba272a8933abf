"""Answers of another evaluation: a table (request, strategy, answer) becomes cells of the replay matrix."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from qbawa import __version__
from qbawa.errors import InputError
from qbawa.ids import cell_id, content_id, recorded_id
from qbawa.ingest.formats.step_rows import last_question
from qbawa.ingest.tables import FLOAT, INT, TEXT, TIME, Field, TableReport, read_table, refuse_where
from qbawa.replay.strategies.repository import add_strategies, resolve
from qbawa.storage.frames import BLOCK, now
from qbawa.storage.lake import Lake

FIELDS = (
    Field("request", TEXT, True, ("request_id", "question_id")),
    Field("strategy", TEXT, True, ("strategy_id", "model", "generator")),
    Field("answer", TEXT, True, ("output", "response")),
    Field("question", TEXT, False, ("instruction", "prompt")),
    Field("inputs", TEXT),
    Field("messages", TEXT),
    Field("parameters", TEXT),
    Field("model", TEXT),
    Field("input_tokens", INT),
    Field("output_tokens", INT),
    Field("cost_usd", FLOAT),
    Field("latency_s", FLOAT),
    Field("answered_at", TIME),
)
_OPTIONAL = ("input_tokens", "output_tokens", "cost_usd", "latency_s")
BLOCKS_A_COMMIT = 2_000


def import_answers(
    lake: Lake,
    table: str | Path | pl.DataFrame,
    step: str,
    *,
    columns: Mapping[str, str] | None = None,
    dry_run: bool = False,
    source: str | None = None,
) -> TableReport:
    """Write a table's answers as cells of `step`, its strategies, and its questions as recordings where it has them.

    Columns: `FIELDS`; `columns` maps our name to the table's; `source` says where a frame came from. A cell that exists
    already gets the table's answer. Raises InputError, before anything is written, where columns are missing or a row is
    wrong. Again: nothing changes.
    """
    rows, _ = read_table(table, FIELDS[:2] + (Field("answer", TEXT, False, FIELDS[2].names),) + FIELDS[3:], columns)
    if "answer" not in rows.columns:
        read_table(table, FIELDS, columns)  # says what is missing
    empty = rows["answer"].null_count()
    rows = rows.drop_nulls("answer")
    refuse_where(
        table, rows, pl.struct("request", "strategy").is_duplicated(), "request", "has two answers of one strategy"
    )
    questions = _questions(table, rows, step, source)
    ids = resolve(lake, step, rows["strategy"].unique(maintain_order=True).to_list(), answers=True)
    cells = rows.select(
        pl.col("request").alias("request_id"),
        pl.lit(step).alias("step"),
        pl.col("strategy").replace_strict(ids, return_dtype=TEXT).alias("strategy_id"),
        pl.lit(0, INT).alias("sample"),
        "answer",
        pl.lit("ok").alias("status"),
        *(pl.col(n) if n in rows.columns else pl.lit(None, t).alias(n) for n, t in _optional_types()),
        pl.col("answered_at") if "answered_at" in rows.columns else pl.lit(None, TIME).alias("answered_at"),
    )
    new = _unknown(lake, cells)
    questions = _without_known(lake, questions, step)
    written = {"replay_matrix": new.height, "recordings": questions.height}
    if not dry_run:
        if not questions.is_empty():
            lake.replace("recordings", questions[BLOCK].unique().to_list(), questions)
        models = _models(rows)
        written["strategies"] = add_strategies(lake, step, ids, models)
        digest = hashlib.sha256(new.hash_rows().to_numpy().tobytes()).hexdigest()[:16]
        _write(lake, new, f"import/{digest}")
    skipped = {"no answer": empty} if empty else {}
    return TableReport(
        rows.height + empty,
        written,
        skipped,
        len(ids),
        rows["request"].n_unique(),
        not dry_run and any(written.values()),
    )


def _write(lake: Lake, cells: pl.DataFrame, run_id: str) -> None:
    key = cells.select("request_id", "step", "strategy_id").rows()
    cells = cells.with_columns(
        pl.Series("cell_id", [cell_id(*row) for row in key], TEXT),
        pl.lit([], pl.List(TEXT)).alias("call_keys"),
        pl.lit(run_id).alias("run_id"),
        pl.lit(__version__).alias("code_version"),
        pl.col("answered_at").fill_null(now()),
        pl.col("request_id").alias(BLOCK),
    )
    for part in by_blocks(cells):
        lake.merge("replay_matrix", part)


def by_blocks(rows: pl.DataFrame) -> list[pl.DataFrame]:
    """The rows in parts of at most `BLOCKS_A_COMMIT` blocks."""
    blocks = rows[BLOCK].unique().sort()
    starts = range(0, len(blocks), BLOCKS_A_COMMIT)
    return [rows.filter(pl.col(BLOCK).is_in(blocks[start : start + BLOCKS_A_COMMIT].implode())) for start in starts]


def _optional_types() -> list[tuple[str, pl.DataType]]:
    return [(field.name, field.type) for field in FIELDS if field.name in _OPTIONAL]


def _unknown(lake: Lake, cells: pl.DataFrame) -> pl.DataFrame:
    """Cells that the lake does not hold with this very content."""
    content = [name for name in cells.columns if name != "answered_at"]
    known = lake.read("replay_matrix", content, keep=pl.col("step") == cells["step"][0]) if cells.height else cells
    return cells.join(known.select(content), on=content, how="anti", nulls_equal=True)


def _models(rows: pl.DataFrame) -> dict[str, str | None]:
    if "model" not in rows.columns:
        return {}
    first = rows.unique("strategy", keep="first", maintain_order=True)
    return dict(first.select("strategy", "model").iter_rows())


def _questions(table: str | Path | pl.DataFrame, rows: pl.DataFrame, step: str, source: str | None) -> pl.DataFrame:
    """One recording per request whose question the table tells; it has no output, for production never answered."""
    given = [name for name in ("question", "inputs", "messages", "parameters") if name in rows.columns]
    if not given:
        return pl.DataFrame(schema={"request_id": TEXT, BLOCK: TEXT})
    asked = rows.filter(pl.any_horizontal(pl.col(given).is_not_null()))
    several = pl.struct(given).n_unique().over("request") > 1
    refuse_where(table, asked, several, "request", "has more than one question")
    asked = asked.unique("request", keep="first", maintain_order=True)
    inputs, messages, parameters = [], [], []
    for row in asked.iter_rows(named=True):
        question, talk = row.get("question"), _json(table, row, "messages", list)
        if question is None and talk is not None:
            question = last_question([message for message in json.loads(talk) if isinstance(message, dict)])
        elif question is not None and talk is None:
            talk = json.dumps([{"role": "user", "content": question}], ensure_ascii=False)
        inputs.append(_json(table, row, "inputs", dict) or json.dumps({"question": question}, ensure_ascii=False))
        messages.append(talk)
        parameters.append(_json(table, row, "parameters", dict))
    return asked.select(
        pl.col("request").alias("request_id"),
        pl.Series("recording_id", [content_id("recording", step, r) for r in asked["request"]], TEXT),
        pl.lit(step).alias("step"),
        pl.Series("inputs", inputs, TEXT),
        pl.Series("messages", messages, TEXT),
        pl.Series("parameters", parameters, TEXT),
        pl.lit(recorded_id(step)).alias("strategy_id"),
        pl.lit(source or f"{'table' if isinstance(table, pl.DataFrame) else Path(table).name} (answers)").alias(
            "source"
        ),
        pl.lit(now()).cast(TIME).alias("recorded_at"),
    )


def _json(
    table: str | Path | pl.DataFrame,
    row: dict[str, str | int | None],
    column: str,
    kind: type[dict[str, Any]] | type[list[Any]],
) -> str | None:
    """The cell's JSON text, which must be an object or a list."""
    text = row.get(column)
    if text is None:
        return None
    try:
        if isinstance(json.loads(str(text)), kind):
            return str(text)
    except (ValueError, RecursionError):
        pass
    name = "the table" if isinstance(table, pl.DataFrame) else str(table)
    what = "object" if kind is dict else "list"
    raise InputError(f"{name}, row {row['row']}: `{column}` must be a JSON {what}: {text!r:.80}.")


def _without_known(lake: Lake, questions: pl.DataFrame, step: str) -> pl.DataFrame:
    """Questions of requests of which the step has no recording yet, in a block named after them."""
    if questions.is_empty():
        return questions
    known = lake.read("recordings", ["request_id"], keep=pl.col("step") == step)
    new = questions.join(known, on="request_id", how="anti")
    digest = hashlib.sha256("\n".join([step, *new["request_id"]]).encode()).hexdigest()[:16]
    return new.with_columns(pl.lit(f"import/table-{digest}").alias(BLOCK))
