"""Stage 5: who goes to production."""

from dagster import AssetExecutionContext, DagsterInstance, MaterializeResult, asset

from qbawa.optimize import stage as optimize_stage
from qbawa.project import Project
from qbawa_assets.automation import WHEN_INPUTS_CHANGE
from qbawa_assets.metadata import columns_of, preview, version_of
from qbawa_assets.tournaments import ratings
from resources import ProjectResource


def promote(instance: DagsterInstance, project: Project) -> MaterializeResult:
    """Promote what is surely better than the champion before."""
    rows = optimize_stage.promote(project)
    shown = ["step", "strategy_id", "beat_strategy_id", "p_better"]
    return MaterializeResult(
        asset_key="champions",
        metadata={"dagster/row_count": rows.height, "promoted": rows.height, "preview": preview(rows, shown)},
        data_version=version_of(project.lake.read("champions", ["step", "strategy_id", "promoted_at"])),
    )


@asset(
    deps=[ratings],
    group_name="stage_4_qbawa",
    kinds={"deltalake"},
    metadata=columns_of("champions"),
    automation_condition=WHEN_INPUTS_CHANGE,
)
def champions(context: AssetExecutionContext, project: ProjectResource) -> MaterializeResult:
    """One row per promotion: the strategy of each step that is surely better than the champion before."""
    return promote(context.instance, project.open())
