"""The stages of the flywheel in their order: each reads the lake, calls the domain, writes the lake.

Replay (`qbawa.replay.run`) and tournaments (`qbawa.brackets.run`) have modules of their own, since they pay.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from qbawa import pictures
from qbawa.brackets.anew import read_anew
from qbawa.brackets.table import StepTable
from qbawa.calibration import calibrate
from qbawa.champions import promotions
from qbawa.errors import InputError, LeakError
from qbawa.exports.card import Facts
from qbawa.exports.dataset import export_dataset
from qbawa.imports.verdicts import import_verdicts
from qbawa.ingest import IngestReport, ingest_batch
from qbawa.ingest.batches import load_batch, pending_batches
from qbawa.ingest.blocks import TABLES as SOURCES
from qbawa.ingest.recorded_prices import RecordedPrices
from qbawa.judges.prompt import check_rubric
from qbawa.pairs.build import PairsReport, build_pairs
from qbawa.position import PositionBias, order_of_matches, position_biases
from qbawa.project import Project
from qbawa.ratings import Effect, RatingFit, fit_ratings
from qbawa.reliability import judge_reliability
from qbawa.replay.cells import state_of, wanted_cells
from qbawa.selection.picture import coverage_picture
from qbawa.selection.replay_set import COLUMNS, choose, replayable_steps
from qbawa.storage.lake import Lake, frame, now
from qbawa.storage.tables import TABLES
from qbawa.strategies import expand, select
from qbawa.strategies.store import read_strategies, write_strategies
from qbawa.strategies.strategy import recorded_strategy
from qbawa.text import shorten

# ── recordings ───────────────────────────────────────────────────────────────────────────────────────────────────────


def new_batches(project: Project) -> list[str]:
    """Names of the batches that the lake does not hold yet, oldest first."""
    return [batch.name for batch in pending_batches(project.lake, project.journals)]


def held_batches(project: Project) -> set[str]:
    """Names of everything that the lake holds whole: batches of segments and imported files."""
    return {block for table in SOURCES for block in project.lake.blocks(table) if not re.search(r"/\d+$", block)}


def ingest(project: Project, batches: Sequence[str]) -> IngestReport:
    """Take batches in, one after the other; the report is their sum."""
    prices = RecordedPrices(project.config.models)
    reports = [ingest_batch(project.lake, load_batch(name, project.journals), prices=prices) for name in batches]
    project.publish()
    reasons: Counter[str] = Counter()
    for report in reports:
        reasons.update(report.by_reason)
    sums = {
        n: sum(getattr(r, n) for r in reports)
        for n in ("lines", "rows", "feedback", "requests", "quarantined", "bytes")
    }
    seconds = sum(report.seconds for report in reports)
    return IngestReport(", ".join(batches), **sums, by_reason=dict(reasons), seconds=seconds)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The replay set after a choice: its rows, why each was chosen, and a picture of the coverage by step."""

    rows: pl.DataFrame
    reasons: dict[str, int]
    pictures: dict[str, bytes]

    @property
    def request_ids(self) -> list[str]:
        return self.rows["request_id"].unique().sort().to_list()


def choose_requests(project: Project) -> Chosen:
    """Choose each step's replay set anew: what was chosen before stays."""
    lake = project.lake
    feedback, previous = lake.read("feedback"), lake.read("replay_set")
    steps = replayable_steps(lake)
    frames, drawn = [previous.clear()], {}
    for step in steps:
        here = pl.col("step") == step
        choice = choose(
            lake.read("recordings", COLUMNS, keep=here), feedback, project.config.replay_set, previous.filter(here)
        )
        frames.append(choice.rows.select(previous.columns))
        drawn[step] = coverage_picture(choice)
    rows = pl.concat(frames)
    lake.replace("replay_set", sorted({*steps, *previous["step"]}), rows)
    project.publish()
    return Chosen(rows, dict(rows.group_by("reason").len().sort("reason").iter_rows()), drawn)


# ── strategies and the matrix ────────────────────────────────────────────────────────────────────────────────────────


def declare_strategies(project: Project) -> pl.DataFrame:
    """All active strategies: those of qbawa.yaml, `recorded` for every step, and those that other stages made.

    A strategy that has left qbawa.yaml becomes inactive; its answers stay.
    """
    lake, config = project.lake, project.config
    for name, judge in config.judges.items():
        check_rubric(judge.rubric, f"judges.{name}.rubric")
    for name, step in config.steps.items():
        check_rubric(step.rubric or "", f"steps.{name}.rubric")
    steps = sorted({*lake.read("replay_set", ["step"])["step"], *(entry.step for entry in config.strategies)})
    write_strategies(lake, [*map(recorded_strategy, steps), *expand(config, project.home.root)])
    project.publish()
    return lake.read("strategies", where="active").sort("step", "name")


def matching_strategies(project: Project, pattern: str) -> list[str] | None:
    """Ids of the strategies that a pattern selects, None for all. Raises InputError where it selects none."""
    if pattern == "*":
        return None
    return [strategy.strategy_id for strategy in select(list(read_strategies(project.lake).values()), pattern)]


def failures_of_run(project: Project, run_id: str) -> pl.DataFrame:
    """Cells (request_id, strategy_id, error) that failed in a run and have not been answered since.

    Refused ones are not among them: nobody can mend them by running again.
    """
    columns = ["request_id", "strategy_id", "error"]
    cells = project.lake.read("replay_matrix", [*columns, "status"], keep=pl.col("run_id") == run_id)
    return cells.filter(state_of() == "failed").select(columns).sort(columns)


def describe_failures(failed: pl.DataFrame) -> str:
    """What failed, in three sentences: how many by reason, one of them in full, and what to do."""
    reasons = Counter(error.split(":", 1)[0] for error in failed["error"])
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    first = failed.row(0, named=True)
    return (
        f"{failed.height} cell{'s' * (failed.height > 1)} failed: {counted}. "
        f"Request '{first['request_id']}' with strategy '{first['strategy_id']}': {shorten(first['error'], 300).rstrip('.')}. "
        "All other answers are kept; once the cause is gone, `qbawa run replay_sweep` takes the failed cells again."
    )


def matrix_picture(project: Project) -> bytes | None:
    """Every cell's state, drawn."""
    cells = wanted_cells(project.lake)
    if cells.is_empty():
        return None
    named = cells.join(_names(project), on="strategy_id").with_columns(name=pl.col("step") + ": " + pl.col("name"))
    return pictures.matrix_map(named, "Replay matrix")


# ── verdicts and ratings ─────────────────────────────────────────────────────────────────────────────────────────────


def bracket_picture(project: Project, request_id: str) -> bytes | None:
    """The matches of one request, drawn."""
    matches = project.lake.read("matches", blocks=[request_id])
    if matches.is_empty():
        return None
    return pictures.bracket(matches, dict(_names(project).iter_rows()), f"Bracket of request {request_id}")


def bracket_counts(project: Project) -> dict[str, dict[str, float]]:
    """Matches, verdicts, unscored and cost_usd of each request's bracket."""
    matches = project.lake.read("matches", ["request_id", "verdicts", "unscored", "cost_usd"])
    sums = matches.group_by("request_id").agg(
        pl.len().alias("matches"), pl.col("verdicts", "unscored", "cost_usd").sum()
    )
    return {row.pop("request_id"): row for row in sums.iter_rows(named=True)}


@dataclass(frozen=True, slots=True)
class HumanReport:
    verdicts: int
    """Human verdicts that the lake holds now."""
    by_file: dict[str, int]
    """Verdicts taken in, by file that was new."""
    refused: dict[str, str]
    """Why a file could not be taken in, by file."""


def human_verdict_files(project: Project) -> list[Path]:
    """Tables of verdicts that people have left in the home."""
    return sorted(
        path
        for path in (project.home.root / "human_verdicts").glob("*")
        if path.suffix in (".csv", ".jsonl", ".parquet")
    )


def take_human_verdicts(project: Project) -> HumanReport:
    """Take in the tables of verdicts that people have left in `human_verdicts/`; what was taken changes nothing.

    A file's name up to the first dot is the step: `summarise.anna.csv`. Where people have judged, all of a step's
    matches are decided anew. A file that is wrong is refused whole; the others are taken.
    """
    taken, refused = {}, {}
    for path in human_verdict_files(project):
        try:
            report = import_verdicts(project.lake, path, path.name.split(".", 1)[0], kind="human")
        except InputError as error:
            refused[path.name] = str(error)
            continue
        if report.changed:
            taken[path.name] = report.written.get("verdicts", 0)
    held = project.lake.read("verdicts", ["step"], where="judge_kind = 'human'")
    for step in held["step"].unique().sort():
        StepTable(project.lake, step, project.config.jury(step), project.config.tournament.seed).decide_anew()
    project.publish()
    return HumanReport(held.height, taken, refused)


def read_verdicts_anew(project: Project) -> int:
    """Read every raw reply of a judge by the present parser and decide anew what changed; how many verdicts did."""
    lake = project.lake
    changed = read_anew(lake, lake.read("verdicts"))
    lake.merge("verdicts", changed)
    for step in changed["step"].unique().sort():
        StepTable(lake, step, project.config.jury(step), project.config.tournament.seed).decide_anew()
    project.publish()
    return changed.height


@dataclass(frozen=True)
class Rated:
    """Ratings of all steps with the strategies' names, what the checks look at, and pictures by step."""

    rows: pl.DataFrame
    fits: dict[str, RatingFit] = field(default_factory=dict)
    order_effects: dict[str, Effect | None] = field(default_factory=dict)
    cancelled: dict[str, int] = field(default_factory=dict)
    """Matches in which place cancels, since judges saw both orders alike."""
    position_biases: dict[str, list[PositionBias]] = field(default_factory=dict)
    """Of the judges that saw answers in an order, most biased first."""
    unscored_shares: dict[str, float] = field(default_factory=dict)
    """Share of the verdicts that count which could not be read; steps without verdicts are left out."""
    separable: dict[str, bool] = field(default_factory=dict)
    """Whether the best strategy can be told from the next."""
    forests: dict[str, bytes] = field(default_factory=dict)
    fronts: dict[str, bytes] = field(default_factory=dict)


def rate_strategies(project: Project) -> Rated:
    """Rate every step's strategies from its matches."""
    lake = project.lake
    fits = _fit_steps(project)
    costs = (
        lake.read("replay_matrix", ["step", "strategy_id", "cost_usd", "latency_s"], where="status = 'ok'")
        .group_by("step", "strategy_id")
        .agg(mean_cost_usd=pl.col("cost_usd").mean(), mean_latency_s=pl.col("latency_s").mean())
    )
    tables = [fit.table.with_columns(step=pl.lit(step), block_id=pl.lit(step)) for step, fit in fits.items()]
    rows = pl.concat(tables) if tables else lake.read("ratings").clear().drop("mean_cost_usd", "mean_latency_s")
    rows = rows.join(costs, on=["step", "strategy_id"], how="left")
    lake.replace("ratings", sorted({*rows["step"], *lake.blocks("ratings")}), rows)
    project.publish()
    named = rows.join(_names(project), on="strategy_id", how="left").with_columns(
        pl.col("name").fill_null(pl.col("strategy_id"))
    )
    by_step = {str(step): table for (step,), table in named.group_by("step", maintain_order=True)}
    jury, columns = project.config.jury, ["match_id", "judge", "judge_kind", "shown_first", "verdict", "preference"]
    said = {step: lake.read("verdicts", columns, keep=pl.col("step") == step) for step in fits}
    counted = lake.read("matches", ["step", "verdicts", "unscored"]).group_by("step").sum().sort("step")
    return Rated(
        rows=named,
        fits=fits,
        order_effects={step: fit.order_effect for step, fit in fits.items()},
        cancelled={s: order_of_matches(v, jury(s)).filter(pl.col("order") == 0).height for s, v in said.items()},
        position_biases={s: position_biases(v, jury(s)) for s, v in said.items()},
        unscored_shares={step: lost / (read + lost) for step, read, lost in counted.iter_rows() if read + lost},
        separable={s: t.filter(pl.col("separable_group") == 1).height == 1 for s, t in by_step.items()},
        forests={s: pictures.forest(t, f"Strategies of step '{s}'") for s, t in by_step.items()},
        fronts={s: pictures.cost_against_strength(t, f"Cost against strength, step '{s}'") for s, t in by_step.items()},
    )


def judge_judges(project: Project) -> pl.DataFrame:
    """How far each judge of each step can be trusted."""
    lake, config = project.lake, project.config
    models = dict(lake.read("strategies", ["strategy_id", "model"]).drop_nulls().iter_rows())
    rows = judge_reliability(
        _in_order(lake, "verdicts"),
        rated_matches(project),
        strategy_families={strategy: config.family(model) for strategy, model in models.items()},
        judge_families={name: config.family(judge.model) for name, judge in config.judges.items()},
        threshold=config.tournament.gate,
    )
    lake.replace(
        "judge_reliability",
        sorted({*rows["step"], *lake.blocks("judge_reliability")}),
        rows.with_columns(block_id="step"),
    )
    project.publish()
    return rows


# ── pairs, datasets, champions ───────────────────────────────────────────────────────────────────────────────────────


def build_qbawa(project: Project) -> PairsReport:
    """Build every step's pairs anew; splits that were given stay."""
    lake = project.lake
    matches, verdicts, cells = (
        _in_order(lake, "matches"),
        _in_order(lake, "verdicts"),
        _in_order(lake, "replay_matrix"),
    )
    asked = questions(project, cells.select("step", "request_id").unique())
    splits = lake.read("qbawa", ["request_id", "split"])
    removed: Counter[str] = Counter()
    frames = [lake.read("qbawa").clear()]
    effects: dict[str, float] = {}
    at = now()
    for step in cells["step"].unique().sort():
        here = pl.col("step") == step
        report = build_pairs(
            matches.filter(here),
            verdicts.filter(here),
            cells.filter(here),
            asked.filter(here),
            project.config.pairs,
            calibrate(verdicts.filter(here)),
            previous=splits,
            built_at=at,
        )
        # A request has one split, whichever of its steps is asked first.
        splits = pl.concat([splits, report.pairs.select("request_id", "split")]).unique(
            "request_id", keep="first", maintain_order=True
        )
        frames.append(report.pairs.select(frames[0].columns))
        removed.update(report.removed)
        effects |= report.effect
    pairs, known = pl.concat(frames), lake.read("qbawa")
    # The same pairs built again are the pairs that were built before, and no new version of the table.
    if pairs.drop("built_at").sort("pair_id").equals(known.drop("built_at").sort("pair_id")):
        pairs = known
    lake.replace("qbawa", sorted({*pairs["block_id"], *known["block_id"]}), pairs)
    project.publish()
    return PairsReport(pairs, dict(removed), effects)


def questions(project: Project, asked: pl.DataFrame) -> pl.DataFrame:
    """What was asked: one row per (step, request_id) of `asked`, with question (JSON messages) and cluster.

    The question is the recorded messages or, where there are none, one user message that holds the inputs.
    """
    lake = project.lake
    recorded = (
        lake.read("recordings", ["step", "request_id", "recorded_at", "messages", "inputs"])
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
            recorded.select("step", "request_id", pl.Series("question", shown, pl.String)),
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


def export_datasets(project: Project, names: Sequence[str] | None = None) -> Exported:
    """Write the datasets that qbawa.yaml declares, or those of `names`; a version that is there already stays as it is.

    Raises InputError for a name that is not declared. A dataset that is empty or leaks is refused; the others are written.
    """
    lake, declared = project.lake, project.config.datasets
    for name in names or ():
        if name not in declared:
            raise InputError(f"qbawa.yaml declares no dataset '{name}'. Declared: {', '.join(declared) or 'none'}.")
    pairs, versions = lake.read("qbawa").drop("block_id"), lake.versions()
    requests = _requests(project)
    rows, refused = [], {}
    for name in names or declared:
        try:
            report = export_dataset(
                pairs,
                name,
                declared[name],
                project.home.exports,
                versions,
                requests=requests,
                facts=_facts(project, declared[name].steps),
            )
        except (LeakError, InputError) as error:
            refused[name] = str(error)
            continue
        rows.append(
            {
                "dataset": name,
                "version": report.version,
                "format": report.format,
                "path": str(report.path),
                "rows": sum(report.rows.values()),
                "sha256": report.sha256,
                "lake_versions": json.dumps(report.lake_versions, sort_keys=True),
                "pair_ids": report.pair_ids,
                "request_ids": report.request_ids,
                "created_at": now(),
                "block_id": name,
            }
        )
    exported = frame("datasets", rows)
    known = lake.read("datasets", ["dataset", "version"])
    lake.merge("datasets", exported.join(known, on=["dataset", "version"], how="anti"))
    project.publish()
    return Exported(exported, refused)


def promote(project: Project) -> pl.DataFrame:
    """New champions, if any: rows of the table `champions`."""
    lake = project.lake
    rows = frame(
        "champions",
        list(promotions(_fit_steps(project), lake.read("ratings"), lake.read("champions"), project.config.champions)),
    )
    lake.merge("champions", rows)
    project.publish()
    return rows


def maintain(project: Project) -> dict[str, dict[str, int]]:
    """Compact the lake and publish the catalog; says what was done, by table."""
    done = project.lake.maintain()
    project.publish()
    return done


def rated_matches(project: Project) -> pl.DataFrame:
    """Matches with what the ratings fit beside strength: the order in which judges saw the answers (1 where all saw a
    first, −1 where all saw b), and the lengths of both answers."""
    lake = project.lake
    said = lake.read("verdicts", ["step", "match_id", "judge", "judge_kind", "shown_first", "verdict"])
    steps = said.partition_by("step", as_dict=True).items()
    orders = [order_of_matches(of_step, project.config.jury(str(step))) for (step,), of_step in steps]
    order = pl.concat(orders or [order_of_matches(said, ())])
    lengths = lake.read("replay_matrix", ["cell_id", "answer"], where="sample = 0").select(
        "cell_id", length=pl.col("answer").str.len_chars().cast(pl.Int64)
    )
    matches = _in_order(lake, "matches").join(order, on="match_id", how="left", maintain_order="left")
    for side in ("a", "b"):
        renamed = lengths.rename({"cell_id": f"cell_{side}", "length": f"length_{side}"})
        matches = matches.join(renamed, on=f"cell_{side}", how="left", maintain_order="left")
    return matches


def _in_order(lake: Lake, table: str, where: str | None = None) -> pl.DataFrame:
    """The table's rows by key. Sums of floats depend on their order, which in the lake is that of writing."""
    return lake.read(table, where=where).sort(TABLES[table].key)


def _fit_steps(project: Project) -> dict[str, RatingFit]:
    matches, length = rated_matches(project), project.config.tournament.length_effect
    return {str(s): fit_ratings(m, length_effect=length) for (s,), m in matches.group_by("step", maintain_order=True)}


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


def _facts(project: Project, steps: Sequence[str]) -> Facts:
    """What a dataset card tells of these steps (none: all). Sources are counted by format: `journal`, `langfuse`, …"""
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
        strategies=dict(_names(project).iter_rows()),
    )


def _object(text: str | None) -> dict[str, object]:
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {}


def _names(project: Project) -> pl.DataFrame:
    return project.lake.read("strategies", ["strategy_id", "name"])
