"""Tables of answers become cells, tables of preferences become matches and verdicts; a wrong table changes nothing."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from anchor_data import ANCHORS, needs_anchors
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qbawa.errors import InputError
from qbawa.ids import cell_id, match_id, recorded_id, verdict_id
from qbawa.replay.import_answers import import_answers
from qbawa.storage.frames import frame
from qbawa.storage.lake import Lake
from qbawa.tournaments.decide import unweighted
from qbawa.tournaments.import_verdicts import import_verdicts

ANSWERS = "request,strategy,answer,question,cost_usd\n001,m-1,red,Colour?,0.5\n001,m-2,blue,Colour?,\n002,m-1,two,Number?,0.25\n"
VERDICTS = (
    "request,strategy_a,strategy_b,judge,preference,verdict,order_shown\n"
    "001,m-1,m-2,j,0.9,,a\n001,m-2,m-1,j,0.3,,m-1\n001,m-1,m-2,k,,tie,\n002,m-1,m-2,j,,m-2,m-2\n002,m-1,m-2,k,,,b\n"
)
_VERDICT_COLUMNS = ["request", "strategy_a", "strategy_b", "judge", "verdict"]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def names(lake: Lake) -> dict[str, str]:
    return dict(lake.read("strategies", ["name", "strategy_id"]).iter_rows())


def test_answers_become_cells_strategies_and_questions(lake: Lake, tmp_path: Path) -> None:
    report = import_answers(lake, write(tmp_path, "a.csv", ANSWERS), "quiz")
    ids = names(lake)
    cells = {(c["request_id"], c["strategy_id"]): c for c in lake.read("replay_matrix").to_dicts()}
    assert {(r, s): c["answer"] for (r, s), c in cells.items()} == {
        ("001", ids["m-1"]): "red", ("001", ids["m-2"]): "blue", ("002", ids["m-1"]): "two",
    }  # fmt: skip
    red = cells["001", ids["m-1"]]
    assert red["cell_id"] == cell_id("001", "quiz", ids["m-1"]) and red["status"] == "ok" and red["sample"] == 0
    assert red["cost_usd"] == 0.5 and cells["001", ids["m-2"]]["cost_usd"] is None and red["block_id"] == "001"
    questions = {row["request_id"]: row for row in lake.read("recordings").to_dicts()}
    assert json.loads(questions["002"]["messages"]) == [{"role": "user", "content": "Number?"}]
    assert json.loads(questions["001"]["inputs"]) == {"question": "Colour?"} and questions["001"]["output"] is None
    assert set(lake.read("strategies")["origin"]) == {"import"}
    assert report.written == {"replay_matrix": 3, "recordings": 2, "strategies": 2} and report.requests == 2


def test_verdicts_become_matches_in_canonical_orientation(lake: Lake, tmp_path: Path) -> None:
    import_answers(lake, write(tmp_path, "a.csv", ANSWERS), "quiz")
    import_verdicts(lake, write(tmp_path, "v.csv", VERDICTS), "quiz")
    one, two = (names(lake)[name] for name in ("m-1", "m-2"))
    matches = {m["request_id"]: m for m in lake.read("matches").to_dicts()}
    first = matches["001"]
    assert (first["strategy_a"], first["strategy_b"]) == (min(one, two), max(one, two))
    assert (
        first["match_id"] == match_id("001", "quiz", two, one) and first["round"] == 0 and first["origin"] == "imported"
    )
    assert first["cell_a"] == cell_id("001", "quiz", first["strategy_a"])
    # .9 for m-1, .7 for m-1 (the second row has it as b), a tie
    p_one = first["p_a"] if first["strategy_a"] == one else 1 - first["p_a"]
    assert p_one == pytest.approx((0.9 + 0.7 + 0.5) / 3) and (first["verdicts"], first["unscored"]) == (3, 0)
    assert first["winner"] == ("a" if first["strategy_a"] == one else "b") and first["dissent"] == 0
    assert (matches["002"]["verdicts"], matches["002"]["unscored"]) == (1, 1)
    assert matches["002"]["winner"] == ("a" if first["strategy_a"] == two else "b")
    for row in lake.read("verdicts").filter(pl.col("judge") == "j", pl.col("request_id") == "001").to_dicts():
        assert row["shown_first"] == ("a" if first["strategy_a"] == one else "b")  # m-1 both times
        assert row["judge_kind"] == "imported" and row["step"] == "quiz"
    unscored = lake.read("verdicts", keep=pl.col("verdict") == "unscored").to_dicts()
    assert len(unscored) == 1 and unscored[0]["preference"] is None


def test_importing_again_changes_nothing_and_more_rows_only_add(lake: Lake, tmp_path: Path) -> None:
    answers, verdicts = write(tmp_path, "a.csv", ANSWERS), write(tmp_path, "v.csv", VERDICTS)
    import_answers(lake, answers, "quiz"), import_verdicts(lake, verdicts, "quiz")
    versions = lake.versions()
    assert not import_answers(lake, answers, "quiz").changed and not import_verdicts(lake, verdicts, "quiz").changed
    assert lake.versions() == versions
    answers.write_text(ANSWERS + "003,m-1,x,Why?,\n")
    verdicts.write_text(VERDICTS + "002,m-1,m-2,people,1,,\n")
    assert import_answers(lake, answers, "quiz").written["replay_matrix"] == 1
    assert import_verdicts(lake, verdicts, "quiz").written["verdicts"] == 1
    match = lake.read("matches", keep=pl.col("request_id") == "002").to_dicts()[0]
    assert (match["verdicts"], match["p_a"], match["winner"]) == (2, 0.5, "tie") and match["dissent"] is None


def test_a_changed_answer_replaces_the_cell(lake: Lake, tmp_path: Path) -> None:
    import_answers(lake, write(tmp_path, "a.csv", ANSWERS), "quiz")
    import_answers(lake, write(tmp_path, "a.csv", ANSWERS.replace("blue", "green")), "quiz")
    assert sorted(lake.read("replay_matrix")["answer"]) == ["green", "red", "two"]


def test_a_second_vote_of_the_same_judge_is_kept(lake: Lake, tmp_path: Path) -> None:
    rows = "request,strategy_a,strategy_b,judge,verdict\n" + "1,x,y,crowd,a\n1,x,y,crowd,b\n1,y,x,crowd,b\n"
    path = write(tmp_path, "v.csv", rows)
    import_verdicts(lake, path, "quiz", kind="human")
    (match,) = lake.read("matches").to_dicts()
    p_x = match["p_a"] if match["strategy_a"] == names(lake)["x"] else 1 - match["p_a"]
    assert match["verdicts"] == 3 and p_x == pytest.approx(2 / 3) and match["dissent"] == pytest.approx(1 / 3)
    assert set(lake.read("verdicts")["judge_kind"]) == {"human"}
    assert not import_verdicts(lake, path, "quiz", kind="human").changed


def test_a_match_of_a_tournament_keeps_its_place_when_verdicts_are_added(lake: Lake) -> None:
    a, b = "s_a", "s_b"
    match = match_id("1", "quiz", a, b)
    common = {"match_id": match, "request_id": "1", "step": "quiz", "block_id": "1"}
    for name in (a, b):
        row = {"strategy_id": name, "name": name, "step": "quiz", "active": True, "block_id": "quiz"}
        lake.merge("strategies", frame("strategies", [row]))
    lost = {"origin": "tournament", "p_a": 0.0, "winner": "b", "verdicts": 1, "unscored": 0}
    lake.merge("matches", frame("matches", [common | lost | {"round": 3, "slot": 2, "strategy_a": a, "strategy_b": b}]))
    said = {"judge": "j", "judge_kind": "llm", "shown_first": "a", "verdict": "b", "preference": 0.0}
    lake.merge("verdicts", frame("verdicts", [common | said | {"verdict_id": verdict_id(match, "j", "a")}]))
    votes = pl.DataFrame([["1", a, b, "p", "a"], ["1", a, b, "q", "a"]], schema=_VERDICT_COLUMNS, orient="row")
    import_verdicts(lake, votes, "quiz", kind="human")
    (row,) = lake.read("matches").to_dicts()
    assert (row["round"], row["slot"], row["origin"]) == (3, 2, "tournament")
    assert (row["verdicts"], row["winner"]) == (3, "a") and row["p_a"] == pytest.approx(2 / 3)


def test_names_mean_the_strategies_that_are_there(lake: Lake) -> None:
    rows = [
        {"strategy_id": "s_1", "name": "terse", "step": "quiz", "active": True, "block_id": "quiz"},
        {"strategy_id": "s_0", "name": "terse", "step": "quiz", "active": False, "block_id": "quiz"},
    ]
    lake.merge("strategies", frame("strategies", rows))
    rows_ = [["1", "terse", "recorded", "j", "a"], ["1", "s_0", "other", "j", "a"]]
    table = pl.DataFrame(rows_, schema=_VERDICT_COLUMNS, orient="row")
    import_verdicts(lake, table, "quiz")
    met = {frozenset(pair) for pair in lake.read("matches", ["strategy_a", "strategy_b"]).iter_rows()}
    other = lake.read("strategies", keep=pl.col("name") == "other")["strategy_id"][0]
    assert met == {frozenset({"s_1", recorded_id("quiz")}), frozenset({"s_0", other})}


_WRONG: list[tuple[str, str, str]] = [
    ("answers", "request,model\n1,m\n", "lacks the columns answer. Present: request, model. Required: request, strategy, answer"),
    ("answers", "request,strategy,answer\n1,m,x\n1,m,y\n", "row 1: `request` has two answers of one strategy"),
    ("answers", "request,strategy,answer\n,m,x\n", "row 1: `request` is empty"),
    ("answers", "request,strategy,answer,cost_usd\n1,m,x,cheap\n", "row 1: `cost_usd` is no number: 'cheap'"),
    ("answers", "request,strategy,answer,inputs\n1,m,x,[1]\n", "row 1: `inputs` must be a JSON object"),
    ("answers", "request,strategy,answer,question\n1,m,x,A\n1,n,x,B\n", "has more than one question"),
    ("answers", "request,strategy,answer,answered_at\n1,m,x,soon\n", "row 1: `answered_at` is no time"),
    ("verdicts", "request,strategy_a,strategy_b,judge\n1,x,y,j\n", "lacks the columns preference"),
    ("verdicts", "request,strategy_a,strategy_b,judge,preference\n1,x,y,j,1.5\n", "must lie between 0 and 1"),
    ("verdicts", "request,strategy_a,strategy_b,judge,verdict\n1,x,y,j,z\n", "must be a, b, tie, unscored"),
    ("verdicts", "request,strategy_a,strategy_b,judge,verdict,order_shown\n1,x,y,j,a,z\n", "`order_shown` must be a, b"),
    ("verdicts", "request,strategy_a,strategy_b,judge,verdict,preference\n1,x,y,j,a,0.1\n", "contradicts"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "message"), _WRONG)
def test_a_wrong_table_is_refused_before_anything_is_written(
    lake: Lake, tmp_path: Path, kind: str, text: str, message: str
) -> None:
    path = write(tmp_path, "t.csv", text)
    with pytest.raises(InputError) as error:
        (import_answers if kind == "answers" else import_verdicts)(lake, path, "quiz")
    assert message in str(error.value) and "t.csv" in str(error.value)
    assert not Path(lake.uri).exists() or all(
        lake.read(t).is_empty() for t in ("replay_matrix", "verdicts", "strategies")
    )


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"PAR1junk", b'{"a":'])
def test_what_is_no_table_is_refused(lake: Lake, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match="t.csv"):
        import_answers(lake, tmp_path / "t.csv", "quiz")


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_every_kind_of_file_says_the_same(lake: Lake, tmp_path: Path, kind: str) -> None:
    rows = {"qid": ["007", "8"], "m": ["x", "x"], "text": ["a,\tb\n", "c"], "cost_usd": [0.5, None]}
    table, path = pl.DataFrame(rows), tmp_path / f"t.{kind}"
    {
        "csv": lambda: table.write_csv(path),
        "tsv": lambda: table.write_csv(path, separator="\t"),
        "jsonl": lambda: table.write_ndjson(path),
        "json": lambda: table.write_json(path),
        "parquet": lambda: table.write_parquet(path),
    }[kind]()
    import_answers(lake, path, "quiz", columns={"request": "qid", "strategy": "m", "answer": "text"})
    cells = lake.read("replay_matrix", ["request_id", "answer", "cost_usd"]).sort("request_id").rows()
    assert cells == [("007", "a,\tb\n", 0.5), ("8", "c", None)]


_cases = st.lists(
    st.tuples(
        st.sampled_from("12"),
        st.sampled_from([("x", "y"), ("y", "x"), ("x", "z"), ("z", "y")]),
        st.sampled_from("jk"),
        st.sampled_from([None, 0.0, 0.25, 0.5, 0.75, 1.0]),
        st.sampled_from([None, "a", "b"]),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_cases)
def test_swapping_the_sides_of_a_table_changes_nothing(tmp_path_factory: Any, cases: list[Any]) -> None:
    flip = {"a": "b", "b": "a", None: None}
    found = []
    for swap in (False, True):
        rows = [
            [r, b, a, j, None if p is None else 1 - p, flip[o]] if swap else [r, a, b, j, p, o]
            for r, (a, b), j, p, o in cases
        ]
        schema = dict.fromkeys([*_VERDICT_COLUMNS[:4], "preference", "order_shown"], pl.String) | {
            "preference": pl.Float64
        }
        table = pl.DataFrame(rows, schema=schema, orient="row")
        own = Lake(tmp_path_factory.mktemp("lake"))
        import_verdicts(own, table, "s")
        said = own.read("verdicts").drop("judged_at").sort("verdict_id")
        met = own.read("matches").drop("decided_at", "slot").sort("match_id")
        assert said.height == len(cases) and unweighted(said).height == met.height
        found.append((said, met))
    assert found[0][0].equals(found[1][0]) and found[0][1].equals(found[1][1])


@pytest.mark.slow
def test_the_command_tells_answers_from_verdicts_and_asks_for_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qbawa.cli.import_ import command

    monkeypatch.setenv("QBAWA_HOME", str(tmp_path))
    write(tmp_path, "qbawa.yaml", "{}")
    answers, verdicts = write(tmp_path, "a.csv", ANSWERS), write(tmp_path, "v.csv", VERDICTS)
    told = CliRunner().invoke(command, [str(answers)])
    assert isinstance(told.exception, InputError) and "--step" in str(told.exception)
    for path, table in ((answers, "replay_matrix"), (verdicts, "verdicts")):
        told = CliRunner().invoke(command, [str(path), "--step", "quiz", "--json"], catch_exceptions=False)
        assert json.loads(told.stdout)["written"][table] > 0
    strange = write(tmp_path, "s.csv", "foo,bar\n1,2\n")
    told = CliRunner().invoke(command, [str(strange), "--step", "quiz"])
    assert "Present: bar, foo" in str(told.exception) and "--map" in str(told.exception)
    renamed = write(tmp_path, "r.csv", ANSWERS.replace("strategy", "who"))
    told = CliRunner().invoke(
        command, [str(renamed), "--step", "quiz", "--map", "strategy=who"], catch_exceptions=False
    )
    assert "held all of it already" in told.stdout


@pytest.mark.slow
@needs_anchors
def test_real_answers_and_preferences_come_in_whole(lake: Lake) -> None:
    requests = pl.read_parquet(ANCHORS / "requests.parquet").select("request_id", "instruction")
    outputs = pl.read_parquet(ANCHORS / "outputs.parquet").join(requests, on="request_id")
    columns = {"strategy_a": "model", "strategy_b": "baseline", "preference": "p_model_wins"}
    answers = import_answers(lake, outputs, "alpaca")
    verdicts = import_verdicts(lake, ANCHORS / "preferences.parquet", "alpaca", columns=columns)
    table = pl.read_parquet(ANCHORS / "preferences.parquet")
    against_itself = table.filter(pl.col("model") == pl.col("baseline")).height
    assert lake.read("replay_matrix").height == outputs.height == answers.written["replay_matrix"]
    assert lake.read("recordings").height == outputs["request_id"].n_unique()
    assert lake.read("verdicts").height == table.height - against_itself == verdicts.written["verdicts"]
    ids = names(lake)
    said = lake.read("verdicts").join(lake.read("matches"), on="match_id", suffix="_m")
    is_a = pl.col("strategy_a") == ids["gpt4_1106_preview"]
    mine = said.filter(pl.col("judge") == "weighted_alpaca_eval_gpt4_turbo").select(
        pl.when(is_a).then(1 - pl.col("preference")).otherwise("preference").alias("p"),
        pl.when(is_a).then("strategy_b").otherwise("strategy_a").alias("model"),
    )
    published = table.filter(
        pl.col("annotator") == "weighted_alpaca_eval_gpt4_turbo", pl.col("model") != pl.col("baseline")
    )
    ours = dict(mine.group_by("model").agg(pl.col("p").mean()).iter_rows())
    for model, share in published.group_by("model").agg(pl.col("p_model_wins").mean()).iter_rows():
        assert ours[ids[model]] == pytest.approx(share)
    order = dict(table.group_by("order_shown").len().iter_rows())
    assert said["shown_first"].null_count() <= order[None]
    assert not import_answers(lake, outputs, "alpaca").changed
    assert not import_verdicts(lake, ANCHORS / "preferences.parquet", "alpaca", columns=columns).changed
