"""A catalog that is published again takes over the views of tables that have not changed, and no others."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest

from qbawa.storage import catalog
from qbawa.storage.catalog import pinned_versions, publish
from qbawa.storage.frames import frame
from qbawa.storage.lake import Lake

pytestmark = pytest.mark.slow


def match(name: str, winner: str = "a") -> dict[str, str]:
    return {"match_id": name, "winner": winner, "block_id": "r1"}


def write(lake: Lake, table: str, *rows: dict[str, str]) -> None:
    lake.replace(table, ["r1"], frame(table, rows))


def ask(path: Path, sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(sql).fetchall()


@pytest.fixture
def published(tmp_path: Path) -> tuple[Lake, Path]:
    """A lake with a match and a verdict, in the catalog."""
    lake, path = Lake(tmp_path / "lake"), tmp_path / "catalog.duckdb"
    write(lake, "matches", match("m1"))
    write(lake, "verdicts", {"verdict_id": "v1", "block_id": "r1"})
    publish(lake, path)
    return lake, path


def test_each_publication_shows_all_tables_as_they_are(published: tuple[Lake, Path]) -> None:
    lake, path = published
    for round in range(8):
        write(lake, "matches", match(f"m{round}"), match("other"))
        if round % 4 == 0:
            write(lake, "verdicts", {"verdict_id": f"v{round}", "block_id": "r1"})
        assert publish(lake, path) and pinned_versions(path) == lake.versions()
        assert ask(path, "SELECT match_id FROM matches ORDER BY 1") == [(f"m{round}",), ("other",)]
        assert ask(path, "SELECT verdict_id FROM verdicts") == [(f"v{round - round % 4}",)]
    undescribed = "SELECT column_name FROM duckdb_columns() WHERE table_name = 'matches' AND comment IS NULL"
    assert ask(path, undescribed) == [] and path.stat().st_size < 600_000, "views that were replaced take no room"


def test_a_process_that_was_killed_between_table_and_catalog_is_made_up_for(published: tuple[Lake, Path]) -> None:
    lake, path = published
    write(lake, "matches", match("m2"))  # and killed: nothing is published
    assert publish(Lake(lake.uri), path)
    assert ask(path, "SELECT match_id FROM matches") == [("m2",)]


def test_a_catalog_that_was_put_back_is_not_taken_for_the_one_before(published: tuple[Lake, Path]) -> None:
    lake, path = published
    shutil.copy(path, path.with_suffix(".old"))
    write(lake, "matches", match("m2"))
    assert publish(lake, path)
    shutil.copy(path.with_suffix(".old"), path)
    assert publish(lake, path)
    assert ask(path, "SELECT match_id FROM matches") == [("m2",)]


def test_after_an_upgrade_every_view_is_written_again(
    published: tuple[Lake, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, path = published
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE OR REPLACE VIEW verdicts AS SELECT 'as an older qbawa wrote it' AS verdict_id")
    monkeypatch.setattr(catalog, "_LAYOUT", "a newer qbawa's")
    assert publish(lake, path)
    assert ask(path, "SELECT verdict_id FROM verdicts") == [("v1",)]
    assert not publish(lake, path)


def test_a_table_that_was_made_anew_is_another_even_at_the_same_version(published: tuple[Lake, Path]) -> None:
    lake, path = published
    version = lake.versions()["verdicts"]
    shutil.rmtree(Path(lake.uri) / "verdicts")
    again = Lake(lake.uri)
    write(again, "verdicts", {"verdict_id": "v2", "block_id": "r1"})
    write(again, "matches", match("m2"))
    assert again.versions()["verdicts"] == version and publish(again, path)
    assert ask(path, "SELECT verdict_id FROM verdicts") == [("v2",)]
