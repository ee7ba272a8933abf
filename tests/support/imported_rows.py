"""A file imported into a lake of its own, its rows with their JSON read."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from qbawa.importing import ImportReport, import_file
from qbawa.storage.lake import Lake

FIXTURES = Path(__file__).parents[1] / "fixtures" / "imports"
# Real files of other systems, beside the checkout.
FOREIGN = Path(__file__).parents[2] / "../shared/data/foreign"


class Imported(NamedTuple):
    report: ImportReport
    rows: list[dict[str, Any]]
    lake: Lake

    def row(self, recording_id: str) -> dict[str, Any]:
        (found,) = [row for row in self.rows if row["recording_id"] == recording_id]
        return found

    def calls(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["messages"]]


def imported(folder: Path, path: Path, **options: Any) -> Imported:
    """What becomes of the file; `output` is read too where it is an object or a list."""
    lake = Lake(folder / "lake")
    report = import_file(lake, path, **options)
    rows = lake.read("recordings").sort("recorded_at", "recording_id").to_dicts()
    for row in rows:
        for column in ("inputs", "messages", "parameters", "error", "tags", "request"):
            row[column] = json.loads(row[column]) if row[column] else None
        if (row["output"] or "")[:1] in ("{", "["):
            with suppress(ValueError):
                row["output"] = json.loads(row["output"])
    return Imported(report, rows, lake)


def calls_of(output: Any) -> list[tuple[str, Any]]:
    """Names and arguments of the tool calls of an answer."""
    return [(call["function"]["name"], call["function"]["arguments"]) for call in output["tool_calls"]]
