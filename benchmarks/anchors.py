"""Real answers and verdicts through the whole house: `python benchmarks/anchors.py --data DIR --json [--quick] [--home DIR]`.

Imports the outputs of a folder like ../shared/data/anchors as cells and its soft preferences (those with
log-probabilities, model against baseline) as verdicts of kind `imported`, then runs the job `flywheel` on a Dagster
instance with embedded PostgreSQL, twice. Prints one JSON object as its last line:

cells, verdicts, pairs: rows in the lake. seconds: by stage, imports and ops of the job, of the first run; Dagster's
own start is `start`. seconds_total: their sum. second_run: the same for a second import and run in the same process, and
whether any table of the lake changed. peak_mb: largest resident size of the process. spearman_published: our strengths
against the published AlpacaEval-2 win rates (`ae2_win_rate`, over all 805 requests), spearman_arena against arena
ratings of people's votes, both over the models that have preferences (in arena's case and an arena rating).
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
from scipy.stats import spearmanr

from qbawa.cli.launch.dagster import dagster_environment
from qbawa.project import Home, Project, open_project
from qbawa.replay.import_answers import import_answers
from qbawa.tournaments.import_verdicts import import_verdicts

STEP = "instruct"
CONFIG = """
replay_set: {{size: {requests}}}
pairs: {{p_best: 0.6}}
datasets:
  instructions: {{steps: [instruct], p_best: 0.9, max_per_request: 10, format: trl_preference}}
"""
ORDER = {"model_first": "a", "baseline_first": "b"}


def read_tables(data: Path, quick: bool) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Answers with their questions; soft preferences; what is published of each model."""
    requests = pl.read_parquet(data / "requests.parquet", columns=["request_id", "instruction"])
    if quick:
        requests = requests.sort("request_id").head(60)
    answers = pl.read_parquet(data / "outputs.parquet").join(requests, on="request_id")
    preferences = pl.read_parquet(data / "preferences.parquet").join(requests, on="request_id", how="semi")
    soft = preferences.filter(pl.col("logit_model").is_not_null())["annotator"].unique()
    if len(soft):
        preferences = preferences.filter(pl.col("annotator").is_in(soft.implode()))
    return answers, preferences, pl.read_parquet(data / "models.parquet")


def import_all(project: Project, answers: pl.DataFrame, preferences: pl.DataFrame) -> dict[str, float]:
    """Seconds of both imports."""
    began = time.monotonic()
    columns = {"request": "request_id", "strategy": "model", "answer": "output", "question": "instruction"}
    import_answers(project.lake, answers.select(columns.values()), STEP, columns=columns)
    answered = time.monotonic()
    verdicts = preferences.select(
        "request_id",
        "annotator",
        pl.col("model").alias("strategy_a"),
        pl.col("baseline").alias("strategy_b"),
        pl.col("p_model_wins").alias("preference"),
        pl.col("order_shown").replace_strict(ORDER, default=None, return_dtype=pl.String),
        pl.col("price_usd").alias("cost_usd"),
    )
    import_verdicts(project.lake, verdicts, STEP)
    return {"import_answers": answered - began, "import_verdicts": time.monotonic() - answered}


def run_flywheel() -> dict[str, float]:
    """Seconds of every op of the job `flywheel`, run in this process."""
    from dagster import DagsterInstance

    from qbawa_assets.definitions import definitions

    with DagsterInstance.get() as instance:
        job = definitions.resolve_job_def("flywheel")
        result = job.execute_in_process(instance=instance, run_config={"loggers": {"console": {}}})
        if not result.success:
            sys.exit("The job `flywheel` failed.")
        records = instance.all_logs(result.run_id)
        starts = {r.step_key: r.timestamp for r in records if r.is_dagster_event and r.dagster_event.is_step_start}
        ends = {r.step_key: r.timestamp for r in records if r.is_dagster_event and r.dagster_event.is_step_success}
        return {str(key): ends[key] - starts[key] for key in starts}


def compare(project: Project, preferences: pl.DataFrame, models: pl.DataFrame, data: Path) -> tuple[float, float]:
    """Spearman correlations of our strengths with the published win rates and with arena ratings."""
    ratings = project.lake.query(
        "SELECT s.name AS model, r.strength FROM ratings r JOIN strategies s USING (strategy_id)"
    ).join(preferences.select("model").unique(), on="model", how="semi")
    published = ratings.join(models.select("model", "ae2_win_rate").drop_nulls(), on="model")
    arena = pl.read_parquet(data / "arena_reference.parquet").select(
        "model", elo=pl.coalesce("arena_elo_2024_04_18", "arena_elo_2024_02_02")
    )
    people = ratings.join(arena.drop_nulls(), on="model")
    return (
        float(spearmanr(published["strength"], published["ae2_win_rate"]).statistic),
        float(spearmanr(people["strength"], people["elo"]).statistic),
    )


def bench(data: Path, home: Home, quick: bool) -> dict[str, object]:
    """Everything that is printed."""
    answers, preferences, models = read_tables(data, quick)
    home.root.mkdir(parents=True, exist_ok=True)
    home.config.write_text(CONFIG.format(requests=answers["request_id"].n_unique()), encoding="utf-8")
    began = time.monotonic()
    with dagster_environment(home) as environment:
        os.environ.update(environment)
        from dagster import DagsterInstance

        with DagsterInstance.get():
            started = time.monotonic() - began
        project = open_project(home)
        seconds = {"start": started} | import_all(project, answers, preferences) | run_flywheel()
        versions = project.lake.versions()
        again = import_all(project, answers, preferences) | run_flywheel()
        changed = project.lake.versions() != versions
    counts = project.lake.query(
        "SELECT (SELECT count(*) FROM replay_matrix) AS cells, (SELECT count(*) FROM verdicts) AS verdicts, "
        "(SELECT count(*) FROM qbawa) AS pairs"
    ).row(0, named=True)
    published, arena = compare(project, preferences, models, data)
    return {
        **counts,
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
        "seconds_total": round(sum(seconds.values()), 1),
        "peak_mb": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)
        ),
        "spearman_published": round(published, 4),
        "spearman_arena": round(arena, 4),
        "second_run": {
            "seconds": {stage: round(value, 2) for stage, value in again.items()},
            "seconds_total": round(sum(again.values()), 1),
            "changed": changed,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--home", type=Path, help="keep the home here instead of in a temporary folder")
    parser.add_argument("--quick", action="store_true", help="60 requests")
    parser.add_argument("--json", action="store_true", help="print the JSON object (always does)")
    arguments = parser.parse_args()
    if arguments.home:
        result = bench(arguments.data, Home(arguments.home.resolve()), arguments.quick)
    else:
        with tempfile.TemporaryDirectory(prefix="qbawa-anchors-") as folder:
            result = bench(arguments.data, Home(Path(folder).resolve()), arguments.quick)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
