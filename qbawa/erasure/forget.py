"""The order in which a request is forgotten: first noted, then removed place by place, the note last.

Every step may be done twice. Whatever kills it, the note says how to go on, and until that is done nobody else writes in
the home (`qbawa.storage.occupancy`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qbawa.engine.ledger.to_lake import delete_loaded, load_calls
from qbawa.erasure import files, journals, tables
from qbawa.erasure.plan import Plan, make_plan, unfinished
from qbawa.errors import InputError, QbawaError
from qbawa.project import Home
from qbawa.storage.catalog import publish
from qbawa.storage.lake import Lake
from qbawa.storage.occupancy import UNFINISHED, alone

Elsewhere = Callable[[Path, bool], Mapping[str, int]]
"""Removes a request from a store that this library does not know; takes the plan's file and whether an earlier call was
interrupted, returns what it removed."""


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """What `forget` did, and what it could not do. After an interruption: what the last call did."""

    request_id: str
    rows: dict[str, int]
    """Rows removed, by table."""
    journal_lines: int
    """Lines cut out of journal segments."""
    reassigned_calls: int
    """Calls of this request that another one asked word for word: they stay, under the other's name."""
    verdict_rows: int
    """Rows cut out of people's tables of verdicts."""
    log_lines: int
    """Lines cut out of log files."""
    dagster: dict[str, int]
    """What was deleted or made unreadable in Dagster's PostgreSQL, by table."""
    strategies: list[str]
    """Strategies that carried its text (as an example, say): retired, their templates erased. Champions among them are
    to be replaced."""
    stale_steps: list[str]
    """Steps whose ratings, pairs and judge reliability must be built again, unless `rebuild` has done it."""
    not_rebuilt: str | None
    """Why `rebuild` failed, None where it did not."""
    datasets: list[str]
    """Exported dataset versions that held it, deleted in the home. Tell whoever has copies."""
    copies: list[str]
    """Those of them that stand outside the home's exports, untouched."""
    imported_from: list[str]
    """Files outside that it came from: importing them again would bring it back."""
    files: list[str]
    """Files that still mention it: qbawa.yaml (pins, examples), strategy files, what the user keeps in the home."""
    lake_elsewhere: str | None
    """Address of a lake outside the home, whose store may keep versions or copies of its own."""


def forget(
    lake: Lake,
    home: Home,
    request_id: str,
    *,
    journals: Sequence[Path] | None = None,
    rebuild: Callable[[list[str]], object] | None = None,
    elsewhere: Elsewhere | None = None,
    also_search: Sequence[Path] = (),
) -> ForgetReport:
    """Remove a request from everything under the home (`journals`: all folders of recordings) and from the lake.

    `rebuild` is called with the stale steps before old files are deleted, so that nothing of the old pairs stays either;
    `elsewhere` once with the plan's file. `also_search`: files outside the home that may mention it.
    Raises InputError where nothing holds the request, or another one's forgetting must be finished first; BusyError where
    somebody is writing in the home.
    """
    folders = [home.journal] if journals is None else list(journals)
    with alone(home.root):
        plan = unfinished(home)
        resumed = plan is not None
        if plan is not None and plan.request_id != request_id:
            raise InputError(
                f"Forgetting '{plan.request_id}' was interrupted. Finish that first: `qbawa forget --resume`."
            )
        _take_in_calls(lake, home, folders, request_id)
        if plan is None:
            plan = make_plan(lake, home, request_id)
            plan.write(home)
        report = _forget(lake, home, plan, folders, resumed, rebuild, elsewhere, also_search)
        plan.done(home)
        if not resumed and _found_nothing(report):
            raise InputError(
                f"Nothing holds the request '{request_id}'. `qbawa sql` lists requests: "
                "SELECT DISTINCT request_id FROM recordings."
            )
        return report


def _forget(
    lake: Lake,
    home: Home,
    plan: Plan,
    folders: Sequence[Path],
    resumed: bool,
    rebuild: Callable[[list[str]], object] | None,
    elsewhere: Elsewhere | None,
    also_search: Sequence[Path],
) -> ForgetReport:
    files.delete_drafts(home, folders)
    lines = sum(journals.cut_segments(folder, folders[0], plan.request_id) for folder in folders)
    verdict_rows = files.cut_verdict_files(home, plan.request_id)
    copies = files.remove_exports(home, plan.datasets)
    rows, reassigned = tables.forget_rows(lake, plan)
    removed = dict(elsewhere(home.root / UNFINISHED, resumed)) if elsewhere is not None else {}
    not_rebuilt = None
    if rebuild is not None and plan.stale_steps:
        try:
            rebuild(plan.stale_steps)
        except QbawaError as error:
            not_rebuilt = str(error)  # the next run says it too; that must not keep the rest from being removed
    in_home = Path(lake.uri).is_relative_to(home.root.absolute())
    # A request that the lake never held leaves its old versions in peace.
    for table in lake.versions() if resumed or rows or plan.strategies else ():
        lake.purge(table, alone=in_home)
    publish(lake, home.catalog)
    return ForgetReport(
        request_id=plan.request_id,
        rows=rows,
        journal_lines=lines,
        reassigned_calls=reassigned,
        verdict_rows=verdict_rows,
        log_lines=files.cut_logs(home, plan.quotes),
        dagster=removed,
        strategies=plan.strategies,
        stale_steps=plan.stale_steps,
        not_rebuilt=not_rebuilt,
        datasets=[str(home.whole_path(path)) for path in plan.datasets],
        copies=copies,
        imported_from=plan.imported_from,
        files=files.mentions(home, plan.quotes, also_search),
        lake_elsewhere=None if in_home else lake.uri,
    )


def _take_in_calls(lake: Lake, home: Home, folders: Sequence[Path], request_id: str) -> None:
    """Bring paid calls to where they can be cut out: the lake. Raises BusyError where somebody is still writing."""
    journals.refuse_growing([folder for folder in (*folders, home.calls) if folder.is_dir()], request_id)
    if home.calls.is_dir():
        load_calls(lake, home.calls)
        # A loaded segment stays for a day, for runs under way; there is none, and its calls are in the lake.
        delete_loaded(home.calls, older_than_s=0)


def _found_nothing(report: ForgetReport) -> bool:
    return not (
        report.rows
        or report.journal_lines
        or report.verdict_rows
        or report.log_lines
        or report.dagster
        or report.strategies
        or report.datasets
        or report.files
    )
