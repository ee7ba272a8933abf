"""Stage 4: QBaWa, and the datasets made of it."""

from dagster import AssetCheckResult, AssetCheckSpec, AssetExecutionContext, DagsterInstance, MaterializeResult, asset

from qbawa.datasets import stage as datasets_stage
from qbawa.project import Project
from qbawa_assets.automation import WHEN_INPUTS_CHANGE
from qbawa_assets.metadata import columns_of, counts, mean_of, preview, version_of
from qbawa_assets.tournaments import judge_reliability, ratings
from resources import ProjectResource


def pair(instance: DagsterInstance, project: Project) -> MaterializeResult:
    """Build the pairs of every step."""
    report = datasets_stage.build_qbawa(project)
    shown = ["step", "request_id", "p_best", "basis", "best_answer", "worse_answer"]
    return MaterializeResult(
        asset_key="qbawa",
        metadata={
            "dagster/row_count": report.pairs.height,
            **mean_of(report.pairs, "p_best"),
            "by_split": counts(dict(report.pairs.group_by("split").len().iter_rows())),
            "removed": counts(report.removed),
            "preview": preview(report.pairs, shown),
        },
        data_version=version_of(report.pairs.select("pair_id", "p_best", "split")),
    )


@asset(
    deps=[ratings, judge_reliability],
    group_name="stage_4_qbawa",
    kinds={"deltalake"},
    metadata=columns_of("qbawa"),
    automation_condition=WHEN_INPUTS_CHANGE,
)
def qbawa(context: AssetExecutionContext, project: ProjectResource) -> MaterializeResult:
    """One row per pair: question, best answer, worse answer, and the probability that best really is better."""
    return pair(context.instance, project.open())


def export(instance: DagsterInstance, project: Project) -> MaterializeResult:
    """Write the datasets that qbawa.yaml declares."""
    exported = datasets_stage.export_datasets(project)
    return MaterializeResult(
        asset_key="qbawa_datasets",
        metadata={
            "dagster/row_count": exported.rows.height,
            "examples": int(exported.rows["rows"].sum()),
            "preview": preview(exported.rows, ["dataset", "version", "format", "rows", "path"]),
            **{f"refused_{name}": reason for name, reason in exported.refused.items()},
        },
        check_results=[
            AssetCheckResult(
                asset_key="qbawa_datasets",
                check_name="no_dataset_refused",
                passed=not exported.refused,
                metadata={"refused_datasets": len(exported.refused), **exported.refused},
            )
        ],
        data_version=version_of(exported.rows.select("dataset", "sha256")),
    )


@asset(
    deps=[qbawa],
    group_name="stage_4_qbawa",
    kinds={"parquet"},
    metadata=columns_of("datasets"),
    automation_condition=WHEN_INPUTS_CHANGE,
    check_specs=[
        AssetCheckSpec(
            "no_dataset_refused",
            asset="qbawa_datasets",
            description="No dataset had to be refused, such as for a question that stands in two splits.",
        )
    ],
)
def qbawa_datasets(context: AssetExecutionContext, project: ProjectResource) -> MaterializeResult:
    """One row per exported dataset version, as qbawa.yaml declares them; the files stand under `exports/`."""
    return export(context.instance, project.open())
