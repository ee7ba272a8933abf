"""What the log of a Delta table on disk says, without what reads Delta tables. Standard library only."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

# A commit, or a checkpoint of it, which stays when commits are cleaned away.
_COMMIT = re.compile(r"(\d{20})\.(?:json|checkpoint\.parquet)")


def newest_commit(table: Path) -> int | None:
    """Version of a Delta table on disk, a hundredth of the cost of opening it; None where there is no table."""
    try:
        found = (_COMMIT.fullmatch(name) for name in os.listdir(table / "_delta_log"))
    except OSError:
        return None
    return max((int(match[1]) for match in found if match), default=None)


def files_added(table: Path, after: int, to: int) -> list[str] | None:
    """Names of the files that commits after one version, up to another, have brought with new rows in them.

    Those that later commits removed are among them, those that only join others are not. None where a commit's text is gone.
    """
    found = []
    try:
        for version in range(after + 1, to + 1):
            for line in (table / "_delta_log" / f"{version:020}.json").read_text().splitlines():
                added = json.loads(line).get("add")
                if added and added.get("dataChange", True):
                    found.append(str(added["path"]).rsplit("/", 1)[-1])
    except (OSError, ValueError):
        return None
    return found


def versions_on_disk(lake: str, tables: Iterable[str]) -> dict[str, int] | None:
    """Versions of these tables of a lake; None where one is not there, or the lake is no folder of this machine."""
    if "://" in lake:
        return None
    found = {name: newest_commit(Path(lake, name)) for name in tables}
    known = {name: version for name, version in found.items() if version is not None}
    return known if len(known) == len(found) else None
