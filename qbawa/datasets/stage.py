"""Stage 4: pairs out of matches, datasets out of pairs.

Door of the package to the lake. What is heavy (scipy, the writers of formats) is imported where it is used: every Dagster
process imports this module.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import polars as pl

from qbawa.errors import InputError, LeakError
from qbawa.project import Project
from qbawa.replay.strategies.repository import strategy_names
from qbawa.storage.frames import frame, now
from qbawa.tournaments.stage import rows_in_order

if TYPE_CHECKING:
    from qbawa.datasets.exports.card import Facts
    from qbawa.datasets.pairs.build import PairsReport
    from qbawa.datasets.pairs.unchanged import BuiltStep


def build_qbawa(project: Project) -> "PairsReport":
    """Build the pairs of every step whose matches, verdicts, answers, questions or settings have changed; the others' stay.

    Splits that were given stay. The report is of all steps.
    """
    from qbawa.datasets.pairs.build import SCHEMA, build_pairs
    from qbawa.datasets.pairs.unchanged import Built, BuiltStep, hash_of
    from qbawa.tournaments.agreement.calibration import calibrate

    lake, settings = project.lake, project.config.pairs.model_dump(mode="json")
    last = Built.read(project.notes.get(_BUILT))
    # Pairs that were built before a column was added have nothing in it, whatever stands in the tables.
    of_tables = {table: lake.state(table) for table in _MADE_OF}
    inputs = hash_of({"pairs": settings, "tables": of_tables, "columns": list(SCHEMA)})
    if last.inputs == inputs and last.pairs == list(lake.state("qbawa")):
        project.publish()
        return _report(lake.read("qbawa"), last.steps)
    matches, verdicts, cells = (
        rows_in_order(lake, "matches"),
        rows_in_order(lake, "verdicts"),
        rows_in_order(lake, "replay_matrix"),
    )
    asked = questions(project, cells.select("step", "request_id").unique())
    known = lake.read("qbawa")
    splits = known.select("request_id", "split")
    frames, steps, at = [known.clear()], dict[str, BuiltStep](), now()
    for step in cells["step"].unique().sort():
        here = pl.col("step") == step
        of_step = matches.filter(here), verdicts.filter(here), cells.filter(here), asked.filter(here)
        made_of = hash_of({"pairs": settings}, (*of_step[:3], of_step[3].sort("request_id")))
        before, built = known.filter(here), last.steps.get(step)
        if built is not None and (made_of, _pairs_hash(before)) == (built.made_of, built.pairs):
            frames.append(before)
            steps[step] = built
            continue
        report = build_pairs(*of_step, project.config.pairs, calibrate(of_step[1]), previous=splits, built_at=at)
        # A request has one split, whichever of its steps is asked first.
        splits = pl.concat([splits, report.pairs.select("request_id", "split")]).unique(
            "request_id", keep="first", maintain_order=True
        )
        pairs = report.pairs.select(known.columns)
        frames.append(pairs)
        steps[step] = BuiltStep(made_of, _pairs_hash(pairs), report.removed, report.effect[step])
    pairs = pl.concat(frames)
    # The same pairs built again are the pairs that were built before, and no new version of the table.
    if pairs.drop("built_at").sort("pair_id").equals(known.drop("built_at").sort("pair_id")):
        pairs = known
    lake.replace("qbawa", sorted({*pairs["block_id"], *known["block_id"]}), pairs)
    project.notes.put(_BUILT, Built(inputs, lake.state("qbawa"), steps).text())
    project.publish()
    return _report(pairs, steps)


_BUILT = "built_pairs.json"
_MADE_OF = ("matches", "verdicts", "replay_matrix", "recordings", "replay_set")


def _pairs_hash(pairs: pl.DataFrame) -> str:
    """Of a step's pairs, whenever they were built."""
    from qbawa.datasets.pairs.unchanged import hash_of

    return hash_of({}, [pairs.drop("built_at").sort("pair_id")])


def _report(pairs: pl.DataFrame, steps: "Mapping[str, BuiltStep]") -> "PairsReport":
    from qbawa.datasets.pairs.build import PairsReport

    removed: Counter[str] = Counter()
    for built in steps.values():
        removed.update(built.removed)
    return PairsReport(pairs, dict(removed), {step: built.effect for step, built in steps.items()})


def questions(project: Project, asked: pl.DataFrame) -> pl.DataFrame:
    """What was asked: one row per (step, request_id) of `asked`, with question (JSON messages), parameters and cluster.

    The question is the recorded messages or, where there are none, one user message that holds the inputs; parameters is
    what was asked besides: tools on offer, the form of the reply.
    """
    from qbawa.datasets.pairs.asked import asked_besides

    lake = project.lake
    recorded = (
        lake.read(
            "recordings",
            ["step", "request_id", "recorded_at", "messages", "inputs", "parameters"],
            # Few of all requests are in the replay set.
            keep=pl.col("request_id").is_in(asked["request_id"].unique().sort().to_list()),
        )
        .join(asked, on=["step", "request_id"], how="semi")
        .sort("recorded_at")
        .unique(["step", "request_id"], keep="first", maintain_order=True)
    )
    clusters = lake.read("replay_set", ["step", "request_id", "cluster"])
    shown = [
        m or json.dumps([{"role": "user", "content": i or ""}])
        for m, i in recorded.select("messages", "inputs").iter_rows()
    ]
    return (
        asked.join(
            recorded.select(
                "step",
                "request_id",
                pl.Series("question", shown, pl.String),
                pl.Series("parameters", [asked_besides(text) for text in recorded["parameters"]], pl.String),
            ),
            on=["step", "request_id"],
            how="left",
        )
        .join(clusters, on=["step", "request_id"], how="left")
        .with_columns(pl.col("question").fill_null(json.dumps([{"role": "user", "content": ""}])))
    )


@dataclass(frozen=True, slots=True)
class Exported:
    """Rows of the table `datasets` for what was declared, and why a dataset could not be written, by name."""

    rows: pl.DataFrame
    refused: dict[str, str]
    pruned: list[str]
    """Folders of older versions that were deleted, relative to the home, as `datasets.NAME.keep` says."""


def export_datasets(project: Project, names: Sequence[str] | None = None) -> Exported:
    """Write the datasets that qbawa.yaml declares, or those of `names`; a version that is there already stays as it is.

    Files of versions that nobody needs are deleted where `keep` says so.
    Raises InputError for a name that is not declared. A dataset that is empty or leaks is refused; the others are written.
    """
    from qbawa.datasets.exports.export import export_dataset

    lake, declared = project.lake, project.config.datasets
    for name in names or ():
        if name not in declared:
            raise InputError(f"qbawa.yaml declares no dataset '{name}'. Declared: {', '.join(declared) or 'none'}.")
    pairs, versions = lake.read("qbawa").drop("block_id"), lake.versions()
    asking = {name for name in names or declared if declared[name].consent or declared[name].format == "dspy"}
    requests = _requests(project) if asking else None
    rows, refused = [], {}
    for name in names or declared:
        try:
            report = export_dataset(
                pairs,
                name,
                declared[name],
                project.home.exports,
                versions,
                requests=requests if name in asking else None,
                facts=partial(_facts, project, declared[name].steps),
            )
        except (LeakError, InputError) as error:
            refused[name] = str(error)
            continue
        rows.append(
            {
                "dataset": name,
                "version": report.version,
                "format": report.format,
                "path": str(report.path.relative_to(project.home.root)),
                "rows": sum(report.rows.values()),
                "sha256": report.sha256,
                "lake_versions": json.dumps(report.lake_versions, sort_keys=True),
                "pair_ids": report.pair_ids,
                "request_ids": report.request_ids,
                "created_at": now(),
                # A block of its own: noting a version does not write those of all others again.
                "block_id": f"{name}/{report.version}",
            }
        )
    exported = frame("datasets", rows)
    known = lake.read("datasets", ["dataset", "version"], keep=pl.col("pruned_at").is_null())
    lake.merge("datasets", exported.join(known, on=["dataset", "version"], how="anti"))
    pruned = [path for row in rows for path in _prune(project, str(row["dataset"]), str(row["version"]))]
    project.publish()
    return Exported(exported, refused, pruned)


def _prune(project: Project, dataset: str, current: str) -> list[str]:
    """Delete the files of a dataset's versions that nobody needs; their folders, relative to the home.

    Their rows stay, marked, so that `trace` still knows what stood in a copy, and `forget` who must be told. Marked first:
    where this is killed the next export finds the files of a marked version, and deletes them.
    """
    from qbawa.datasets.exports.prune import delete, files_of, unneeded

    lake, home, keep = project.lake, project.home, project.config.datasets[dataset].keep
    if keep is None:
        return []
    columns = ["version", "path", "created_at", "pruned_at"]
    # A version that another home exported into the same lake has no files here, and is its own to delete.
    noted = lake.read("datasets", columns, keep=pl.col("dataset") == dataset)
    here = {
        version: folder
        for version, path in noted.select("version", "path").iter_rows()
        if (folder := files_of(home.exports, dataset, version)) is not None
        and home.whole_path(path).resolve() == folder.resolve()
    }
    mine = noted.filter(pl.col("version").is_in(list(here)))
    gone = unneeded(mine, keep, current, _naming_versions(project)) if mine.height > keep else []
    if gone:
        marked = (pl.col("dataset") == dataset) & pl.col("version").is_in(gone)
        lake.merge("datasets", lake.read("datasets", keep=marked).with_columns(pruned_at=pl.lit(now())))
    left = mine.filter(pl.col("pruned_at").is_not_null() & (pl.col("version") != current))["version"].to_list()
    for version in (*left, *gone):
        delete(here[version])
    return [str(here[version].relative_to(home.root)) for version in gone]


def _naming_versions(project: Project) -> list[str]:
    """What may name a dataset version that is in use: strategies (a model trained on it), champions, qbawa.yaml."""
    lake = project.lake
    columns = {"strategies": ["name", "model", "template", "params", "program", "origin"], "champions": ["evidence"]}
    texts = [text for table, names in columns.items() for row in lake.read(table, names).iter_rows() for text in row]
    return [text for text in (*texts, project.home.config.read_text(encoding="utf-8")) if text]


def _requests(project: Project) -> pl.DataFrame:
    """One row per request: request_id, consent, license (from its tags) and inputs."""
    recorded = project.lake.read("recordings", ["request_id", "tags", "inputs", "recorded_at"]).sort("recorded_at")
    first = recorded.unique("request_id", keep="first", maintain_order=True)
    tags = [_object(text) for text in first["tags"]]
    return first.select("request_id", "inputs").with_columns(
        pl.Series("consent", [tag.get("consent") is True for tag in tags], pl.Boolean),
        pl.Series(
            "license", [tag["license"] if isinstance(tag.get("license"), str) else None for tag in tags], pl.String
        ),
    )


def _facts(project: Project, steps: Sequence[str]) -> "Facts":
    """What a dataset card tells of these steps (none: all). Sources are counted by format: `journal`, `langfuse`, …"""
    from qbawa.datasets.exports.card import Facts

    lake = project.lake
    here = pl.col("step").is_in(list(steps)) if steps else pl.lit(True)
    # A source reads `20261120T231507Z-7232.jsonl (journal)`.
    source = pl.col("source").str.extract(r"\((\w+)\)$").fill_null("unknown")
    recorded = lake.read("recordings", ["request_id", "step", "source"], keep=here)
    sources = recorded.select("request_id", source).unique().group_by("source").len().sort("source")
    return Facts(
        reliability=lake.read("judge_reliability", keep=here).drop("block_id"),
        cost_usd=float(lake.read("calls", ["step", "cost_usd"], keep=here)["cost_usd"].sum()),
        sources=dict(sources.iter_rows()),
        strategies=dict(strategy_names(lake).iter_rows()),
    )


def _object(text: str | None) -> dict[str, object]:
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {}
