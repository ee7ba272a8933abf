"""Lineage: by command and by SQL alike, and safe to look at."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl
import pytest
from small_lake import STEP, build, call_key, make

from qbawa import ids
from qbawa.errors import InputError
from qbawa.project import Home
from qbawa.storage.lake import Lake
from qbawa.storage.lineage import TABLES, trace

DOC = (Path(__file__).parents[2] / "docs/lineage.md").read_text(encoding="utf-8")
BLOCKS = {block.split("\n", 1)[0].lstrip("- "): block for block in re.findall(r"```sql\n(.*?)```", DOC, re.DOTALL)}
KEYS = {
    "qbawa": "pair_id",
    "matches": "match_id",
    "verdicts": "verdict_id",
    "replay_matrix": "cell_id",
    "calls": "call_key",
    "strategies": "strategy_id",
    "recordings": "recording_id",
    "datasets": "version",
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Lake]:
    return make(tmp_path_factory.mktemp("lineage"))


def found(lake: Lake, id: str) -> dict[str, set[str]]:
    lineage = trace(lake, id)
    return {table: set(lineage.tables[table][key]) for table, key in KEYS.items()}


@pytest.mark.slow
def test_ten_pairs_have_the_same_history_by_command_and_by_the_documented_sql(filled: tuple[Home, Lake]) -> None:
    _, lake = filled
    for pair in lake.read("qbawa")["pair_id"].sort().head(10):
        by_command = found(lake, pair)
        for title, sql in BLOCKS.items():
            table = re.split(r"\W", title)[0]
            if "PAIR" in sql:
                assert set(lake.query(sql.replace("PAIR", pair))[KEYS[table]]) == by_command[table], title


@pytest.mark.slow
def test_inferred_pairs_are_traced_to_the_matches_they_lean_on(tmp_path: Path) -> None:
    _, lake = make(tmp_path, exported=False)
    gone = ids.match_id("r_0", STEP, "s_best", "s_poor")
    lake.replace("matches", ["r_0"], lake.read("matches", blocks=["r_0"]).filter(pl.col("match_id") != gone))
    build(lake)
    pair = (
        lake.read("qbawa").filter((pl.col("request_id") == "r_0") & (pl.col("basis") == "inferred")).row(0, named=True)
    )
    assert set(pair["match_ids"]) == {
        ids.match_id("r_0", STEP, *pair) for pair in (("s_best", "s_good"), ("s_good", "s_poor"))
    }
    history = found(lake, pair["pair_id"])
    assert history["matches"] == set(pair["match_ids"]) and len(history["verdicts"]) == 4
    for title, sql in BLOCKS.items():
        table = re.split(r"\W", title)[0]
        if "PAIR" in sql:
            assert set(lake.query(sql.replace("PAIR", pair["pair_id"]))[KEYS[table]]) == history[table], title


@pytest.mark.slow
def test_every_kind_of_id_leads_to_the_request_and_to_the_dataset(filled: tuple[Home, Lake]) -> None:
    _, lake = filled
    match = ids.match_id("r_2", STEP, "s_best", "s_good")
    pair = lake.read("qbawa").filter(pl.col("match_ids").list.contains(match))["pair_id"][0]
    version = lake.read("datasets")["version"][0]
    starts = {
        "pair": pair,
        "match": match,
        "verdict": ids.verdict_id(match, "judy", "a"),
        "cell": ids.cell_id("r_2", STEP, "s_best"),
        "call": call_key("replay", 2, "s_best"),
        "request": "r_2",
    }
    for kind, id in starts.items():
        lineage = trace(lake, id)
        assert lineage.kind == kind
        assert lineage.tables["recordings"]["recording_id"].to_list() == ["rec_2"], kind
        assert lineage.tables["datasets"]["version"].to_list() == [version], kind
        assert pair in lineage.tables["qbawa"]["pair_id"], kind
    assert trace(lake, call_key("judge", 2, "s_best", "s_good", "a")).tables["qbawa"]["pair_id"].to_list() == [pair]
    assert trace(lake, version).tables["qbawa"].height == 24


@pytest.mark.slow
def test_every_sql_example_of_the_documentation_runs(filled: tuple[Home, Lake]) -> None:
    _, lake = filled
    answers = {title: lake.query(sql) for title, sql in BLOCKS.items()}
    judge = answers["which judge decides most"].row(0, named=True)
    assert judge == {"judge": "judy", "matches": 24, "decided": 24, "share": 1.0}
    cost = answers["dollars per usable pair"].row(0, named=True)
    assert cost["usd_per_pair"] == pytest.approx((24 * 0.001 + 48 * 0.001) / cost["pairs"])
    assert answers["which strategy's answers were worth their cost"]["strategy"][0] == "s_best v1"


def test_an_unknown_id_says_what_can_be_traced(filled: tuple[Home, Lake]) -> None:
    with pytest.raises(InputError, match=r"nope.*pair \(qbawa.pair_id\)"):
        trace(filled[1], "nope")


def test_hostile_text_is_shown_as_text(tmp_path: Path) -> None:
    _, lake = make(tmp_path, exported=False)
    hostile = "\x1b[2J[bold red]owned[/bold red]\u202e<script>"
    rows = lake.read("replay_matrix").with_columns(answer=pl.lit(hostile) + pl.col("answer"))
    lake.replace("replay_matrix", rows["block_id"].unique().to_list(), rows)
    build(lake)
    text = trace(lake, lake.read("qbawa")["pair_id"][0]).text
    assert "\x1b" not in text and "\u202e" not in text
    assert "[bold red]owned[/bold red]" in text


def test_json_holds_every_row(filled: tuple[Home, Lake]) -> None:
    lineage = trace(filled[1], "r_1")
    again = json.loads(json.dumps(lineage.as_json(), default=str))
    assert {name: len(again[name]) for name in TABLES} == {name: lineage.tables[name].height for name in TABLES}
    assert again["kind"] == "request"


@pytest.mark.slow
def test_the_commands_work_on_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from qbawa.cli.export import command as export
    from qbawa.cli.forget import command as forget
    from qbawa.cli.trace import command as show

    home, lake = make(tmp_path, exported=False)
    home.config.write_text("datasets: {d: {p_best: 0.5}, none: {p_best: 1.0}}\n", encoding="utf-8")
    monkeypatch.setenv("QBAWA_HOME", str(home.root))
    run = CliRunner().invoke
    done = run(export, ["d", "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.output)["datasets"]
    assert row["rows"] == 24 and Path(row["path"]).is_dir()
    assert run(export, ["none"]).exit_code == 1
    assert "1 version(s)" in run(export, ["d", "--diff"]).output
    pair = lake.read("qbawa")["pair_id"][0]
    assert json.loads(run(show, [pair, "--json"]).output)["kind"] == "pair"
    assert row["version"] in run(show, ["r_4"]).output
    gone = run(forget, ["r_4", "--json"])
    assert gone.exit_code == 0, gone.output
    assert json.loads(gone.output)["datasets"] == [row["path"]]
    assert lake.read("qbawa")["request_id"].unique().sort().to_list() == [f"r_{k}" for k in (0, 1, 2, 3, 5, 6, 7)]
    assert isinstance(run(show, ["r_4"]).exception, InputError)
