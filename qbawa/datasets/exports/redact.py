"""Nothing personal and no secret leaves by accident.

Secrets (API keys, tokens, passwords) are looked for in every export: a pair that holds one is left out, or, where the
dataset says `redact: [key]`, published without it. E-mail addresses, phone numbers and names are replaced on demand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import orjson
import polars as pl

from qbawa.datasets.pairs.pair_ids import distinct
from qbawa.errors import ConfigError
from qbawa.model_apis.tool_answers import calls_of
from qbawa.record.redact import PERSONAL, SECRETS, Pattern, Redactor

Kind = Literal["email", "phone", "key", "name"]
_MARK = {"email": "[email]", "phone": "[phone]", "key": "[key]", "name": "[name]"}


def clean_pairs(rows: pl.DataFrame, redact: Sequence[Kind], removed: Counter[str]) -> pl.DataFrame:
    """The pairs without secrets and with the asked kinds replaced by [email], [phone], [key], [name].

    A pair whose two answers differed only in what was replaced is left out. Raises ConfigError where `name` is asked and the
    extra that finds names is not installed.
    """
    finders = [_finder(kind) for kind in redact]

    def clean(text: str) -> str:
        for find in finders:
            text = find(text)
        return text

    def clean_question(text: str) -> str:
        return orjson.dumps(_each_text(orjson.loads(text), clean)).decode() if _is_json(text) else clean(text)

    def clean_answer(text: str) -> str:
        # A number replaced in the middle of a call would leave no JSON.
        return clean(text) if calls_of(text) is None else clean_question(text)

    if "key" not in redact:
        secret = pl.Series([False]).new_from_index(0, rows.height)
        for name in _texts(rows, "question", "parameters", "best_answer", "worse_answer"):
            secret = secret | _per_text(rows[name], holds_secret, pl.Boolean).fill_null(False)
        removed["holds a secret"] += int(secret.sum())
        rows = rows.filter(~secret) if secret.any() else rows
    if not finders:
        return rows
    changes = {name: clean_question for name in _texts(rows, "question", "parameters")}
    for name, change in (*changes.items(), ("best_answer", clean_answer), ("worse_answer", clean_answer)):
        rows = rows.with_columns(_per_text(rows[name], change, pl.String).alias(name))
    kept = rows.filter(pl.col("best_answer") != pl.col("worse_answer"))
    removed["equal once redacted"] += rows.height - kept.height
    return kept


def _texts(rows: pl.DataFrame, *names: str) -> list[str]:
    """Those of the columns that hold anything."""
    return [name for name in names if name in rows.columns and rows[name].null_count() < rows.height]


_SCREEN = Redactor()


def holds_secret(text: str) -> bool:
    """Whether a text, or a string inside a JSON text, looks like it holds an API key, a token or a password."""
    if not _SCREEN.may_hold(text) and not _SCREEN.may_hold(orjson.dumps(text).decode()):
        return False
    texts: list[str] = []
    _each_text(orjson.loads(text) if _is_json(text) else text, lambda inner: texts.append(inner) or inner)  # type: ignore[func-returns-value]
    return any(_hit(SECRETS, inner) for inner in texts)


def _per_text(texts: pl.Series, look: Callable[[str], Any], kind: type[pl.DataType]) -> pl.Series:
    """What `look` makes of each text; an answer stands in many pairs, but is looked at once."""
    key, table = distinct(texts)
    found = table.select("key").with_columns(
        found=pl.Series([None if text is None else look(text) for text in table["text"]], dtype=kind)
    )
    return key.to_frame().join(found, on="key", how="left", maintain_order="left")["found"]


def _finder(kind: Kind) -> Callable[[str], str]:
    if kind == "name":
        return _names()
    patterns = SECRETS if kind == "key" else tuple(pattern for pattern in PERSONAL if pattern.name == kind)
    mark = _MARK[kind]

    def replace(text: str) -> str:
        for pattern in patterns:
            text = pattern.regex.sub(lambda match, p=pattern: mark if _sure(p, match[0]) else match[0], text)  # type: ignore[misc]
        return text

    return replace


def _hit(patterns: Sequence[Pattern], text: str) -> bool:
    return any(_sure(pattern, match[0]) for pattern in patterns for match in pattern.regex.finditer(text))


def _sure(pattern: Pattern, found: str) -> bool:
    return pattern.confirms is None or pattern.confirms(found)


def _is_json(text: str) -> bool:
    if not text.startswith(("[", "{")):
        return False
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """JSON with every string changed; keys stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_each_text(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _each_text(item, _inside(change) if key == "arguments" else change) for key, item in value.items()}
    return value


def _inside(change: Callable[[str], str]) -> Callable[[str], str]:
    """`change` for the arguments of a tool call, which are JSON text and stay that."""

    def changed(text: str) -> str:
        return orjson.dumps(_each_text(orjson.loads(text), change)).decode() if _is_json(text) else change(text)

    return changed


def _names() -> Callable[[str], str]:
    try:
        from presidio_analyzer import AnalyzerEngine
    except ImportError:
        raise ConfigError(
            "`redact: [name]` needs the extra that finds names: pip install 'qbawa[redact]' "
            "(presidio-analyzer), then python -m spacy download en_core_web_lg."
        ) from None
    engine = AnalyzerEngine()

    def replace(text: str) -> str:
        found = engine.analyze(text=text, entities=["PERSON"], language="en")
        for hit in sorted(found, key=lambda hit: hit.start, reverse=True):
            text = text[: hit.start] + _MARK["name"] + text[hit.end :]
        return text

    return replace
