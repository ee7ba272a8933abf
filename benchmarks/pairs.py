"""Is p_best what it says, how many close pairs does a verdict buy, how fast are a million pairs built and exported?

    python benchmarks/pairs.py --data ../shared/data/anchors --json [--quick]

All pairs below come out of `qbawa.datasets.pairs.build_pairs`. Three measurements:

- Labelled pairs (pairs.parquet, pair_verdicts.parquet; labels of people and experts, so not `objective`), source by
  source: the jury is calibrated on four fifths of the questions and pairs are emitted for the rest, in turn, for several
  splits. Where the answers' models are known (`response_model` is "model of A_model of B"), a question is one request
  and the models are strategies, so that matches inform each other; otherwise each pair stands alone. `precision_p90`:
  share of the pairs with p_best ≥ 0.9 whose best answer is the label's; a label that says tie counts ½.
  `share_emitted`: those pairs as a share of all labelled ones. `calibration_error`: mean gap between p_best and the
  share right over ten bins of equal size.
- Tournaments simulated as in `tournaments.py`: 32 strategies, 100 requests, wide field, `auto` with the goal pairs and a
  budget of 3,000 verdicts. A pair is usable at p_best ≥ 0.9, and right where the best answer's true log-strength on
  that very request is the larger one. A pair is *close* where the two strategies are: their true mean win rates over
  the field differ by at most 0.25. (Round robin in both orders then gives 388 usable pairs and 150 close ones per 1,000
  verdicts.) `close_pairs_per_1000` counts usable close pairs per 1,000 verdicts,
  `close_precision` the share of them that are right. `alike_*` is the stricter reading, close by the answers: the better
  one's true win probability on that request is at most 0.8.
- A million pairs from real answers (outputs.parquet and requests.parquet, or made-up ones where absent), built and
  exported as `trl_preference`, JSONL and Parquet, card and manifest included, in a process of its own: `seconds_1m`,
  `peak_mb_1m`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Small matrices, many of them: threads inside of BLAS only get in each other's way. Before numpy is imported.
os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")

import numpy as np  # noqa: E402
import polars as pl  # noqa: E402

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from _anchors_sim import Field, LogOdds, SimulatedJudge, draw_field, load_log_odds  # noqa: E402
from judges import read_pairs  # noqa: E402

from qbawa.config import DatasetConfig, PairsConfig  # noqa: E402
from qbawa.datasets.exports.export import export_dataset  # noqa: E402
from qbawa.datasets.pairs.build import build_pairs  # noqa: E402
from qbawa.tournaments.agreement.calibration import fit  # noqa: E402
from qbawa.tournaments.formats import Field as Board  # noqa: E402
from qbawa.tournaments.formats import make_tournament  # noqa: E402

SURE = 0.9
FOLDS = 5
CLOSE = 0.25
ALIKE = 0.8
EVERYTHING = PairsConfig.model_validate({"p_best": 0.5, "max_per_request": 10**6, "keep_refusals": True})
STEP = "answer"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared/data/anchors")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    parser.add_argument("--quick", action="store_true", help="a minute: fewer splits and simulations, 100,000 pairs")
    parser.add_argument("--seed", type=int, default=0, help="another seed: other splits, fields and verdicts")
    parser.add_argument("--million", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.million:
        print(json.dumps(million(args.data, args.million)))
        return
    result = labelled(args.data, range(args.seed, args.seed + (2 if args.quick else 10)))
    if not args.json:
        print("labelled pairs:", result)
    log_odds = load_log_odds(args.data)
    runs = 4 if args.quick else 30
    found = simulated(log_odds, range(args.seed, args.seed + runs), "auto", 3_000)
    result |= found
    result["by_format"] = {
        name: simulated(log_odds, range(args.seed, args.seed + max(2, runs // 6)), name, budget)
        for name, budget in (("swiss", 3_200), ("round_robin", 99_200))
    }
    if not args.json:
        print("simulated tournaments:", found, result["by_format"])
    command = [
        sys.executable,
        __file__,
        "--data",
        str(args.data),
        "--million",
        str(100_000 if args.quick else 1_000_000),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result |= json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(result))


# ── labelled pairs ───────────────────────────────────────────────────────────────────────────────────────────────────


def labelled(data: Path, seeds: range) -> dict[str, Any]:
    """Precision, calibration error and share of what is emitted for pairs that the jury's calibration never saw."""
    labels, verdicts = read_pairs(data)
    known = pl.read_parquet(data / "pairs.parquet").select(
        "label_kind", "response_a", "response_b", "response_model", match_id="pair_id"
    )
    judged = verdicts.filter(pl.col("verdict") != "unscored").select("match_id").unique()
    labels = labels.join(known, on="match_id").join(judged, on="match_id", how="semi")
    labels = labels.filter(pl.col("label_kind") != "objective").sort("match_id")
    runs = []
    for seed in seeds:
        for (source,), some in labels.group_by("source", maintain_order=True):
            here = verdicts.join(some.select("match_id"), on="match_id", how="semi").with_columns(step=pl.lit(source))
            runs += [part.with_columns(seed=pl.lit(seed)) for part in _cross_fitted(str(source), some, here, seed)]
    rows = pl.concat(runs)
    emitted = rows.filter(pl.col("p_best").is_not_null())
    sure = emitted.filter(pl.col("p_best") >= SURE)
    by_source = {
        str(source): {
            "precision_p90": _round(part["right"].mean()),
            "share_emitted": _round(part.height / rows.filter(pl.col("source") == source).height),
        }
        for (source,), part in sure.group_by("source", maintain_order=True)
    }
    by_split = sure.group_by("seed").agg(pl.col("right").mean())["right"]
    return {
        "precision_p90": _round(sure["right"].mean()),
        "precision_p90_sd_over_splits": _round(by_split.std()),
        "calibration_error": _round(_calibration_error(emitted)),
        "share_emitted": _round(sure.height / rows.height),
        "labelled_pairs": labels.height,
        "by_source": by_source,
    }


def _cross_fitted(source: str, labels: pl.DataFrame, verdicts: pl.DataFrame, seed: int) -> list[pl.DataFrame]:
    questions = labels["question"].unique().sort()
    fold_of = np.random.default_rng(seed).permutation(len(questions)) % FOLDS
    folds = labels["question"].replace_strict(questions, pl.Series(fold_of), return_dtype=pl.Int64)
    parts = []
    for fold in range(FOLDS):
        train, held = labels.filter(folds != fold), labels.filter(folds == fold)
        seen = verdicts.join(train.select("match_id"), on="match_id", how="semi")
        new = verdicts.join(held.select("match_id"), on="match_id", how="semi")
        calibration = fit(seen, train.select("match_id", "label"))
        matches, cells, asked = _as_tables(source, held)
        pairs = build_pairs(matches, new, cells, asked, EVERYTHING, calibration).pairs
        direct = pairs.filter(pl.col("basis") == "direct").select(
            "best_strategy", "p_best", match_id=pl.col("match_ids").list.first()
        )
        labelled_best = pl.when(pl.col("label") == "a").then("strategy_a").otherwise("strategy_b")
        right = (
            pl.when(pl.col("label") == "tie")
            .then(0.5)
            .otherwise((pl.col("best_strategy") == labelled_best).cast(pl.Float64))
        )
        parts.append(
            held.select("match_id", "source", "label")
            .join(matches.select("match_id", "strategy_a", "strategy_b"), on="match_id")
            .join(direct, on="match_id", how="left")
            .select("source", "p_best", right=right)
        )
    return parts


def _as_tables(source: str, pairs: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Matches, cells and questions of labelled pairs."""
    models = pl.col("response_model").str.split("_")
    named = bool(pairs.select((models.list.len() == 2).fill_null(False).all()).item())
    identity = {
        "strategy_a": pl.col("match_id") + " a",
        "strategy_b": pl.col("match_id") + " b",
        "request_id": pl.col("match_id"),
    }
    if named:
        identity = {
            "strategy_a": models.list.get(0),
            "strategy_b": models.list.get(1),
            "request_id": pl.col("question"),
        }
    rows = pairs.with_columns(step=pl.lit(source), **identity)
    cells = pl.concat(
        [rows.select("step", "request_id", strategy_id=f"strategy_{s}", answer=f"response_{s}") for s in ("a", "b")]
    ).with_columns(cell_id=pl.concat_str("request_id", "strategy_id", separator=" "), status=pl.lit("ok"))
    matches = rows.select("match_id", "step", "request_id", "strategy_a", "strategy_b", p_a=pl.lit(None, pl.Float64))
    return matches, cells, rows.select("step", "request_id", "question").unique()


def _calibration_error(rows: pl.DataFrame, bins: int = 10) -> float:
    rows = rows.sort("p_best").with_row_index("place").with_columns(bin=pl.col("place") * bins // rows.height)
    each = rows.group_by("bin").agg(gap=(pl.col("p_best").mean() - pl.col("right").mean()).abs(), n=pl.len())
    return float((each["gap"] * each["n"]).sum() / rows.height)


# ── simulated tournaments ────────────────────────────────────────────────────────────────────────────────────────────


def simulated(log_odds: LogOdds, seeds: range, format_name: Any, budget: int) -> dict[str, Any]:
    """Usable and close pairs per 1,000 verdicts and how many of them are right, over several fields."""
    total = dict.fromkeys(("verdicts", "usable", "usable_right", "close", "close_right", "alike", "alike_right"), 0)
    for seed in seeds:
        field = draw_field(log_odds, 32, 1.0, seed)
        matches, verdicts, asked = _play(field, SimulatedJudge(field, seed), format_name, budget, seed)
        for name, count in _count(
            field, build_pairs(*_field_tables(field, matches, verdicts), EVERYTHING).pairs
        ).items():
            total[name] += count
        total["verdicts"] += asked
    per_1000 = {
        f"{name}_pairs_per_1000": round(1000 * total[name] / total["verdicts"]) for name in ("usable", "close", "alike")
    }
    precision = {
        f"{name}_precision": _round(total[f"{name}_right"] / max(total[name], 1))
        for name in ("usable", "close", "alike")
    }
    return per_1000 | precision | {"verdicts": round(total["verdicts"] / len(seeds))}


def _play(
    field: Field, judge: SimulatedJudge, format_name: Any, budget: int, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Matches and verdicts of a tournament; round robin is played in full and both orders."""
    names, requests = np.array(field.names), np.array(field.requests)
    if format_name == "round_robin":
        i, j = np.triu_indices(len(names), 1)
        once = np.stack(
            [np.tile(i, len(requests)), np.tile(j, len(requests)), np.repeat(np.arange(len(requests)), len(i))]
        )
        batch = np.concatenate([np.vstack([once, np.full(once.shape[1], s)]).T for s in (0, 1)])
        said = judge.verdicts(batch)
    else:
        board = Board.full(field.names, field.requests)
        tournament = make_tournament(
            board, format=format_name, goal="pairs", confidence=None, verdict_budget=budget, seed=seed
        )
        batches, answers = [], []
        while tournament.done is None:
            batches.append(tournament.next_batch())
            answers.append(judge.verdicts(batches[-1]))
            tournament.record_batch(answers[-1])
        batch, said = np.concatenate(batches), np.concatenate(answers)
    verdicts = pl.DataFrame(
        {
            "step": [STEP] * len(batch),
            "request_id": requests[batch[:, 2]],
            "strategy_a": names[batch[:, 0]],
            "strategy_b": names[batch[:, 1]],
            "preference": said.astype(float),
        }
    ).with_columns(
        match_id=pl.concat_str("request_id", "strategy_a", "strategy_b", separator=" "),
        judge=pl.lit("simulated"),
        judge_kind=pl.lit("llm"),
        verdict=pl.when(pl.col("preference") > 0.5).then(pl.lit("a")).otherwise(pl.lit("b")),
    )
    matches = verdicts.group_by("match_id", "step", "request_id", "strategy_a", "strategy_b", maintain_order=True).agg(
        p_a=pl.col("preference").mean(), verdicts=pl.len()
    )
    return matches, verdicts, len(batch)


def _field_tables(
    field: Field, matches: pl.DataFrame, verdicts: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    names, requests = pl.DataFrame({"strategy_id": field.names}), pl.DataFrame({"request_id": field.requests})
    both = pl.concat_str("request_id", "strategy_id", separator=" ")
    cells = requests.join(names, how="cross").with_columns(
        step=pl.lit(STEP), status=pl.lit("ok"), cell_id=both, answer=both
    )
    asked = requests.with_columns(step=pl.lit(STEP), question="request_id", cluster="request_id")
    return matches, verdicts, cells, asked


def _count(field: Field, pairs: pl.DataFrame) -> dict[str, int]:
    place = {name: k for k, name in enumerate(field.names)}
    number = {name: k for k, name in enumerate(field.requests)}
    usable = pairs.filter(pl.col("p_best") >= SURE)
    best, worse = (
        usable[c].replace_strict(place, return_dtype=pl.Int64).to_numpy() for c in ("best_strategy", "worse_strategy")
    )
    request = usable["request_id"].replace_strict(number, return_dtype=pl.Int64).to_numpy()
    gap = field.theta[best, request] - field.theta[worse, request]
    sets = {
        "usable": np.ones(len(gap), bool),
        "close": np.abs(field.win_rate[best] - field.win_rate[worse]) <= CLOSE,
        "alike": 1 / (1 + np.exp(-np.abs(gap))) <= ALIKE,
    }
    counts = {name: int(some.sum()) for name, some in sets.items()}
    return counts | {f"{name}_right": int((some & (gap > 0)).sum()) for name, some in sets.items()}


# ── a million pairs ──────────────────────────────────────────────────────────────────────────────────────────────────


def million(data: Path, wanted: int) -> dict[str, Any]:
    """Seconds and peak memory of building and exporting `wanted` pairs."""
    matches, verdicts, cells, asked = _answers(data, wanted)
    # A twentieth more: some requests have fewer.
    per_request = -(-wanted * 21 // (20 * asked.height))
    config = PairsConfig.model_validate({"p_best": 0.5, "max_per_request": per_request, "keep_refusals": True})
    before = _peak_mb()
    began, cpu = time.perf_counter(), time.process_time()
    pairs = build_pairs(matches, verdicts, cells, asked, config).pairs
    built = time.perf_counter() - began
    folder = Path(tempfile.mkdtemp(prefix="qbawa-pairs-"))
    try:
        report = export_dataset(pairs, "million", DatasetConfig.model_validate({"p_best": 0.5}), folder)
        size = sum(path.stat().st_size for path in report.path.rglob("*") if path.is_file())
    finally:
        shutil.rmtree(folder)
    return {
        "pairs_built": pairs.height,
        "rows_exported": sum(report.rows.values()),
        "exported_mb": round(size / 2**20),
        "seconds_build": round(built, 1),
        "seconds_1m": round(time.perf_counter() - began, 1),
        "cpu_seconds_1m": round(time.process_time() - cpu, 1),
        "peak_mb_1m": round(_peak_mb()),
        "peak_mb_before": round(before),
    }


def _answers(data: Path, wanted: int) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Real answers of many models, the requests repeated in other words until there are enough pairs; made-up verdicts."""
    outputs, requests = _texts(data)
    models = outputs["model"].unique().sort()
    # A tenth more than needed: trivial pairs and duplicates go.
    rounds = -(-wanted * 11 // (10 * requests.height * len(models) * (len(models) - 1) // 2))
    limit = -(-wanted * 11 // (10 * rounds * len(models) * (len(models) - 1) // 2))
    copies = pl.DataFrame({"copy": [f" ({k})" for k in range(rounds)]})
    asked = requests.sort("request_id").head(limit).join(copies, how="cross").select(
        "cluster", step=pl.lit(STEP), source="request_id", copy="copy", request_id=pl.col("request_id") + pl.col("copy"),
        question=pl.col("instruction") + pl.col("copy"),
    )  # fmt: skip
    cells = asked.join(outputs, left_on="source", right_on="request_id").select(
        "step", "request_id", strategy_id="model", answer=pl.col("output") + pl.col("copy"), status=pl.lit("ok"),
        cell_id=pl.concat_str("request_id", "model", separator=" "),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    each = 64
    a, b = np.array([rng.permutation(len(models))[:2] for _ in range(each * asked.height)]).T
    strength = np.linspace(-2, 2, len(models))
    wins = rng.random(len(a)) < 1 / (1 + np.exp(strength[b] - strength[a]))
    verdicts = pl.DataFrame(
        {
            "step": STEP,
            "request_id": np.repeat(asked["request_id"].to_numpy(), each),
            "strategy_a": models.to_numpy()[np.minimum(a, b)],
            "strategy_b": models.to_numpy()[np.maximum(a, b)],
            "judge": "simulated",
            "judge_kind": "llm",
            "p_a": np.where(a < b, wins, ~wins).astype(float),
        }
    ).unique(["request_id", "strategy_a", "strategy_b"], keep="first", maintain_order=True)
    verdicts = verdicts.with_columns(
        match_id=pl.concat_str("request_id", "strategy_a", "strategy_b", separator=" "),
        preference="p_a",
        verdict=pl.when(pl.col("p_a") > 0.5).then(pl.lit("a")).otherwise(pl.lit("b")),
    )
    return (
        verdicts.drop("judge", "judge_kind", "preference", "verdict"),
        verdicts.drop("p_a"),
        cells,
        asked.drop("source", "copy"),
    )


def _texts(data: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    if (data / "outputs.parquet").exists() and (data / "requests.parquet").exists():
        outputs = pl.read_parquet(data / "outputs.parquet", columns=["model", "request_id", "output"])
        return outputs, pl.read_parquet(data / "requests.parquet", columns=["request_id", "instruction", "cluster"])
    rng = np.random.default_rng(0)
    words = np.array([f"word{k}" for k in range(2_000)])
    names = [f"q{k}" for k in range(500)]
    asked = [" ".join(rng.choice(words, 30)) for _ in names]
    answers = [(f"m{m}", name, " ".join(rng.choice(words, 200))) for name in names for m in range(64)]
    return (
        pl.DataFrame(answers, schema=["model", "request_id", "output"], orient="row"),
        pl.DataFrame({"request_id": names, "instruction": asked, "cluster": names}),
    )


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _round(value: Any, digits: int = 4) -> float | None:
    return None if value is None else round(float(value), digits)


if __name__ == "__main__":
    main()
