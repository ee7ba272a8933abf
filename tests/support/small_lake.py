"""A small lake that hangs together: recordings, cells, calls, matches, verdicts, pairs and one exported dataset."""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from qbawa import ids
from qbawa.config import DatasetConfig, PairsConfig
from qbawa.datasets.exports.export import ExportReport, export_dataset
from qbawa.datasets.pairs.build import build_pairs
from qbawa.project import Home
from qbawa.storage.frames import frame
from qbawa.storage.lake import Lake

STEP = "answer"
STRATEGIES = ("s_best", "s_good", "s_poor")
BEGAN = datetime(2026, 11, 1, tzinfo=UTC)
TOPICS = (
    "how glaciers carve valleys out of solid granite",
    "why sourdough bread rises without any baker's yeast",
    "which planets in our system have more than ten moons",
    "what a semaphore does that a mutex cannot do",
    "when the printing press reached the city of Lisbon",
    "whether octopuses recognise the people who feed them",
    "how a violin's bridge changes the colour of its tone",
    "why copper roofs turn green within a few decades",
)


def question(k: int) -> str:
    return json.dumps([{"role": "user", "content": f"Please tell me {TOPICS[k]}, request number {k}."}])


def answer(k: int, strategy: str) -> str:
    return f"{strategy} says about {TOPICS[k]}: answer {hashlib.sha256(f'{k}{strategy}'.encode()).hexdigest()}"


def call_key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def fill(lake: Lake, requests: int = 8) -> None:
    """Write every table up to verdicts. The judge prefers strategies in the order of STRATEGIES."""
    tables: dict[str, list[dict[str, object]]] = {
        name: []
        for name in (
            "recordings",
            "feedback",
            "replay_set",
            "strategies",
            "calls",
            "replay_matrix",
            "matches",
            "verdicts",
        )
    }
    for name in STRATEGIES:
        tables["strategies"].append(
            {
                "strategy_id": name,
                "name": f"{name} v1",
                "step": STEP,
                "model": "offline/lead",
                "template": "{}",
                "params": "{}",
                "program": "{}",
                "origin": "config",
                "active": True,
                "created_at": BEGAN,
                "block_id": STEP,
            }
        )
    for k in range(requests):
        request = f"r_{k}"
        at = BEGAN + timedelta(minutes=k)
        tables["recordings"].append(
            {
                "request_id": request,
                "recording_id": f"rec_{k}",
                "pipeline": "demo",
                "step": STEP,
                "inputs": json.dumps({"topic": TOPICS[k]}),
                "messages": question(k),
                "output": f"recorded output about {TOPICS[k]}",
                "tags": '{"consent":true,"license":"CC0-1.0"}',
                "source": "journal",
                "recorded_at": at,
                "block_id": "b_1",
            }
        )
        tables["feedback"].append(
            {"request_id": request, "score": 1.0, "comment": f"liked {TOPICS[k]}", "given_at": at, "block_id": "b_1"}
        )
        tables["replay_set"].append(
            {
                "step": STEP,
                "request_id": request,
                "recording_id": f"rec_{k}",
                "reason": "coverage",
                "cluster": f"c_{k}",
                "cluster_size": 1,
                "chosen_at": at,
                "block_id": STEP,
            }
        )
        for name in STRATEGIES:
            key = call_key("replay", k, name)
            tables["calls"].append(
                {
                    "call_key": key,
                    "purpose": "replay",
                    "model": "offline/lead",
                    "request_id": request,
                    "strategy_id": name,
                    "sample": 0,
                    "messages": question(k),
                    "params": "{}",
                    "response_text": answer(k, name),
                    "cost_usd": 0.001,
                    "attempts": 1,
                    "run_id": "run_1",
                    "called_at": at,
                    "block_id": "seg_1",
                }
            )
            tables["replay_matrix"].append(
                {
                    "cell_id": ids.cell_id(request, STEP, name),
                    "request_id": request,
                    "step": STEP,
                    "strategy_id": name,
                    "sample": 0,
                    "answer": answer(k, name),
                    "status": "ok",
                    "cost_usd": 0.001,
                    "call_keys": [key],
                    "run_id": "run_1",
                    "answered_at": at,
                    "block_id": request,
                }
            )
        for slot, (a, b) in enumerate((("s_best", "s_good"), ("s_best", "s_poor"), ("s_good", "s_poor")), start=1):
            match = ids.match_id(request, STEP, a, b)
            tables["matches"].append(
                {
                    "match_id": match,
                    "request_id": request,
                    "step": STEP,
                    "round": 1,
                    "slot": slot,
                    "strategy_a": a,
                    "strategy_b": b,
                    "cell_a": ids.cell_id(request, STEP, a),
                    "cell_b": ids.cell_id(request, STEP, b),
                    "winner": "a",
                    "p_a": 1.0,
                    "verdicts": 2,
                    "unscored": 0,
                    "dissent": 0.0,
                    "origin": "tournament",
                    "cost_usd": 0.002,
                    "decided_at": at,
                    "block_id": request,
                }
            )
            for first in ("a", "b"):
                key = call_key("judge", k, a, b, first)
                tables["calls"].append(
                    {
                        "call_key": key,
                        "purpose": "judge",
                        "model": "offline/judge",
                        "request_id": request,
                        "judge": "judy",
                        "sample": 0,
                        "messages": json.dumps([{"role": "user", "content": answer(k, a) + answer(k, b)}]),
                        "params": "{}",
                        "response_text": f"{a} explains {TOPICS[k]} better",
                        "cost_usd": 0.001,
                        "attempts": 1,
                        "run_id": "run_2",
                        "called_at": at,
                        "block_id": "seg_2",
                    }
                )
                tables["verdicts"].append(
                    {
                        "verdict_id": ids.verdict_id(match, "judy", first),
                        "match_id": match,
                        "request_id": request,
                        "step": STEP,
                        "judge": "judy",
                        "judge_kind": "llm",
                        "shown_first": first,
                        "verdict": "a",
                        "preference": 1.0,
                        "rationale": f"{a} explains {TOPICS[k]} better",
                        "raw": "a",
                        "call_key": key,
                        "cost_usd": 0.001,
                        "judged_at": at,
                        "block_id": request,
                    }
                )
    for table, rows in tables.items():
        lake.replace(table, sorted({str(row["block_id"]) for row in rows}), frame(table, rows))


def questions(lake: Lake) -> pl.DataFrame:
    return (
        lake.read("recordings")
        .join(lake.read("replay_set"), on=["step", "request_id"])
        .select("step", "request_id", "cluster", question="messages")
    )


def build(lake: Lake, at: datetime = BEGAN) -> pl.DataFrame:
    """Build the pairs into the lake."""
    config = PairsConfig.model_validate({"p_best": 0.5})
    report = build_pairs(
        lake.read("matches"), lake.read("verdicts"), lake.read("replay_matrix"), questions(lake), config, built_at=at
    )
    lake.replace("qbawa", [STEP], report.pairs)
    return report.pairs


def export(lake: Lake, home: Home, **settings: object) -> ExportReport:
    """Export the lake's pairs as the dataset `d` and note it."""
    config = DatasetConfig.model_validate({"p_best": 0.5} | settings)
    report = export_dataset(lake.read("qbawa"), "d", config, home.exports, lake.versions())
    row = {
        "dataset": "d",
        "version": report.version,
        "format": report.format,
        "path": str(report.path),
        "rows": sum(report.rows.values()),
        "sha256": report.sha256,
        "lake_versions": json.dumps(report.lake_versions),
        "pair_ids": report.pair_ids,
        "request_ids": report.request_ids,
        "created_at": BEGAN,
        "block_id": "d",
    }
    lake.merge("datasets", frame("datasets", [row]))
    return report


_template = Path(tempfile.mkdtemp(prefix="qbawa-small-lake-"))
atexit.register(shutil.rmtree, _template, ignore_errors=True)


def make(root: Path, exported: bool = True) -> tuple[Home, Lake]:
    """A home whose lake is filled, with pairs built and, if asked, exported."""
    made = Home(_template)
    if not made.lake.exists():
        fill(Lake(made.lake))
        build(Lake(made.lake))
    home = Home(root)
    shutil.copytree(made.lake, home.lake)
    lake = Lake(home.lake)
    if exported:
        export(lake, home)
    return home, lake
