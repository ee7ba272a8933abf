"""Stage 3: answers meet, judges decide, and judges are judged."""

from collections.abc import Iterator

from dagster import (
    AssetCheckResult,
    AssetCheckSpec,
    AssetExecutionContext,
    BackfillPolicy,
    DagsterInstance,
    DataVersion,
    MaterializeResult,
    asset,
)

from qbawa.project import Project
from qbawa.tournaments import stage as tournaments_stage
from qbawa_assets.automation import WHEN_INPUTS_CHANGE
from qbawa_assets.checks import rating_checks, rating_specs
from qbawa_assets.metadata import columns_of, counts, mean_of, picture, preview, version_of
from qbawa_assets.model_checks import note_cap
from qbawa_assets.partition_keys import name_of
from qbawa_assets.partition_reports import fail_for_judging, report_brackets
from qbawa_assets.partitions import requests
from qbawa_assets.replay import replay_matrix, strategies
from resources import ProjectResource


@asset(
    deps=[replay_matrix],
    partitions_def=requests,
    backfill_policy=BackfillPolicy.single_run(),
    group_name="stage_3_judge",
    kinds={"deltalake"},
    pool="model_calls",
    output_required=False,
    metadata=columns_of("matches"),
)
def tournament_brackets(context: AssetExecutionContext, project: ProjectResource) -> Iterator[MaterializeResult]:
    """One row per match. A partition is the bracket of one request; the job `tournament_sweep` plays all of them."""
    opened = project.open()
    asked = [name_of(key) for key in context.partition_keys]
    report = tournaments_stage.play(opened, requests=asked, run_id=context.run_id, log=context.log.info)
    opened.publish()
    context.log.info(report.summary())
    report_brackets(context, opened, asked, report.unfinished)
    note_cap(context, report.capped)
    fail_for_judging(report.failure)
    # Each bracket has reported itself. A result here would say the same of every request of the range.
    yield from ()


def take_human(instance: DagsterInstance, project: Project) -> MaterializeResult:
    """Take in what people have judged."""
    report = tournaments_stage.take_human_verdicts(project)
    return MaterializeResult(
        asset_key="human_verdicts",
        metadata={"dagster/row_count": report.verdicts, "new_by_file": counts(report.by_file)},
        data_version=DataVersion(f"{report.verdicts}-{report.content}"),
        check_results=[
            AssetCheckResult(
                asset_key="human_verdicts",
                check_name="no_file_refused",
                passed=not report.refused,
                metadata={"refused_files": len(report.refused), **report.refused},
            )
        ],
    )


@asset(
    group_name="stage_3_judge",
    kinds={"deltalake"},
    metadata=columns_of("verdicts"),
    check_specs=[
        AssetCheckSpec(
            "no_file_refused", asset="human_verdicts", description="Every table in `human_verdicts/` could be taken in."
        )
    ],
)
def human_verdicts(context: AssetExecutionContext, project: ProjectResource) -> MaterializeResult:
    """People's verdicts: tables dropped into the home's folder `human_verdicts/` (docs/importing.md says which columns)."""
    return take_human(context.instance, project.open())


def rate(instance: DagsterInstance, project: Project) -> MaterializeResult:
    """Rate every strategy of every step."""
    rated = tournaments_stage.rate_strategies(project)
    shown = ["step", "rank", "name", "strength", "low", "high", "win_rate", "matches", "mean_cost_usd"]
    return MaterializeResult(
        asset_key="ratings",
        metadata={
            "dagster/row_count": rated.rows.height,
            **{f"order_effect_points_{s}": effect.points for s, effect in rated.order_effects.items() if effect},
            **{f"unscored_share_{step}": share for step, share in rated.unscored_shares.items()},
            **{f"judging_usd_{step}": usd for step, usd in rated.judging_usd.items()},
            "preview": preview(rated.rows, shown, 20),
            **{f"ratings_{step}": picture(png) for step, png in rated.forests.items()},
            **{f"cost_against_strength_{step}": picture(png) for step, png in rated.fronts.items()},
        },
        check_results=rating_checks(rated),
        data_version=version_of(rated.rows),
    )


@asset(
    deps=[tournament_brackets, human_verdicts, strategies],
    group_name="stage_3_judge",
    kinds={"deltalake"},
    metadata=columns_of("ratings"),
    automation_condition=WHEN_INPUTS_CHANGE,
    check_specs=rating_specs("ratings"),
)
def ratings(context: AssetExecutionContext, project: ProjectResource) -> MaterializeResult:
    """One row per step and strategy: Bradley–Terry strength with an interval clustered by request."""
    return rate(context.instance, project.open())


def rate_jury(instance: DagsterInstance, project: Project) -> MaterializeResult:
    """Judge the judges."""
    from qbawa.tournaments import plots

    rows = tournaments_stage.rate_judges(project)
    shown = ["step", "judge", "verdicts", "agreement_human", "agreement_low", "agreement_jury", "position_bias", "gate"]
    return MaterializeResult(
        asset_key="judge_reliability",
        metadata={
            "dagster/row_count": rows.height,
            **mean_of(rows, "agreement_human", "agreement_jury"),
            "unscored": int(rows["unscored"].sum()),
            "judges": picture(plots.judges(rows, "How far judges can be trusted")),
            "preview": preview(rows, shown, 40),
        },
        data_version=version_of(rows),
    )


@asset(
    deps=[tournament_brackets, human_verdicts],
    group_name="stage_3_judge",
    kinds={"deltalake"},
    metadata=columns_of("judge_reliability"),
    automation_condition=WHEN_INPUTS_CHANGE,
)
def judge_reliability(context: AssetExecutionContext, project: ProjectResource) -> MaterializeResult:
    """One row per step and judge: agreement with people and jury, biases, unscored share, and whether people are needed."""
    return rate_jury(context.instance, project.open())
