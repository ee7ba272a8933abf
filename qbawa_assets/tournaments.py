"""Stage 3: answers meet, judges decide, and judges are judged."""

from dagster import AssetExecutionContext, BackfillPolicy, MaterializeResult, asset

from qbawa import flywheel
from qbawa.brackets.run import play
from qbawa_assets.partitions import requests
from qbawa_assets.replay import replay_matrix, strategies
from qbawa_assets.shown import columns_of, counts, picture, preview
from resources import ProjectResource


@asset(
    deps=[replay_matrix],
    partitions_def=requests,
    backfill_policy=BackfillPolicy.single_run(),
    group_name="3_judge",
    kinds={"deltalake"},
    pool="replay",
    metadata=columns_of("matches"),
)
def tournament_brackets(context: AssetExecutionContext, project: ProjectResource) -> MaterializeResult:
    """One row per match. A partition is the bracket of one request; the job `tournament_sweep` plays all of them."""
    opened = project.open()
    report = play(opened, requests=context.partition_keys, run_id=context.run_id, log=context.log.info)
    bracket = flywheel.bracket_picture(opened.lake, context.partition_keys[0])
    return MaterializeResult(metadata=report.metadata() | {"bracket": picture(bracket)})


@asset(group_name="3_judge", kinds={"deltalake"}, metadata=columns_of("verdicts"))
def human_verdicts(project: ProjectResource) -> MaterializeResult:
    """People's verdicts: tables dropped into the home's folder `human_verdicts/`, as `qbawa import --as verdicts` takes them."""
    report = flywheel.take_human_verdicts(project.open())
    return MaterializeResult(metadata={"dagster/row_count": report.verdicts, "files": counts(report.by_file)})


@asset(
    deps=[tournament_brackets, human_verdicts, strategies],
    group_name="3_judge",
    kinds={"deltalake"},
    metadata=columns_of("ratings"),
)
def ratings(project: ProjectResource) -> MaterializeResult:
    """One row per step and strategy: Bradley–Terry strength with an interval clustered by request."""
    rated = flywheel.rate_strategies(project.open())
    return MaterializeResult(
        metadata={
            "dagster/row_count": rated.rows.height,
            "preview": preview(rated.rows, ["step", "name", "rank", "strength", "low", "high", "win_rate", "matches"], 20),
            **{f"ratings_{step}": picture(png) for step, png in rated.forests.items()},
            **{f"cost_against_strength_{step}": picture(png) for step, png in rated.fronts.items()},
        }
    )


@asset(
    deps=[tournament_brackets, human_verdicts],
    group_name="3_judge",
    kinds={"deltalake"},
    metadata=columns_of("judge_reliability"),
)
def judge_reliability(project: ProjectResource) -> MaterializeResult:
    """One row per step and judge: agreement with people and jury, biases, unscored share, and whether people are still needed."""
    rows = flywheel.judge_judges(project.open())
    return MaterializeResult(metadata={"dagster/row_count": rows.height, "preview": preview(rows)})
