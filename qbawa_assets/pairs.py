"""Stage 4: QBaWa, the datasets made of it, and the champions."""

from dagster import AssetCheckResult, AssetCheckSpec, MaterializeResult, asset

from qbawa import flywheel
from qbawa_assets.shown import columns_of, counts, picture, preview
from qbawa_assets.tournaments import judge_reliability, ratings
from resources import ProjectResource


@asset(deps=[ratings, judge_reliability], group_name="4_qbawa", kinds={"deltalake"}, metadata=columns_of("qbawa"))
def qbawa(project: ProjectResource) -> MaterializeResult:
    """One row per pair: question, best answer, worse answer, and the probability that best really is better."""
    report = flywheel.build_qbawa(project.open())
    return MaterializeResult(
        metadata={
            "dagster/row_count": report.pairs.height,
            "by_split": counts(dict(report.pairs.group_by("split").len().iter_rows())),
            "removed": counts(report.removed),
            "preview": preview(report.pairs, ["step", "request_id", "p_best", "basis", "best_answer", "worse_answer"]),
        }
    )


@asset(
    deps=[qbawa],
    group_name="4_qbawa",
    kinds={"parquet"},
    metadata=columns_of("datasets"),
    check_specs=[AssetCheckSpec("no_question_in_two_splits", asset="qbawa_datasets", blocking=True)],
)
def qbawa_datasets(project: ProjectResource) -> MaterializeResult:
    """One row per exported dataset version, as qbawa.yaml declares them; the files stand under `exports/`."""
    exported = flywheel.export_datasets(project.open())
    return MaterializeResult(
        metadata={
            "dagster/row_count": exported.rows.height,
            "preview": preview(exported.rows, ["dataset", "version", "format", "rows", "path"]),
            **{f"refused_{name}": reason for name, reason in exported.refused.items()},
        },
        check_results=[
            AssetCheckResult(
                check_name="no_question_in_two_splits",
                passed=not exported.refused,
                metadata={name: reason for name, reason in exported.refused.items()},
            )
        ],
    )


@asset(deps=[ratings], group_name="4_qbawa", kinds={"deltalake"}, metadata=columns_of("champions"))
def champions(project: ProjectResource) -> MaterializeResult:
    """One row per promotion: the strategy of each step that is surely better than the champion before."""
    rows = flywheel.promote(project.open())
    return MaterializeResult(
        metadata={"dagster/row_count": rows.height, "preview": preview(rows, ["step", "strategy_id", "beat_strategy_id", "p_better"])}
    )
