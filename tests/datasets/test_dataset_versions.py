"""Versions of datasets: one for each set of pairs, none for what is told about them, and old ones go where that is asked."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from small_lake import STEP, build, fill

from qbawa.datasets.exports.manifest import read_manifest
from qbawa.datasets.exports.prune import files_of, unneeded
from qbawa.datasets.stage import Exported, export_datasets
from qbawa.erasure import forget
from qbawa.project import Home, Project, open_project
from qbawa.storage.frames import frame
from qbawa.storage.lake import Lake
from qbawa.storage.lineage import trace

pytestmark = pytest.mark.slow
CONFIG = "datasets: {d: {format: trl_preference, p_best: 0.5}}\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("built"))
    home.config.write_text(CONFIG)
    fill(Lake(home.lake))
    build(Lake(home.lake))
    return home


@pytest.fixture
def project(built: Home, tmp_path: Path) -> Project:
    return open_project(Home(shutil.copytree(built.root, tmp_path / "home")))


@pytest.fixture(scope="module")
def pairs(built: Home) -> pl.DataFrame:
    return Lake(built.lake).read("qbawa").sort("pair_id")


def keeping(project: Project, keep: int, more: str = "") -> Project:
    project.home.config.write_text(CONFIG.replace("p_best: 0.5", f"p_best: 0.5, keep: {keep}") + more)
    return open_project(project.home)


def export_pairs(project: Project, pairs: pl.DataFrame) -> str:
    """Export these pairs; the version."""
    project.lake.replace("qbawa", [STEP], pairs)
    return str(export_datasets(project).rows["version"].item())


def files(project: Project) -> dict[str, int]:
    folder = project.home.exports
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def other_traffic(project: Project, night: int) -> None:
    """A night that brings requests, bills and verdicts on matches, and no other pair."""
    lake = project.lake
    asked = lake.read("recordings", blocks=["b_1"]).head(1).with_columns(
        request_id=pl.lit(f"night_{night}"), recording_id=pl.lit(f"night_{night}"), block_id=pl.lit(f"night_{night}"),
        source=pl.lit("x.jsonl (journal)"),
    )  # fmt: skip
    lake.replace("recordings", [f"night_{night}"], asked)
    paid = lake.read("calls").head(1).with_columns(call_key=pl.lit(f"night_{night}"), block_id=pl.lit(f"night_{night}"))
    lake.replace("calls", [f"night_{night}"], paid.with_columns(step=pl.lit(STEP), cost_usd=pl.lit(1.0)))
    judged = {"step": STEP, "judge": "judy", "verdicts": 48 + night, "position_bias": night / 100, "block_id": STEP}
    lake.replace("judge_reliability", [STEP], frame("judge_reliability", [judged]))
    pairs = lake.read("qbawa")
    lake.replace("qbawa", [STEP], pairs.with_columns(p_best=pl.col("p_best") - 1e-4, margin=pl.col("margin") + 1e-4))


def test_nights_without_another_pair_make_no_version_and_write_nothing(project: Project) -> None:
    first = export_datasets(project).rows
    before, noted = files(project), project.lake.state("datasets")
    for night in range(3):
        other_traffic(project, night)
        again = export_datasets(project).rows
        assert again.select("version", "sha256").equals(first.select("version", "sha256"))
    assert files(project) == before and project.lake.state("datasets") == noted


def test_one_new_pair_makes_exactly_one_version(project: Project, pairs: pl.DataFrame) -> None:
    fewer = export_pairs(project, pairs.head(23))
    other_traffic(project, 1)
    more = export_pairs(project, pairs.head(24))
    export_datasets(project)
    assert fewer != more
    assert sorted(project.lake.read("datasets")["version"]) == sorted([fewer, more])
    assert {path.name for path in (project.home.exports / "d").iterdir()} == {fewer, more}


def test_another_split_or_another_text_is_another_version(project: Project, pairs: pl.DataFrame) -> None:
    versions = {export_pairs(project, pairs.head(24))}
    for change in ({"split": pl.lit("train")}, {"question": pl.col("question").str.replace("Please", "Do")}):
        project.lake.replace("qbawa", [STEP], pairs.with_columns(**change))
        versions.add(export_datasets(project).rows["version"].item())
    assert len(versions) == 3


def test_noting_a_version_does_not_write_the_others_again(project: Project, pairs: pl.DataFrame) -> None:
    export_pairs(project, pairs.head(22))
    held = set(project.lake.files("datasets"))
    for count in (23, 24):
        export_pairs(project, pairs.head(count))
        assert held < set(project.lake.files("datasets")), "the files of earlier versions are the same"
        held = set(project.lake.files("datasets"))


def test_how_many_are_kept_is_no_part_of_the_version(project: Project, pairs: pl.DataFrame) -> None:
    version = export_pairs(project, pairs.head(24))
    assert export_pairs(keeping(project, 7), pairs.head(24)) == version


def test_older_versions_go_and_are_still_known(project: Project, pairs: pl.DataFrame) -> None:
    old = export_pairs(project, pairs.head(21))
    [pair, *_] = project.lake.read("qbawa")["pair_id"]
    middle = export_pairs(project, pairs.head(22))
    kept = keeping(project, 2)
    newest = export_pairs(kept, pairs.head(23))
    assert {path.name for path in (project.home.exports / "d").iterdir()} == {middle, newest}
    rows = kept.lake.read("datasets")
    assert rows.filter(pl.col("pruned_at").is_not_null())["version"].to_list() == [old]
    # What points to it still finds it.
    assert trace(kept.lake, old).tables["qbawa"].height == 21
    assert set(trace(kept.lake, pair).tables["datasets"]["version"]) == {old, middle, newest}
    assert "files deleted" in trace(kept.lake, old).text
    report = forget(kept.lake, kept.home, kept.lake.read("qbawa")["request_id"][0])
    assert any(old in path for path in report.datasets), "somebody may have a copy"


def test_a_version_that_comes_back_is_written_again_and_is_the_last_to_go(
    project: Project, pairs: pl.DataFrame
) -> None:
    kept = keeping(project, 1)
    first, second = export_pairs(kept, pairs.head(21)), export_pairs(kept, pairs.head(22))
    assert {path.name for path in (project.home.exports / "d").iterdir()} == {second}
    assert export_pairs(kept, pairs.head(21)) == first
    assert {path.name for path in (project.home.exports / "d").iterdir()} == {first}
    rows = kept.lake.read("datasets")
    assert dict(rows.select("version", pl.col("pruned_at").is_null()).iter_rows()) == {first: True, second: False}
    assert read_manifest(project.home.exports / "d" / first)["version"] == first


def test_what_a_strategy_a_champion_or_the_configuration_names_stays(project: Project, pairs: pl.DataFrame) -> None:
    by_strategy, by_champion, by_config, nobody = (
        export_pairs(project, pairs.head(count)) for count in (19, 20, 21, 22)
    )
    strategy = project.lake.read("strategies").head(1)
    tuned = strategy.with_columns(strategy_id=pl.lit("tuned"), params=pl.lit(f'{{"trained_on": "d {by_strategy}"}}'))
    project.lake.merge("strategies", tuned)
    at = datetime(2026, 11, 1, tzinfo=UTC)
    won = {"step": STEP, "strategy_id": "tuned", "promoted_at": at, "evidence": f'{{"dataset": "{by_champion}"}}'}
    project.lake.merge("champions", frame("champions", [won | {"block_id": STEP}]))
    newest = export_pairs(keeping(project, 1, f"# our app was trained on {by_config}\n"), pairs.head(23))
    left = {path.name for path in (project.home.exports / "d").iterdir()}
    assert left == {by_strategy, by_champion, by_config, newest} and nobody not in left


def test_nothing_outside_the_exports_is_deleted(project: Project, pairs: pl.DataFrame, tmp_path: Path) -> None:
    inside = [export_pairs(project, pairs.head(count)) for count in (20, 21, 22)]
    folder = project.home.exports / "d"
    linked, moved, renamed = tmp_path / "linked", tmp_path / "moved", folder / inside[2]
    # A version whose place is a link, one that the table has elsewhere, and a folder that holds another version.
    (folder / inside[0]).rename(linked)
    (folder / inside[0]).symlink_to(linked)
    (folder / inside[1]).rename(moved)
    rows = project.lake.read("datasets", keep=pl.col("version") == inside[1])
    project.lake.merge("datasets", rows.with_columns(path=pl.lit(str(moved))))
    manifest = renamed / "manifest.json"
    manifest.write_text(manifest.read_text().replace(inside[2], "0123456789ab"))
    kept = keeping(project, 1)
    export_pairs(kept, pairs.head(23))
    assert all((place / "manifest.json").exists() for place in (linked, moved, renamed))
    assert kept.lake.read("datasets")["pruned_at"].null_count() == 4
    (folder / inside[0]).unlink()
    linked.rename(folder / inside[0])
    assert export_datasets(kept).pruned == [f"exports/d/{inside[0]}"]


def test_deletion_that_was_interrupted_is_finished_by_the_next_export(project: Project, pairs: pl.DataFrame) -> None:
    old, newest = export_pairs(project, pairs.head(21)), export_pairs(project, pairs.head(22))
    rows = project.lake.read("datasets", keep=pl.col("version") == old)
    project.lake.merge("datasets", rows.with_columns(pruned_at=pl.lit(datetime.now(UTC))))
    done: Exported = export_datasets(keeping(project, 2))
    assert {path.name for path in (project.home.exports / "d").iterdir()} == {newest} and not done.refused
    assert files_of(project.home.exports, "d", newest) is not None


def test_the_newest_the_current_and_the_named_are_needed() -> None:
    at = datetime(2026, 11, 1, tzinfo=UTC)
    versions = pl.DataFrame(
        {
            "version": ["0a", "0b", "0c", "0d", "0e"],
            "created_at": [at + timedelta(days=day) for day in range(5)],
            "pruned_at": [None, None, at, None, None],
        }
    )
    assert unneeded(versions, 2, "0e", []) == ["0a", "0b"]
    assert unneeded(versions, 2, "0a", []) == ["0b", "0d"]
    assert unneeded(versions, 1, "0e", ["trained on 0b", ""]) == ["0a", "0d"]
    assert unneeded(versions, 9, "0e", []) == []
