"""How good are judges, their jury, and the jury calibrated on people's labels?

Reads pairs.parquet and pair_verdicts.parquet (labelled pairs, verdicts of real judges) and, where they are there,
preferences.parquet, outputs.parquet and models.parquet (published ratings). A judge is a model with a prompt.

    python benchmarks/judges.py --data ../shared/data/anchors --json
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import spearmanr

from qbawa.tournaments.agreement.calibration import Calibration, fit
from qbawa.tournaments.decide import combine
from qbawa.tournaments.ratings import fit_ratings

FOLDS = 10
SCORE = pl.col("verdict").replace_strict({"a": 1.0, "tie": 0.0, "b": -1.0}, default=None, return_dtype=pl.Float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pairs.parquet and pair_verdicts.parquet")
    parser.add_argument("--quick", action="store_true", help="one split into folds in place of ten")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    args = parser.parse_args()
    started = time.perf_counter()
    labels, verdicts = read_pairs(args.data)
    sources: dict[str, Any] = {}
    for (source,), some in labels.group_by("source", maintain_order=True):
        here = verdicts.join(some.select("match_id"), on="match_id", how="semi")
        sources[str(source)] = measure(some, here, splits=1 if args.quick else 10)
        if not args.json:
            describe(str(source), sources[str(source)])
    result = {
        "sources": sources,
        "calibrated_minus_best": {name: s["calibrated_minus_best"] for name, s in sources.items()},
        "standard_error": {name: s["standard_error"] for name, s in sources.items()},
        "calibrated_not_below_best": all(s["calibrated_minus_best"] >= -s["standard_error"] for s in sources.values()),
        **published(args.data),
        "seconds": round(time.perf_counter() - started, 1),
    }
    json.dump(result, sys.stdout)
    print()


def read_pairs(data: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Labelled pairs (match_id, source, question, label) and verdict rows of every judge × method."""
    pairs = pl.read_parquet(data / "pairs.parquet").filter(pl.col("label").is_not_null())
    labels = pairs.select("source", "question", match_id="pair_id", label=pl.col("label").str.to_lowercase()).sort(
        "match_id"
    )
    said = pl.read_parquet(data / "pair_verdicts.parquet").join(
        labels, left_on="pair_id", right_on="match_id", how="semi"
    )
    verdicts = said.select(
        verdict_id=pl.concat_str("pair_id", "judge", "method", "swapped", separator="|"),
        match_id="pair_id",
        judge=pl.concat_str("judge", "method", separator=" × "),
        judge_kind=pl.lit("imported"),
        shown_first=pl.when(pl.col("swapped") == 0).then(pl.lit("a")).otherwise(pl.lit("b")),
        verdict=pl.col("verdict").str.to_lowercase().fill_null("unscored"),
        preference=pl.lit(None, dtype=pl.Float64),
    )
    return labels, verdicts


def measure(labels: pl.DataFrame, verdicts: pl.DataFrame, splits: int) -> dict[str, Any]:
    """Accuracy is over pairs with a decided label; a tie, a flip between orders and an undecided jury count ½."""
    decided = labels.filter(pl.col("label") != "tie").select("match_id", "label")
    judges = judge_records(decided, verdicts)
    best = max(judges, key=lambda judge: (judges[judge]["accuracy"], judge))
    its_pairs = (
        verdicts.filter((pl.col("judge") == best) & (pl.col("verdict") != "unscored")).select("match_id").unique()
    )
    runs = [cross_validated(labels, verdicts, seed) for seed in range(splits)]
    on_best = [run.join(its_pairs, on="match_id", how="semi") for run in runs]
    calibrated = mean([r["calibrated"].mean() for r in on_best])
    flags = combine(verdicts.filter(pl.col("judge") == best)).select("match_id", best_flips=pl.col("flips") > 0)
    with_flips = [run.join(flags, on="match_id") for run in on_best]
    return {
        "pairs": labels.height,
        "ties_in_labels": labels.height - decided.height,
        "best_judge": best,
        "best_judge_pairs": judges[best]["pairs"],
        "best": judges[best]["accuracy"],
        "calibrated": calibrated,
        "calibrated_minus_best": round(calibrated - judges[best]["accuracy"], 4),
        "standard_error": mean([r["calibrated"].std() / r.height**0.5 for r in on_best]),
        "calibrated_forced": mean([r["forced"].mean() for r in on_best]),
        "chosen_in_training": mean([r["chosen"].mean() for r in on_best]),
        "jury_majority": mean([r["majority"].mean() for r in on_best]),
        "all_pairs": {
            name: mean([r[name].mean() for r in runs]) for name in ("calibrated", "forced", "chosen", "majority")
        },
        "where_best_judge": {
            name: rounded(pl.concat(with_flips).filter(pl.col("best_flips") == flips)["calibrated"].mean())
            for name, flips in (("flips_calibrated", True), ("is_steady_calibrated", False))
        },
        "undecided_share": mean([(r["calibrated"] == 0.5).mean() for r in runs]),
        "calibration_error": mean([calibration_error(r) for r in runs]),
        "p90": {
            "share": mean([(r["p_best"] >= 0.9).mean() for r in runs]),
            "accuracy": rounded(pl.concat(runs).filter(pl.col("p_best") >= 0.9)["forced"].mean()),
        },
        "judges": judges,
    }


def judge_records(decided: pl.DataFrame, verdicts: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """What each judge does on its own: accuracy, flips with the order, accuracy where both orders agree."""
    scored = verdicts.with_columns(score=SCORE).filter(pl.col("score").is_not_null()).join(decided, on="match_id")
    score = pl.col("score")
    by_pair = (
        scored.group_by("judge", "match_id", "label")
        .agg(side=score.mean(), both=pl.col("shown_first").n_unique() == 2, flips=score.min() * score.max() < 0)
        .with_columns(right=right(pl.col("side")))
    )
    steady = pl.col("both") & ~pl.col("flips")
    pairs = by_pair.group_by("judge").agg(
        pairs=pl.len(),
        accuracy=pl.col("right").mean(),
        flips=pl.col("flips").filter("both").mean(),
        accuracy_when_both_orders_agree=pl.col("right").filter(steady).mean(),
    )
    single = scored.group_by("judge").agg(accuracy_of_one_order=right(score).mean())
    unscored = verdicts.group_by("judge").agg(unscored=(pl.col("verdict") == "unscored").sum())
    rows = pairs.join(single, on="judge").join(unscored, on="judge").sort("judge").to_dicts()
    return {row.pop("judge"): {name: rounded(value) for name, value in row.items()} for row in rows}


def cross_validated(labels: pl.DataFrame, verdicts: pl.DataFrame, seed: int) -> pl.DataFrame:
    """One row per pair with a decided label, judged by weights that never saw its question."""
    questions = labels["question"].str.strip_chars().str.to_lowercase()
    number = questions.rank("dense").to_numpy().astype(np.int64) - 1
    fold_of = np.random.default_rng(seed).permutation(int(number.max()) + 1) % FOLDS
    folds = labels.with_columns(fold=fold_of[number])
    parts = []
    for fold in range(FOLDS):
        held = folds.filter(pl.col("fold") == fold)
        train = folds.filter(pl.col("fold") != fold)
        seen = verdicts.join(train.select("match_id"), on="match_id", how="semi")
        new = verdicts.join(held.select("match_id"), on="match_id", how="semi")
        calibration = fit(seen, train)
        parts.append(held.join(opinions(new, calibration, best_on(train, seen)), on="match_id", how="left"))
    rows = pl.concat(parts).filter(pl.col("label") != "tie").sort("match_id")
    return rows.with_columns(
        calibrated=right(pl.col("side").fill_null(0)),
        forced=right((pl.col("p_a").fill_null(0.5) - 0.5).sign()),
        chosen=right(pl.col("chosen").fill_null(0)),
        majority=right(pl.col("majority").fill_null(0)),
        p_best=pl.max_horizontal("p_a", 1 - pl.col("p_a")).fill_null(0.5),
    )


def opinions(verdicts: pl.DataFrame, calibration: Calibration, judge: str) -> pl.DataFrame:
    """match_id, p_a, and as −1, 0 or 1 the side that the calibrated jury, one judge and the bare majority take."""
    side = pl.col("winner").replace_strict({"a": 1.0, "tie": 0.0, "b": -1.0}, default=None, return_dtype=pl.Float64)
    single = verdicts.filter(pl.col("judge") == judge).group_by("match_id").agg(chosen=SCORE.mean().sign())
    each = verdicts.group_by("match_id", "judge").agg(vote=SCORE.mean().sign())
    majority = each.group_by("match_id").agg(majority=pl.col("vote").sum().sign())
    jury = combine(verdicts, calibration).select("match_id", "p_a", side=side)
    return jury.join(single, on="match_id", how="left").join(majority, on="match_id", how="left")


def best_on(labels: pl.DataFrame, verdicts: pl.DataFrame) -> str:
    decided = labels.filter(pl.col("label") != "tie").select("match_id", "label")
    records = judge_records(decided, verdicts)
    return max(records, key=lambda judge: (records[judge]["accuracy"], judge))


def right(side: pl.Expr) -> pl.Expr:
    """1 where `side` (−, 0, +) names the label, ½ where it is 0."""
    agrees = ((side > 0) & (pl.col("label") == "a")) | ((side < 0) & (pl.col("label") == "b"))
    return pl.when(side == 0).then(0.5).otherwise(agrees.cast(pl.Float64))


def calibration_error(rows: pl.DataFrame, bins: int = 10) -> float:
    """Expected calibration error of p_best: mean gap between what was stated and the share right, over bins."""
    binned = rows.with_columns(bin=((pl.col("p_best") - 0.5) * 2 * bins).floor().clip(0, bins - 1))
    each = binned.group_by("bin").agg(gap=(pl.col("p_best").mean() - pl.col("forced").mean()).abs(), n=pl.len())
    return float((each["gap"] * each["n"]).sum() / rows.height)


def published(data: Path) -> dict[str, Any]:
    """Our ratings against the published ones, where the folder has preferences against a common baseline."""
    if not all((data / f"{name}.parquet").exists() for name in ("preferences", "outputs", "models")):
        return {"spearman_lc": None, "spearman_published": None}
    matches = read_preferences(data)
    models = pl.read_parquet(data / "models.parquet")
    raw, even = fit_ratings(matches), fit_ratings(matches, length_effect=True)
    return {
        "spearman_lc": spearman(even.table, models, "ae2_lc_win_rate"),
        "spearman_lc_without_length_effect": spearman(raw.table, models, "ae2_lc_win_rate"),
        "spearman_published": spearman(raw.table, models, "ae2_win_rate"),
        "length_effect": even.length_effect.logit if even.length_effect else None,
        "order_effect_points": raw.order_effect.points if raw.order_effect else None,
    }


def read_preferences(data: Path) -> pl.DataFrame:
    """The soft judge's preferences (the annotator with stored logits) as matches of each model against the baseline."""
    preferences = pl.read_parquet(data / "preferences.parquet")
    soft = preferences.group_by("annotator").agg(pl.col("logit_model").count()).sort("logit_model").row(-1)[0]
    lengths = pl.read_parquet(data / "outputs.parquet").select("model", "request_id", "n_chars")
    first = pl.col("order_shown").replace_strict({"model_first": "a", "baseline_first": "b"}, default=None)
    return (
        preferences.filter((pl.col("annotator") == soft) & (pl.col("model") != pl.col("baseline")))
        .join(lengths.rename({"n_chars": "length_a"}), on=["model", "request_id"])
        .join(lengths.rename({"model": "baseline", "n_chars": "length_b"}), on=["baseline", "request_id"])
        .select(
            "request_id",
            "length_a",
            "length_b",
            strategy_a="model",
            strategy_b="baseline",
            p_a="p_model_wins",
            shown_first=first.cast(pl.String),
        )
    )


def spearman(table: pl.DataFrame, models: pl.DataFrame, column: str) -> float:
    both = table.join(models, left_on="strategy_id", right_on="model").filter(pl.col(column).is_not_null())
    return round(float(spearmanr(both["strength"], both[column]).statistic), 4)


def mean(values: list[Any]) -> float:
    """Of what is known; 0 where nothing is."""
    known = [float(value) for value in values if value is not None]
    return round(float(np.mean(known)), 4) if known else 0.0


def rounded(value: Any) -> float | None:
    return None if value is None else round(value, 4)


def describe(source: str, found: dict[str, Any]) -> None:
    print(f"{source}: {found['pairs']} pairs, best single judge {found['best_judge']} {found['best']:.3f}", end="; ")
    print(f"chosen in training {found['chosen_in_training']:.3f}, majority {found['jury_majority']:.3f}", end="; ")
    print(f"calibrated {found['calibrated']:.3f} (SE {found['standard_error']:.3f})")
    top = sorted(found["judges"].items(), key=lambda item: -item[1]["accuracy"])[:5]
    for judge, record in top:
        print(f"  {judge}: {record['accuracy']:.3f} on {record['pairs']}, flips {record['flips']}", end=", ")
        print(f"right when both orders agree {record['accuracy_when_both_orders_agree']}")


if __name__ == "__main__":
    main()
