"""Rows of a CSV or TSV file as records."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from qbawa.errors import InputError
from qbawa.ingest.formats.records import Record
from qbawa.ingest.line_reader import open_bytes

MAX_CELL = 64 << 20


def csv_records(path: Path) -> Iterator[Record]:
    """Every row by the names of its columns, all text; an empty cell is null. Raises InputError where it is no table."""
    csv.field_size_limit(MAX_CELL)
    try:
        with open_bytes(path) as file:
            lines = (line.decode("utf-8-sig" if number == 0 else "utf-8") for number, line in enumerate(file))
            first = next(lines, "")
            separator = max(",\t;", key=first.count)
            names = next(csv.reader([first], delimiter=separator), [])
            rows = csv.DictReader(lines, names, restkey="", delimiter=separator)
            for number, row in enumerate(rows, 1):
                value = {name: cell or None for name, cell in row.items()}
                yield Record(number, json.dumps(value, ensure_ascii=False).encode(), value)
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no readable CSV: {error}") from None
