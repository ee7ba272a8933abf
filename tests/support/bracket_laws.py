"""What holds of every tournament that was played on a lake."""

import polars as pl
import pytest

from qbawa.ids import canonical_pair, cell_id, match_id
from qbawa.project import Project


def decisions(project: Project) -> dict[str, tuple[str | None, float | None]]:
    return {i: (winner, p) for i, winner, p in project.lake.read("matches", ["match_id", "winner", "p_a"]).iter_rows()}


def agree(project: Project) -> None:
    """Everything that matches, verdicts, cells and calls say of each other."""
    lake = project.lake
    matches, said = lake.read("matches"), lake.read("verdicts")
    answers = dict(lake.read("replay_matrix", ["cell_id", "answer"], keep=pl.col("status") == "ok").iter_rows())
    calls = set(lake.read("calls", ["call_key"], keep=pl.col("purpose") == "judge")["call_key"])
    assert matches["match_id"].is_unique().all() and said["verdict_id"].is_unique().all()
    assert set(said["match_id"]) <= set(matches["match_id"])
    by_match = {key: rows for (key,), rows in said.group_by("match_id")}
    for row in matches.iter_rows(named=True):
        a, b, request, step = row["strategy_a"], row["strategy_b"], row["request_id"], row["step"]
        assert (a, b) == canonical_pair(a, b) and a != b
        assert row["match_id"] == match_id(request, step, a, b)
        assert (row["cell_a"], row["cell_b"]) == (cell_id(request, step, a), cell_id(request, step, b))
        assert {row["cell_a"], row["cell_b"]} <= set(answers)
        mine = by_match.get(row["match_id"], said.clear())
        assert set(mine["request_id"]) <= {request} and set(mine["step"]) <= {step}
        assert row["cost_usd"] == pytest.approx(mine["cost_usd"].sum())
        if row["origin"] == "identical":
            assert answers[row["cell_a"]].split() == answers[row["cell_b"]].split()
            assert (mine.height, row["winner"], row["p_a"], row["verdicts"]) == (0, "tie", 0.5, 0)
        else:
            assert answers[row["cell_a"]].split() != answers[row["cell_b"]].split()
            assert row["verdicts"] + row["unscored"] == mine.height > 0
            assert (row["p_a"] is None) == (row["winner"] is None) == (row["verdicts"] == 0)
        if row["winner"] in ("a", "b"):
            assert (row["p_a"] > 0.5) == (row["winner"] == "a")
    for row in said.iter_rows(named=True):
        assert row["block_id"] == row["request_id"]
        assert (row["verdict"] == "unscored") == (row["preference"] is None)
        assert row["judge_kind"] != "llm" or set(row["call_key"].split("+")) <= calls
