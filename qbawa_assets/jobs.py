"""Jobs: exactly the missing cells, exactly the open matches, and the whole flywheel once.

They are made of ops, since one run of an asset job cannot hold assets of different partitions. Every op reports what
it made as materialisations of the assets, so the UI shows the same picture whichever way something was made.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dagster import (
    AssetCheckEvaluation,
    AssetKey,
    AssetMaterialization,
    Config,
    DagsterInstance,
    In,
    MaterializeResult,
    MetadataValue,
    Nothing,
    OpDefinition,
    OpExecutionContext,
    Out,
    job,
    op,
)
from pydantic import Field

from qbawa.engine.counted import Counted
from qbawa.ingest import stage as ingest_stage
from qbawa.project import Project
from qbawa.tournaments import stage as tournaments_stage
from qbawa_assets.datasets import export, pair, qbawa, qbawa_datasets
from qbawa_assets.improvement import champions, promote
from qbawa_assets.model_checks import fail_for_silent_models, note_cap, say_what_is_wrong
from qbawa_assets.partition_events import PartitionEvents
from qbawa_assets.partition_reports import fail_for_failed_cells, fail_for_judging, report_brackets
from qbawa_assets.partitions import recording_batches
from qbawa_assets.provenance import provenance_tags
from qbawa_assets.recordings import choose, ingest, recordings, replay_set
from qbawa_assets.replay import declare, strategies
from qbawa_assets.staleness import Unchanged, newest_answers, note_judged, note_played_out, nothing_to_play
from qbawa_assets.sweeps import ReplaySweep, sweep
from qbawa_assets.sweeps import choose as choose_sweep
from qbawa_assets.tournaments import human_verdicts, judge_reliability, rate, rate_jury, ratings, take_human
from resources import ProjectResource

if TYPE_CHECKING:
    from qbawa.tournaments.play import PlayReport

AFTER = {"after": In(Nothing)}


class TournamentSweep(Config):
    steps: list[str] = Field([], description="Steps to play; default: all.")
    verdict_budget: int | None = Field(None, description="Verdicts a step at most; default: qbawa.yaml's.")
    usd: float | None = Field(None, description="Dollar cap of this run, besides those in qbawa.yaml.")


_MADE_OF = {
    key: made_of
    for asset in (
        *(recordings, replay_set, strategies, human_verdicts, ratings, judge_reliability),
        *(qbawa, qbawa_datasets, champions),
    )
    for key, made_of in asset.asset_deps.items()
}


def _report(context: OpExecutionContext, result: MaterializeResult, partition: str | None = None) -> None:
    """Log what a stage returned as the materialisation and the checks that its asset would have made."""
    key = result.asset_key
    assert key is not None
    tags = provenance_tags(context.instance, _MADE_OF[key], result.data_version, context.run_id)
    context.log_event(AssetMaterialization(key, partition=partition, metadata=result.metadata, tags=tags))
    for check in result.check_results or ():
        # The signature names three events; checks are taken too.
        context.log_event(
            AssetCheckEvaluation(  # type: ignore[arg-type]
                asset_key=key,
                check_name=str(check.check_name),
                passed=check.passed,
                metadata=check.metadata or {},
                severity=check.severity,
            )
        )


def _stage(
    name: str, body: Callable[[DagsterInstance, Project], MaterializeResult], *, reads: Sequence[str], writes: str
) -> OpDefinition:
    """An op that makes one unpartitioned asset, after the stage before it, if any table that it reads has changed."""

    @op(name=name, ins=AFTER, out=Out(Nothing), description=body.__doc__)
    def run(context: OpExecutionContext, project: ProjectResource) -> None:
        opened = project.open()
        unchanged = Unchanged(opened)
        if unchanged.since(name, reads, writes):
            context.log.info(f"Nothing new in {', '.join(reads)}; {writes} stays as it is.")
            return
        _report(context, body(context.instance, opened))
        unchanged.note(name, reads, writes)

    return run


@op(ins=AFTER, out=Out(Nothing))
def take_recordings(context: OpExecutionContext, project: ProjectResource) -> None:
    """Take in every batch of recordings that the lake does not hold yet."""
    opened = project.open()
    batches = ingest_stage.new_batches(opened)
    # What was imported by hand, or by a run that was killed before it could say so.
    unreported = ingest_stage.held_batches(opened) - context.instance.get_materialized_partitions(
        AssetKey("recordings")
    )
    context.instance.add_dynamic_partitions(str(recording_batches.name), sorted({*batches, *unreported}))
    PartitionEvents.of(context, "recordings").materialized((name, {}) for name in sorted(unreported))
    taking = Counted(context.log.info, "taking in", len(batches), "batches")
    try:
        for batch in batches:
            _report(context, ingest(opened, [batch], context.log.info, publish=False), batch)
            taking.advance()
    finally:
        opened.publish()


@op(ins=AFTER, out=Out(Nothing), pool="model_calls")
def sweep_matrix(context: OpExecutionContext, config: ReplaySweep, project: ProjectResource) -> None:
    """Answer exactly the cells that are missing or failed. Failed cells show red when the run ends, all others stay."""
    opened = project.open()
    chosen = choose_sweep(opened, config)
    judging = [tournaments_stage.judge_uses(opened, chosen["step"].unique())] if context.job_name == "flywheel" else []
    sweep(context, opened, config, chosen, *judging)


@op(ins=AFTER, out=Out(Nothing))
def check_models(context: OpExecutionContext, project: ProjectResource) -> None:
    """End the run before anything is judged if a model answered none of its cells."""
    fail_for_silent_models(context, project.open())


@op(ins=AFTER, out=Out(str), pool="model_calls")
def sweep_brackets(context: OpExecutionContext, config: TournamentSweep, project: ProjectResource) -> str:
    """Play the matches that are still worth their verdicts, within the budget; what kept them from their end, or ''."""
    opened = project.open()
    whole = not config.steps and config.verdict_budget is None
    if whole and nothing_to_play(opened):
        context.log.info("Nothing new to judge: tournaments have been played to their end on what is there.")
        # Imports, and what a killed run had judged but not yet reported.
        report_brackets(context, opened, ())
        return ""
    # Read before: an answer that comes meanwhile counts as not judged yet.
    answers = newest_answers(opened)
    problems = {}
    if context.job_name != "flywheel":  # which has said it before anything was answered
        steps = config.steps or opened.lake.blocks("replay_set")
        problems = say_what_is_wrong(context, opened, tournaments_stage.judge_uses(opened, steps), usd=config.usd)
    report = _play(context, opened, config)
    context.add_output_metadata(report.metadata() | problems)
    while whole and not report.capped and not report.failure:
        context.log.info("looking whether any match is open now")
        # The last verdicts have moved what all others count for, which may open another match.
        if note_played_out(opened) or not report.verdicts:
            break
        report = _play(context, opened, config)
    if not config.steps:
        note_judged(opened, answers)
    note_cap(context, report.capped)
    return report.failure or ""


def _play(context: OpExecutionContext, project: Project, config: TournamentSweep) -> "PlayReport":
    """Tournaments as far as they go now, and their brackets reported."""
    report = tournaments_stage.play(
        project,
        steps=config.steps or None,
        verdict_budget=config.verdict_budget,
        run_id=context.run_id,
        log=context.log.info,
        usd=config.usd,
    )
    project.publish()
    context.log.info(report.summary())
    report_brackets(context, project, report.matches_by_request, report.unfinished)
    return report


@op(ins=AFTER)
def check_cells(context: OpExecutionContext, project: ProjectResource) -> None:
    """End the run in failure if cells of it failed, which is what shows them red."""
    fail_for_failed_cells(context, project.open())


@op(ins=AFTER)
def check_brackets(failure: str) -> None:
    """End the run in failure if tournaments could not be played to their end; what was judged is rated by then."""
    fail_for_judging(failure)


@op(ins=AFTER, out=Out(Nothing))
def maintain(context: OpExecutionContext, project: ProjectResource) -> None:
    """Join the lake's small files, delete what is older than it need be, and publish a new catalog."""
    from qbawa_assets.retention import delete_old_logs, delete_old_runs  # alembic, which no other run needs

    opened = project.open()
    done: dict[str, Any] = opened.maintain()
    metadata: dict[str, MetadataValue] = {table: MetadataValue.json(counts) for table, counts in done.items()}
    metadata["journals"] = MetadataValue.json(asdict(ingest_stage.retire_journals(opened)))
    days = opened.config.retention
    metadata["runs"] = MetadataValue.json(asdict(delete_old_runs(context.instance, days.runs_days)))
    metadata["logs"] = MetadataValue.int(delete_old_logs(context.instance, days.logs_days))
    context.add_output_metadata(metadata)


JUDGED = ("matches", "verdicts", "replay_matrix", "strategies")
choose_requests = _stage("choose_requests", choose, reads=("recordings", "feedback"), writes="replay_set")
rate_strategies = _stage("rate_strategies", rate, reads=JUDGED, writes="ratings")
rate_judges = _stage("rate_judges", rate_jury, reads=JUDGED, writes="judge_reliability")
build_pairs = _stage("build_pairs", pair, reads=(*JUDGED, "recordings", "replay_set"), writes="qbawa")
export_datasets = _stage(
    "export_datasets", export, reads=("qbawa", "recordings", "judge_reliability"), writes="datasets"
)
promote_champions = _stage("promote_champions", promote, reads=("ratings", *JUDGED), writes="champions")


@op(ins=AFTER, out=Out(Nothing))
def declare_strategies(context: OpExecutionContext, project: ProjectResource) -> None:
    """Expand what qbawa.yaml and the files that it names declare into strategies."""
    _report(context, declare(context.instance, project.open()))


@op(ins=AFTER, out=Out(Nothing))
def take_human_verdicts(context: OpExecutionContext, project: ProjectResource) -> None:
    """Take in what people have judged."""
    _report(context, take_human(context.instance, project.open()))


@op(ins=AFTER, out=Out(Nothing))
def reread_verdicts(context: OpExecutionContext, project: ProjectResource) -> None:
    """Re-read every raw reply of a judge, in case the parser has improved."""
    context.log.info(f"{tournaments_stage.reread_verdicts(project.open()):,} verdicts are read otherwise than before.")


@job(description="Take in new recordings and choose the requests that stand for all traffic.")
def take_new_recordings() -> None:
    declare_strategies(choose_requests(take_recordings()))


@job(description="Answer exactly the cells of the replay matrix that are missing or failed.")
def replay_sweep() -> None:
    check_cells(sweep_matrix(declare_strategies(choose_requests())))


@job(
    description="Take in people's verdicts, re-read judges' replies, then decide, rate, pair and promote again. Asks no model."
)
def judge_anew() -> None:
    judged = rate_judges(rate_strategies(take_human_verdicts(reread_verdicts())))
    promote_champions(export_datasets(build_pairs(judged)))


@job(description="Let answers meet where verdicts are still worth their price.")
def tournament_sweep() -> None:
    failure = sweep_brackets()
    check_brackets(failure, after=rate_judges(rate_strategies(take_human_verdicts(failure))))


@job(name="flywheel", description="The whole flywheel once: from new recordings to datasets and champions.")
def flywheel_job() -> None:
    failure = sweep_brackets(check_models(sweep_matrix(declare_strategies(choose_requests(take_recordings())))))
    judged = rate_judges(rate_strategies(take_human_verdicts(failure)))
    done = promote_champions(export_datasets(build_pairs(judged)))
    check_cells(done)
    check_brackets(failure, after=done)


@job(description="Compact and clean the lake; delete old runs and logs, put old journals aside.")
def maintain_lake() -> None:
    maintain()
